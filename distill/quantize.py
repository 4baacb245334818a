"""quantize: the files for deployment, each loaded back in the runtime that people will use.

    quantize/<format>.gguf     for llama.cpp, Ollama, LM Studio
    quantize/imatrix.gguf        the importance matrix that they were quantized with, in llama.cpp's format
    quantize/<nf4|int8>/       for transformers with bitsandbytes
    quantize/w16a16/           for transformers and vLLM: the student in 16 bits, always written
    quantize/w4a16/            for vLLM, and for transformers with compressed-tensors
    quantize/<format>.Modelfile  for Ollama; Modelfile alone is the smallest file that passed its check
    quantize/<format>.json     its check: size, tokenization, NLL, agreement with the 16-bit student, memory and speed

A file whose tokenization differs from the student's by one token, or an f16 file that does not agree with the student,
is an error: something in the export is wrong, not merely rounded. Where no f16 file is wanted one is written for that check alone.
"""

import json
import math
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distill import chat
from distill.core import shutdown
from distill.core.files import FolderWriter, files_under, fsync_folder, write_atomic
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import FileCheck, QuantizeResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Sample, read_samples, split_samples
from distill.errors import MismatchError
from distill.formats.compare import SAME_WEIGHTS, Reference, in_llama_cpp, in_transformers, refer_to
from distill.formats.gguf.modelfile import write_modelfiles
from distill.models import find, load
from distill.models.sequences import TokenSequence
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.recipe.sections import BITSANDBYTES, FOLDERS, W16A16, Quantize

# Of positions where the likeliest token leads clearly: an f16 file against the student, a recovered file against the trained model
SAME_TOP_TOKEN = 0.995
SAME_FILE_KL = 0.002  # llama.cpp rounds activations to 8 bits where weights are quantized; another grid costs more
OWN_PROBES, LONGEST_PROBE = (
    3,
    2000,
)  # samples of each language that tokenizers are compared on; characters of each
UNWEIGHTED = ("f16", "bf16", "q8_0", "tq2_0")  # ggml does not look at the importance of these


@dataclass(frozen=True)
class Work:
    """What every file is made from and compared with."""

    recipe: Recipe
    folder: RunFolder
    student: Path
    tokenizer: Any

    @property
    def stage(self) -> Path:
        return self.folder.stage("quantize")

    @cached_property
    def samples(self) -> tuple[list[Sample], list[Sample]]:
        """(those that the student learnt from, unseen ones)."""
        kept = read_samples(self.folder.stage("generate") / "kept.jsonl")
        return split_samples(kept, self.recipe.train.validation_share)

    @cached_property
    def reference(self) -> Reference:
        """The student itself on unseen samples."""
        unseen = self.samples[1][: self.recipe.quantize.num_sequences]
        return refer_to(
            self.load_student(),
            unseen,
            self.tokenizer,
            self.recipe.teacher.batch_tokens,
            self.distributions,
        )

    @property
    def distributions(self) -> Path:
        return self.stage / "student_distributions.npy"

    @cached_property
    def probes(self) -> list[str]:
        """Texts on which a file's tokenizer must agree with the student's: what is known to be hard, and this run's own samples in
        each of its languages."""
        own = [
            s
            for code in self.recipe.languages
            for s in [s for s in self.samples[0] if s.language == code][:OWN_PROBES]
        ]
        return [
            *chat.PROBES.values(),
            *(text[:LONGEST_PROBE] for s in own for text in (s.prompt, s.answer)),
        ]

    def load_student(self) -> Any:
        return load.load_model(str(self.student), load.placement("auto", "float32"))

    def learnt(self, count: int | None = None) -> list[TokenSequence]:
        """The first `count` samples that the student learnt from, even over the languages: the check samples stay unseen."""
        return [
            TokenSequence(s.ids, len(s.prompt_ids))
            for s in even_over_languages(self.samples[0], count)
        ]


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    stage = folder.stage("quantize")
    student = folder.stage("train") / "student"
    work = Work(recipe, folder, student, load.load_tokenizer(str(student)))
    _clear(stage)
    measured: dict[str, Any] = {}
    names = [W16A16, *recipe.quantize.formats]
    with Progress("quantize", len(names), "files") as bar:
        for name in names:
            check_file = stage / f"{name}.json"
            if not check_file.is_file():
                if name not in FOLDERS:
                    _try_export(work)
                write_atomic(check_file, json.dumps(_write_and_check(work, name), indent=1))
            measured[name] = json.loads(check_file.read_text())
            if note := measured[name].get("note"):
                print(f"quantize: {name}: {note}", flush=True)
            bar.advance(1, note=name)
            shutdown.check()
    work.distributions.unlink(missing_ok=True)
    checks = {name: _judged(name, check, recipe.quantize) for name, check in measured.items()}
    files = [
        p for name in checks for p in [stage / f"{name}.json", *_files_of(folder.quantized(name))]
    ]
    if _importance_file(folder).is_file():
        files.append(_importance_file(folder))
    files += write_modelfiles(recipe, student, work.tokenizer, checks, stage)
    return StageOutput(QuantizeResult(checks, _weight_bytes(student)), files)


def _judged(name: str, check: dict[str, Any], gates: Quantize) -> FileCheck:
    """Return what was measured, and which gate the file does not pass, if any."""
    reason = failure(check, gates)
    if reason:
        print(f"quantize: {name} FAILED: {reason}", file=sys.stderr, flush=True)
    return TypeAdapter(FileCheck).validate_python(check | {"failed": reason})


def _clear(stage: Path) -> None:
    """Remove what a run that was killed left half done."""
    for pattern in (".*.latent", ".recovered.*", ".export.gguf", "*_distributions.npy"):
        for place in stage.glob(pattern):
            _remove(place)


def failure(check: dict[str, Any], gates: Quantize) -> str | None:
    """Why a file must not be deployed, or None."""
    found = []
    if (share := check["top_token_agreement"]) < gates.min_top_token_share:
        found.append(
            f"the student's likeliest token at {share:.1%} of positions, quantize.min_top_token_share is "
            f"{gates.min_top_token_share:.1%}"
        )
    if gates.max_kl is not None and not check["kl"] <= gates.max_kl:  # a KL that is no number, too
        error = f" (± {check['kl_error']:.4f})" if "kl_error" in check else ""
        found.append(
            f"{check['kl']:.4f} nats a token{error} from the student, quantize.max_kl is {gates.max_kl:g}"
        )
    return "; ".join([*found, "take a larger format, or train longer"]) if found else None


def _files_of(place: Path) -> list[Path]:
    return files_under(place) if place.is_dir() else [place]


def _weight_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def _write_and_check(work: Work, name: str) -> dict[str, Any]:
    importance = _importance(work) if name not in (*UNWEIGHTED, *FOLDERS) else None
    if name == W16A16:
        return _w16a16(work, work.folder.quantized(name))
    if name == "mixed":
        return _mixed(work, importance)
    check = _plain(work, name, work.student, work.folder.quantized(name), importance)
    return (
        _recovered(work, name, importance, check) if name in work.recipe.quantize.recover else check
    )


def _plain(
    work: Work, name: str, model_folder: Path, place: Path, importance: Any
) -> dict[str, Any]:
    """Write `model_folder` to `place` in this format; what was found out about it."""
    if name in FOLDERS:
        return _folder(work, name, model_folder, place)
    return _gguf(work, name, model_folder, place, importance)


def _recovered(work: Work, name: str, importance: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """The better of the plain file and one after quantization-aware distillation, which takes its place; both checks."""
    from distill.formats import rounding
    from distill.training.recover import RecoveryPlan, recover, with_rounded_weights

    model, options = work.load_student(), work.recipe.quantize
    is_gguf = name not in BITSANDBYTES
    roundings = (
        rounding.gguf_roundings(work.student, name, importance)
        if is_gguf
        else rounding.nf4_roundings(model)
    )
    recover(
        model,
        work.learnt(),
        roundings,
        RecoveryPlan(options.recover_steps, options.recover_learning_rate, work.recipe.seed),
        pad_id=work.tokenizer.pad_token_id,
        vocab_size=len(work.tokenizer),
        label=f"recover {name}",
    )
    place = work.folder.quantized(name)
    latent, other = work.stage / f".{name}.latent", place.with_name(f".recovered.{place.name}")
    with FolderWriter(latent) as temporary:
        for path in work.student.iterdir():
            if path.suffix not in (".safetensors", ".tmp") and path.is_file():
                shutil.copy2(path, temporary)
        model.save_pretrained(temporary)
    found = _plain(work, name, latent, other, importance)
    shutil.rmtree(latent)
    with with_rounded_weights(model, roundings):
        same = _require_same(work, model, name, other)
    better = found["kl"] < plain["kl"] and found["nll"] <= plain["nll"]
    if better:
        _take_place(other, place)
    else:
        _remove(other)
    figures = ("kl", "nll_change", "top_token_agreement")
    both = {
        word: {key: check[key] for key in figures}
        for word, check in (("plain", plain), ("recovered", found))
    }
    kept = "recovered" if better else "plain"
    recovery = {**both, "kept": kept, "same_top_token_as_trained": same}
    return (found if better else plain) | {
        "recovery": recovery,
        "note": recovery_note(**both, kept=kept),
    }


def recovery_note(*, plain: Mapping[str, float], recovered: Mapping[str, float], kept: str) -> str:
    """What recovery did, in a line for the terminal and the report."""
    figures = f"KL {plain['kl']:.5f} to {recovered['kl']:.5f}, NLL change {plain['nll_change']:+.5f} to {recovered['nll_change']:+.5f}"
    if kept == "plain":
        return f"recovery did not help ({figures}): the plain file is kept"
    return f"recovery won back {1 - recovered['kl'] / plain['kl']:.0%} of the KL ({figures})"


def _require_same(work: Work, model: Any, name: str, file: Path) -> float:
    """The share of positions where the file has the likeliest token of the model with rounded weights that was trained.

    Raises MismatchError where it does not say what that model says: then it was trained on another grid.
    """
    path, samples, batch_tokens = (
        work.stage / "rounded_distributions.npy",
        work.reference.samples,
        work.recipe.teacher.batch_tokens,
    )
    trained = refer_to(model, samples, work.tokenizer, batch_tokens, path)
    if name in FOLDERS:
        from distill.formats import measure

        found = in_transformers(trained, measure.load(name, file), work.tokenizer, batch_tokens)
    else:
        found = _in_llama_cpp(work, trained, file)
    path.unlink()
    if found["top_token_agreement_without_ties"] < SAME_TOP_TOKEN and found["kl"] > SAME_FILE_KL:
        raise MismatchError(
            f"{file}: the likeliest token of the model that was trained at {found['top_token_agreement_without_ties']:.1%} of the "
            f"positions where that leads clearly, and {found['kl']:.4f} nats from it: it was trained on another grid than the file's. "
            "Please report this model"
        )
    return found["top_token_agreement"]


def _in_llama_cpp(work: Work, reference: Reference, file: Path) -> dict[str, Any]:
    from distill.llama_cpp.process import LlamaProcess

    longest = max(len(s.ids) for s in reference.samples)
    with LlamaProcess(
        file, num_threads=work.recipe.quantize.num_threads, context_length=longest + 8
    ) as llama:
        return in_llama_cpp(reference, llama)


def _try_export(work: Work) -> None:
    """Before the first GGUF file, where no f16 file is wanted: `_require_right_export` of one that is written for that alone."""
    from distill.formats.gguf.write import write_gguf

    formats = [name for name in work.recipe.quantize.formats if name not in FOLDERS]
    if "f16" in formats or any((work.stage / f"{name}.json").is_file() for name in formats):
        return
    file = work.stage / ".export.gguf"
    write_gguf(work.student, file, "f16", metadata={})
    check = _in_llama_cpp(work, work.reference, file)
    file.unlink()
    _require_right_export(work, check)


def _require_right_export(work: Work, f16: Mapping[str, float]) -> None:
    """Raise MismatchError where an f16 file of the student does not say what the student says: everything but the rounding of the
    other files is then wrong, too."""
    apart, share = f16["max_logp_difference"], f16["top_token_agreement_without_ties"]
    if apart < SAME_WEIGHTS and share >= SAME_TOP_TOKEN:
        return
    raise MismatchError(
        f"{work.student}: as an f16 file it differs from itself by up to {apart:.3f} in log-probability (below {SAME_WEIGHTS:g}), and "
        f"has the same likeliest token at {share:.1%} of the positions where that leads clearly (at least {SAME_TOP_TOKEN:.1%}); the "
        f"export of this architecture is wrong. Take {', '.join(f for f in FOLDERS if f != W16A16)}, which transformers runs, or "
        "no format (quantize.formats: []), and please report this model"
    )


def _take_place(other: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    other.replace(place)
    fsync_folder(place.parent)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def _importance_file(folder: RunFolder) -> Path:
    return folder.stage("quantize") / "imatrix.gguf"


def _importance(work: Work) -> Any:
    """The importance matrix, measured once; None if not wanted."""
    from distill.formats.gguf import imatrix
    from distill.formats.gguf.write import ARCHITECTURES

    path, count = _importance_file(work.folder), work.recipe.quantize.importance_sequences
    if not count:
        return None
    if not path.is_file():
        chosen, model = work.learnt(count), work.load_student()
        name = model.config.architectures[0]
        if name not in ARCHITECTURES:
            return None  # write_gguf refuses it, and says why
        sums, num_tokens = imatrix.collect(model, [s.ids for s in chosen], ARCHITECTURES[name])
        imatrix.write(path, sums, num_tokens, len(chosen), "generate/kept.jsonl")
    return imatrix.read(path)


def even_over_languages(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    """The first `count` samples (None: all), taken from each language in turn."""
    seen: Counter[str] = Counter()
    turns = []
    for sample in samples:
        turns.append((seen[sample.language], sample.language, len(turns)))
        seen[sample.language] += 1
    return [samples[number] for _, _, number in sorted(turns)[:count]]


def _mixed(work: Work, importance: Any) -> dict[str, Any]:
    """The file within quantize.budget_mb."""
    from distill.formats import mixed
    from distill.formats.gguf.provenance import lineage
    from distill.formats.gguf.tensor_types import file_type_of
    from distill.formats.gguf.write import tensors_of, write_gguf

    options, place = work.recipe.quantize, work.folder.quantized("mixed")
    tensors = tensors_of(work.student, mixed.STOCK[-1])
    stock = {
        name: {t.name: t.type for t in tensors_of(work.student, name) if len(t.shape) == 2}
        for name in mixed.STOCK
    }
    # shows how much a file holds beside its tensors
    smallest = write_gguf(
        work.student,
        place,
        mixed.STOCK[-1],
        metadata=lineage(work.recipe),
        importance=importance,
        trained=work.recipe.generate,
    )
    place.unlink()
    most = int((options.budget_mb or 0) * 1e6)
    room = most - (smallest.bytes - mixed.bytes_of(tensors, {t.name: t.type for t in tensors}))
    judge = mixed.Judge(
        work.load_student(),
        work.learnt(options.num_sequences),
        work.recipe.teacher.batch_tokens,
        work.tokenizer.pad_token_id,
        len(work.tokenizer),
    )
    with Progress(
        "choose types", len(stock[mixed.STOCK[0]]) + 1 + len(mixed.STOCK), "tensors"
    ) as bar:
        chosen = mixed.choose(
            judge, tensors, stock, importance or {}, room, lambda _: bar.advance(1)
        )
    check = _gguf(
        work, file_type_of(chosen.types.values()), work.student, place, importance, chosen.types
    )
    if check["bytes"] > most:
        raise MismatchError(
            f"{place}: {check['bytes']:,} bytes, quantize.budget_mb allows {most:,}: the sizes were reckoned wrong"
        )
    nats = {name: round(value, 6) for name, value in chosen.nats.items()}
    compared = ", ".join(
        f"{name} {value:.5f}" for name, value in sorted(nats.items(), key=lambda item: item[1])
    )
    note = f"of what fits into {options.budget_mb:g} MB, {chosen.name} is nearest to the student (KL on training samples: {compared})"
    return check | {
        "budget_mb": options.budget_mb,
        "chosen": chosen.name,
        "kl_of_choices": nats,
        "note": note,
    }


def _gguf(
    work: Work,
    name: str,
    model_folder: Path,
    place: Path,
    importance: Any,
    types: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    from distill.formats.gguf.provenance import lineage
    from distill.formats.gguf.write import write_gguf
    from distill.llama_cpp.model import NUM_NEW_TOKENS, NUM_PROMPT_TOKENS
    from distill.llama_cpp.process import LlamaProcess

    written = write_gguf(
        model_folder,
        place,
        name,
        metadata=lineage(work.recipe),
        importance=importance,
        types=types,
        trained=work.recipe.generate,
    )
    context_length = (
        max(NUM_PROMPT_TOKENS + NUM_NEW_TOKENS, *(len(s.ids) for s in work.reference.samples)) + 8
    )
    with LlamaProcess(
        place, num_threads=work.recipe.quantize.num_threads, context_length=context_length
    ) as llama:
        speed, peak_memory = llama.speed(), llama.peak_memory()
        # llama.cpp does not normalise text, the tokenizer does: the two agree on text that is NFC already
        probes = [unicodedata.normalize("NFC", text) for text in work.probes]
        for text, found in zip(probes, llama.tokenize(probes), strict=True):
            expected = work.tokenizer(
                text, add_special_tokens=False, split_special_tokens=True
            ).input_ids
            if found != expected:
                raise MismatchError(
                    f"{place}: llama.cpp tokenizes {text!r} as {found}, the student's tokenizer as {expected}; the file "
                    "would answer wrongly. Please report this tokenizer"
                )
        check = in_llama_cpp(work.reference, llama)
    if name == "f16" and types is None:
        _require_right_export(work, check)
    return {
        "bytes": written.bytes,
        "importance_matrix": importance is not None,
        "bits_per_weight": round(written.bits_per_weight, 2),
        "tensor_types": written.tensor_types,
        "runtime": "llama.cpp",
        "tokenization": f"identical on {len(probes)} probes (NFC)",
        **check,
        "peak_memory": peak_memory,
        "prefill_speed": round(speed.prefill, 1),
        "decode_speed": round(speed.decode, 1),
    }


def _w16a16(work: Work, place: Path) -> dict[str, Any]:
    from distill.formats import w16a16

    check: dict[str, Any] = {}
    for dtype in w16a16.dtypes(work.student):
        with FolderWriter(place) as temporary:
            w16a16.write_w16a16(work.student, temporary, dtype)
        check = _check_folder(work, W16A16, place, "transformers")
        if math.isfinite(check["nll"]):
            break
        print(
            f"quantize: {place.name}: {dtype} does not hold the numbers of this student",
            file=sys.stderr,
            flush=True,
        )
    return check | {"tensor_types": w16a16.tensor_types(place)}


def _folder(work: Work, name: str, model_folder: Path, place: Path) -> dict[str, Any]:
    from distill.formats.bitsandbytes import write_bnb
    from distill.formats.w4a16 import write_w4a16

    with FolderWriter(place) as temporary:
        if name in BITSANDBYTES:
            write_bnb(model_folder, temporary, name)
        else:
            write_w4a16(
                model_folder,
                temporary,
                [s.ids for s in work.learnt(work.recipe.quantize.importance_sequences)],
            )
    return _check_folder(
        work,
        name,
        place,
        f"transformers + {'bitsandbytes' if name in BITSANDBYTES else 'compressed-tensors'}",
    )


def _check_folder(work: Work, name: str, place: Path, runtime: str) -> dict[str, Any]:
    """What was found out about a folder."""
    from distill.formats import measure

    probes = {str(n): text for n, text in enumerate(work.probes)}
    if difference := chat.same_tokenizer(work.tokenizer, load.load_tokenizer(str(place)), probes):
        raise MismatchError(
            f"{place}: its tokenizer is not the student's: {difference}. Please report this tokenizer"
        )
    num_bytes, measured = _weight_bytes(place), measure.measure(name, place)
    return {
        "bytes": num_bytes,
        "bits_per_weight": round(8 * num_bytes / find.num_parameters(work.student), 2),
        "runtime": runtime,
        "tokenization": f"identical on {len(work.probes)} probes",
        **in_transformers(
            work.reference,
            measure.load(name, place),
            work.tokenizer,
            work.recipe.teacher.batch_tokens,
        ),
        "peak_memory": measured.peak_memory,
        "prefill_speed": round(measured.prefill, 1),
        "decode_speed": round(measured.decode, 1),
    }


def fingerprint(recipe: Recipe) -> Fingerprint:
    return Fingerprint({"quantize": recipe.quantize.identity()})


# bytes on disk of one weight; those of `mixed` follow from its budget
BYTES_PER_WEIGHT = {
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 1.06,
    "int8": 1.1,
    "q6_k": 0.82,
    "q5_k_m": 0.71,
    "q4_k_m": 0.61,
    "q4_0": 0.57,
    "iq4_nl": 0.57,
    "q3_k_m": 0.53,
    "q2_k": 0.45,
    "tq2_0": 0.37,
    "nf4": 0.7,
    "w4a16": 0.7,
    W16A16: 2.0,
}


def cost(work: Workload) -> Cost:
    """Reckon the writing and checking of every file, the choice of types, and recovery."""
    options, student, flops = work.recipe.quantize, work.student, work.machine.flops
    names = [W16A16, *options.formats]
    sizes = BYTES_PER_WEIGHT | {"mixed": (options.budget_mb or 0) * 1e6 / student.parameters}
    seconds = sum(2 + 6 * (name in FOLDERS) + student.parameters / 2e7 for name in names)
    bytes_per_weight = 6  # in memory
    if "mixed" in options.formats:  # a forward pass over the samples for each tensor
        tokens = options.num_sequences * (work.demand.prompt + work.demand.answer)
        seconds += 7 * student.layers * tokens * 2 * student.parameters / flops
        bytes_per_weight = 10
    if options.recover:
        # forward twice, backward, and the rounding of every weight each fourth step
        steps = len(options.recover) * options.recover_steps
        seconds += steps * 2048 * 10 * student.parameters / flops
        bytes_per_weight = max(bytes_per_weight, 28)
    return Cost(
        PROCESS_BYTES + bytes_per_weight * student.parameters,
        seconds,
        disk=sum(sizes[name] for name in names) * student.parameters,
    )


STAGE = Stage(
    "quantize",
    "write the files for deployment and load each one back",
    run,
    QuantizeResult,
    fingerprint,
    reads=("generate", "train"),
    cost=cost,
)
