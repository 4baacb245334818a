"""What the signal of a teacher is, and those of several teachers together."""

from collections.abc import Mapping, Sequence

from distill.core.results import CaptureResult, TeacherSignal
from distill.core.run_folder import StageOutput
from distill.errors import MismatchError
from distill.recipe import Recipe
from distill.teachers.base import Teacher
from distill.teachers.listening import hidden_size_of
from distill.teachers.routes import Route


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
        precision="; ".join(f"{n}: {r.precision}" for n, r in results.items() if r.precision)
        or None,
        teachers=sorted([*shares, *text_alone], key=lambda share: order.index(share.name)),
    )
    return StageOutput(result, [path for output in outputs.values() for path in output.files])
