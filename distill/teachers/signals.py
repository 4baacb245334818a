"""What the signal of a teacher is, and those of several teachers together."""

from collections.abc import Mapping, Sequence

from distill import chat
from distill.core.digests import canonical_json, digest
from distill.core.results import CaptureResult, TeacherSignal
from distill.core.run_folder import StageOutput
from distill.errors import MismatchError, RecipeError
from distill.models import find
from distill.recipe import Recipe
from distill.recipe.rules import fewer_ids_problem
from distill.shaping.trimmed import TrimmedVocabulary
from distill.signals.header import SignalHeader
from distill.teachers.base import Teacher
from distill.teachers.routes import Route


def header_of(teacher: Teacher, trimmed: TrimmedVocabulary | None = None) -> SignalHeader:
    """Return what the signal is and whose: compared field by field before anyone trains on it.

    `trimmed`: what the student has of the teacher's tokenizer. Raises RecipeError where that is too
    little for the signal.
    """
    options = teacher.recipe.capture
    tokenizer = teacher.tokenizers.asked if trimmed is None else trimmed.tokenizer
    dtype, quantization = teacher.precision()
    assert options.signal != "none"
    vocab_size = len(tokenizer)
    fingerprints = {
        "teacher": teacher.identity,
        "teacher_dtype": dtype,
        "teacher_quantization": quantization,
        "tokenizer": chat.fingerprint_of_tokenizer(tokenizer),
        "chat_template": chat.fingerprint_of_template(tokenizer),
    }
    if trimmed is not None:
        fingerprints["parent_ids"] = digest(canonical_json(list(trimmed.parent_ids)))
        if problem := fewer_ids_problem(options, vocab_size):
            raise RecipeError(f"{teacher.recipe.source}: {problem}")
    return SignalHeader(
        kind=options.signal,
        vocab_size=vocab_size,
        num_draws=options.num_draws if options.signal == "sampled" else None,
        top_k=min(options.top_k, vocab_size - 1) if options.signal == "top_k" else None,
        hidden_size=hidden_size_of(teacher) if options.hidden_states == "int8" else None,
        fingerprints=fingerprints,
    )


def hidden_size_of(teacher: Teacher) -> int:
    """Return the width of the teacher's hidden states.

    Where a config has parts it is that of its language model.
    """
    config = find.read_config(teacher.location, teacher.recipe.teacher.revision)
    return (config.get("text_config") or config)["hidden_size"]


def require_one_width(routes: Sequence[Route], teachers: Sequence[Teacher]) -> None:
    """Raise MismatchError where hidden states are of teachers of different widths.

    The student learns them through one projection.
    """
    if len(routes) == 1 or routes[0].recipe.whole.capture.hidden_states == "none":
        return
    pairs = [(r, t) for r, t in zip(routes, teachers, strict=True) if r.gives_signal]
    widths = {route.name: hidden_size_of(teacher) for route, teacher in pairs}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width:,}" for name, width in widths.items())
        raise MismatchError(
            f"{routes[0].recipe.source}: capture.hidden_states int8: the teachers' hidden states have "
            f"different widths ({told}): set hidden_states to none and train.hidden_weight to 0, or "
            "gives: text for all teachers of another width"
        )


def joined(
    recipe: Recipe, outputs: Mapping[str, StageOutput], text_alone: Sequence[TeacherSignal]
) -> StageOutput:
    """Return the output of capture from those of the teachers that give a signal, and the others."""
    results: dict[str, CaptureResult] = {name: o.result for name, o in outputs.items()}
    shares = [
        TeacherSignal(
            name,
            r.num_sequences,
            r.num_tokens,
            r.num_bytes,
            r.folder,
            r.num_unknown,
            None,
            r.removed_mass_mean,
            r.removed_mass_p99,
            r.split_loss,
        )
        for name, r in results.items()
    ]
    first = next(iter(results.values()))
    num_tokens = sum(share.num_tokens for share in shares)
    num_bytes = sum(share.num_bytes for share in shares)
    order = [view.route for view in recipe.views]
    result = CaptureResult(
        signal=first.signal,
        num_sequences=sum(share.num_sequences for share in shares),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        bytes_per_token=round(num_bytes / max(num_tokens, 1), 2),
        vocab_size=first.vocab_size,
        hidden_size=first.hidden_size,
        num_unknown=sum(share.num_unknown for share in shares),
        teachers=sorted([*shares, *text_alone], key=lambda share: order.index(share.name)),
    )
    return StageOutput(result, [path for output in outputs.values() for path in output.files])
