"""quantize: the files for deployment, each loaded back in the runtime that people will use.

    quantize/<format>.gguf     for llama.cpp, Ollama, LM Studio
    quantize/imatrix.gguf        the importance matrix that they were quantized with, in llama.cpp's format
    quantize/<nf4|int8>/       for transformers with bitsandbytes
    quantize/w4a16/            for vLLM, and for transformers with compressed-tensors
    quantize/<format>.Modelfile  for Ollama; Modelfile alone is the smallest file that passed its check
    quantize/<format>.json     its check: size, tokenization, NLL, agreement with the 16-bit student, memory and speed

A file whose tokenization differs from the student's by one token, or an f16 file that does not agree with the student,
is an error: something in the export is wrong, not merely rounded.
"""

import json
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import interrupts
from distill.errors import MismatchError
from distill.export.agreement import Reference, in_llama_cpp, in_transformers, refer_to
from distill.export.modelfile import write_modelfiles
from distill.models import load
from distill.progress import Progress
from distill.recipe import Recipe
from distill.rows import fsync_folder, write_atomic
from distill.run_folder import FolderWriter, RunFolder, StageOutput, files_under
from distill.sections import BITSANDBYTES, FOLDERS, Quantize
from distill.text import chat
from distill.text.samples import Sample, read_samples, split_samples

# An f16 file that is right is within both; a student that has learnt nothing has ties, which rounding may turn
F16_AGREEMENT = 0.995
F16_DIFFERENCE = 0.02
# The recovered file against the model that was trained: llama.cpp rounds activations to 8 bits where weights are quantized
SAME_FILE, SAME_FILE_KL = 0.995, 0.01
RECOVER_LEARNING_RATES = {"tq2_0": 1e-3, "q2_k": 3e-4, "q3_k_m": 3e-4}
RECOVER_LEARNING_RATE = 2e-4
SPEED_TOKENS = 128 + 32  # read and written to measure the speed
UNWEIGHTED = ("f16", "bf16", "q8_0", "tq2_0")  # ggml does not look at the importance of these


def run(recipe: Recipe, folder: RunFolder) -> StageOutput:
    stage = folder.stage("quantize")
    student = folder.stage("train") / "student"
    tokenizer = load.load_tokenizer(str(student))
    reference, distributions = None, stage / "student_distributions.npy"
    checks: dict[str, Any] = {}
    with Progress("quantize", len(recipe.quantize.formats), "files") as bar:
        for name in recipe.quantize.formats:
            check_file = stage / f"{name}.json"
            if not check_file.is_file():
                reference = reference or _reference(recipe, folder, student, tokenizer, distributions)
                check = _write_and_check(recipe, folder, student, name, tokenizer, reference)
                write_atomic(check_file, json.dumps(check, indent=1))
            checks[name] = json.loads(check_file.read_text())
            bar.advance(1, note=name)
            interrupts.check()
    distributions.unlink(missing_ok=True)
    for name in checks:
        checks[name]["failed"] = reason = failure(checks[name], recipe.quantize)
        if reason:
            print(f"quantize: {name} FAILED: {reason}", file=sys.stderr, flush=True)
    files = [p for name in checks for p in [stage / f"{name}.json", *_files_of(folder.quantized(name))]]
    if _importance_file(folder).is_file():
        files.append(_importance_file(folder))
    files += write_modelfiles(recipe, student, tokenizer, checks, stage)
    return StageOutput({"formats": checks, "student_bytes": _weight_bytes(student)}, files)


def failure(check: dict[str, Any], gates: Quantize) -> str | None:
    """Why a file must not be deployed, or None."""
    found = []
    if (share := check["top_token_agreement"]) < gates.min_top_token_share:
        found.append(
            f"the student's likeliest token at {share:.1%} of positions, quantize.min_top_token_share is "
            f"{gates.min_top_token_share:.1%}"
        )
    if gates.max_kl is not None and check["kl"] > gates.max_kl:
        found.append(f"{check['kl']:.4f} nats a token from the student, quantize.max_kl is {gates.max_kl:g}")
    return "; ".join([*found, "take a larger format, or train longer"]) if found else None


def _files_of(place: Path) -> list[Path]:
    return files_under(place) if place.is_dir() else [place]


def _weight_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def _reference(recipe: Recipe, folder: RunFolder, student: Path, tokenizer: Any, path: Path) -> Reference:
    samples = read_samples(folder.stage("generate") / "kept.jsonl")
    samples = split_samples(samples, recipe.train.validation_share)[1][: recipe.quantize.num_sequences]
    model = load.load_model(str(student), load.placement("auto", "float32"))
    return refer_to(model, samples, tokenizer, recipe.teacher.batch_tokens, path)


def _write_and_check(
    recipe: Recipe, folder: RunFolder, student: Path, name: str, tokenizer: Any, reference: Reference
) -> dict[str, Any]:  # fmt: skip
    importance = _importance(recipe, folder, student) if name not in (*UNWEIGHTED, *FOLDERS) else None
    if name == "mixed":
        return _mixed(recipe, folder, student, tokenizer, reference, importance)
    check = _plain(recipe, folder, student, name, folder.quantized(name), tokenizer, reference, importance)
    if name in recipe.quantize.recover:
        return _recovered(recipe, folder, student, name, tokenizer, reference, importance, check)
    return check


def _plain(
    recipe: Recipe, folder: RunFolder, student: Path, name: str, place: Path, tokenizer: Any, reference: Reference, importance: Any
) -> dict[str, Any]:  # fmt: skip
    if name in FOLDERS:
        return _folder(recipe, folder, student, name, place, tokenizer, reference)
    return _gguf(recipe, student, name, place, tokenizer, reference, importance)


def _recovered(
    recipe: Recipe, folder: RunFolder, student: Path, name: str, tokenizer: Any, reference: Reference, importance: Any,
    plain: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The better of the plain file and one after quantization-aware distillation, which takes its place; both checks."""
    from distill.export import fake_quantize
    from distill.models.score import TokenSequence
    from distill.training.recover import Plan, as_in_the_file, recover

    samples = split_samples(read_samples(folder.stage("generate") / "kept.jsonl"), recipe.train.validation_share)[0]
    sequences = [TokenSequence(s.ids, len(s.prompt_ids)) for s in _even_over_languages(samples, len(samples))]
    model = load.load_model(str(student), load.placement("auto", "float32"))
    roundings = fake_quantize.nf4_roundings(model) if name in BITSANDBYTES else fake_quantize.gguf_roundings(student, name, importance)
    options = recipe.quantize
    rate = options.recover_learning_rate or RECOVER_LEARNING_RATES.get(name, RECOVER_LEARNING_RATE)
    recover(
        model, sequences, roundings, Plan(options.recover_steps, rate, recipe.seed), pad_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer), label=f"recover {name}",
    )  # fmt: skip
    place = folder.quantized(name)
    latent, other = folder.stage("quantize") / f".{name}.latent", place.with_name(f".recovered.{place.name}")
    with FolderWriter(latent) as temporary:
        for path in student.iterdir():
            if path.suffix not in (".safetensors", ".tmp") and path.is_file():
                shutil.copy2(path, temporary)
        model.save_pretrained(temporary)
    found = _plain(recipe, folder, latent, name, other, tokenizer, reference, importance)
    if name not in BITSANDBYTES:
        with as_in_the_file(model, roundings):
            _require_same(model, reference.samples, other, recipe, tokenizer)
    shutil.rmtree(latent)
    better = found["kl"] < plain["kl"] and found["nll"] <= plain["nll"]
    if better:
        _take_place(other, place)
    elif other.is_dir():
        shutil.rmtree(other)
    else:
        other.unlink()
    figures = ("kl", "nll_change", "top_token_agreement")
    both = {word: {key: check[key] for key in figures} for word, check in (("plain", plain), ("recovered", found))}
    return (found if better else plain) | {"recovery": {**both, "kept": "recovered" if better else "plain"}}


def _require_same(model: Any, samples: Sequence[Sample], file: Path, recipe: Recipe, tokenizer: Any) -> None:
    """Raise MismatchError where the file does not say what the model with rounded weights says."""
    from distill.export.llama_cpp import LlamaProcess

    path = file.with_name("rounded_distributions.npy")
    trained = refer_to(model, samples, tokenizer, recipe.teacher.batch_tokens, path)
    longest = max(len(s.ids) for s in samples)
    with LlamaProcess(file, num_threads=recipe.quantize.num_threads, context_length=longest + 8) as llama:
        found = in_llama_cpp(trained, llama)
    path.unlink()
    if found["top_token_agreement"] < SAME_FILE and found["kl"] > SAME_FILE_KL:
        raise MismatchError(
            f"{file}: the likeliest token of the model that was trained at {found['top_token_agreement']:.1%} of positions, and "
            f"{found['kl']:.4f} nats from it: it was trained on another grid than the file's. Please report this model"
        )


def _take_place(other: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    other.replace(place)
    fsync_folder(place.parent)


def _importance_file(folder: RunFolder) -> Path:
    return folder.stage("quantize") / "imatrix.gguf"


def _importance(recipe: Recipe, folder: RunFolder, student: Path) -> Any:
    """The importance matrix, measured once on training samples (the check samples stay unseen); None if not wanted."""
    from distill.export import imatrix
    from distill.export.gguf import ARCHITECTURES

    path = _importance_file(folder)
    if not recipe.quantize.importance_sequences:
        return None
    if not path.is_file():
        chosen = _calibration(recipe, folder)
        model = load.load_model(str(student), load.placement("auto", "float32"))
        name = model.config.architectures[0]
        if name not in ARCHITECTURES:
            return None  # write_gguf refuses it, and says why
        sums, num_tokens = imatrix.collect(model, [s.ids for s in chosen], ARCHITECTURES[name])
        imatrix.write(path, sums, num_tokens, len(chosen), "generate/kept.jsonl")
    return imatrix.read(path)


def _calibration(recipe: Recipe, folder: RunFolder) -> list[Sample]:
    """Training samples, even over the languages: the check samples stay unseen."""
    samples = split_samples(read_samples(folder.stage("generate") / "kept.jsonl"), recipe.train.validation_share)[0]
    return _even_over_languages(samples, recipe.quantize.importance_sequences)


def _even_over_languages(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first `count` samples, taken from each language in turn."""
    seen: Counter[str] = Counter()
    turns = []
    for sample in samples:
        turns.append((seen[sample.language], sample.language, len(turns)))
        seen[sample.language] += 1
    return [samples[number] for _, _, number in sorted(turns)[:count]]


def _mixed(
    recipe: Recipe, folder: RunFolder, student: Path, tokenizer: Any, reference: Reference, importance: Any
) -> dict[str, Any]:  # fmt: skip
    """The file within quantize.budget_mb. The types are chosen on training samples: the check samples stay unseen."""
    from distill.export import budget
    from distill.export.gguf import tensors_of, write_gguf
    from distill.export.lineage import lineage
    from distill.export.tensor_types import file_type_of
    from distill.models.score import TokenSequence

    place, max_bytes = folder.quantized("mixed"), int((recipe.quantize.budget_mb or 0) * 1e6)
    tensors = tensors_of(student, budget.STOCK[-1])
    stock = {name: {t.name: t.type for t in tensors_of(student, name) if len(t.shape) == 2} for name in budget.STOCK}
    # shows how much a file holds beside its tensors
    smallest = write_gguf(student, place, budget.STOCK[-1], metadata=lineage(recipe), importance=importance)
    place.unlink()
    samples = split_samples(read_samples(folder.stage("generate") / "kept.jsonl"), recipe.train.validation_share)[0]
    sequences = [TokenSequence(s.ids, len(s.prompt_ids)) for s in _even_over_languages(samples, recipe.quantize.num_sequences)]
    model = load.load_model(str(student), load.placement("auto", "float32"))
    judge = budget.Judge(model, sequences, recipe.teacher.batch_tokens, tokenizer.pad_token_id, len(tokenizer))
    with Progress("choose types", len(stock[budget.STOCK[0]]) + 1 + budget.STOCK_COMPARED, "tensors") as bar:
        chosen = budget.choose(
            judge, tensors, stock, importance or {}, max_bytes - smallest.bytes + smallest.tensor_bytes, lambda _: bar.advance(1)
        )
    check = _gguf(recipe, student, file_type_of(chosen.types.values()), place, tokenizer, reference, importance, chosen.types)
    nats = {name: round(value, 6) for name, value in chosen.nats.items()}
    return check | {"budget_mb": recipe.quantize.budget_mb, "chosen": chosen.name, "kl_of_choices": nats}


def _gguf(
    recipe: Recipe, student: Path, name: str, place: Path, tokenizer: Any, reference: Reference, importance: Any,
    types: Any = None,
) -> dict[str, Any]:  # fmt: skip
    from distill.export.gguf import write_gguf
    from distill.export.lineage import lineage
    from distill.export.llama_cpp import LlamaProcess

    written = write_gguf(student, place, name, metadata=lineage(recipe), importance=importance, types=types)
    longest = max(len(s.ids) for s in reference.samples)
    context_length = max(longest, SPEED_TOKENS) + 8
    with LlamaProcess(place, num_threads=recipe.quantize.num_threads, context_length=context_length) as llama:
        speed, peak_memory = llama.speed(), llama.peak_memory()
        # llama.cpp does not normalise text, the tokenizer does: the two agree on text that is NFC already
        probes = [unicodedata.normalize("NFC", text) for text in chat.PROBES.values()]
        for text, found in zip(probes, llama.tokenize(probes), strict=True):
            expected = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
            if found != expected:
                raise MismatchError(
                    f"{place}: llama.cpp tokenizes {text!r} as {found}, the student's tokenizer as {expected}; the file "
                    "would answer wrongly. Please report this tokenizer"
                )
        check = in_llama_cpp(reference, llama)
    far = check["max_logp_difference"] > F16_DIFFERENCE and check["top_token_agreement"] < F16_AGREEMENT
    if name == "f16" and far:
        raise MismatchError(
            f"{place}: agrees with the student on {check['top_token_agreement']:.1%} of tokens and differs by up to "
            f"{check['max_logp_difference']:.3f} in log-probability; the export of this architecture is wrong"
        )
    return {
        "bytes": written.bytes, "importance_matrix": importance is not None,
        "bits_per_weight": round(written.bits_per_weight, 2), "tensor_types": written.tensor_types,
        "runtime": "llama.cpp", "tokenization": f"identical on {len(probes)} probes (NFC)", **check,
        "peak_memory": peak_memory, "prefill_speed": round(speed.prefill, 1), "decode_speed": round(speed.decode, 1),
    }  # fmt: skip


def _folder(
    recipe: Recipe, folder: RunFolder, student: Path, name: str, place: Path, tokenizer: Any, reference: Reference
) -> dict[str, Any]:  # fmt: skip
    from distill.export.bnb import load_bnb, speed, write_bnb
    from distill.export.w4a16 import load_w4a16, write_w4a16

    with FolderWriter(place) as temporary:
        if name in BITSANDBYTES:
            write_bnb(student, temporary, name)
        else:
            write_w4a16(student, temporary, [s.ids for s in _calibration(recipe, folder)])
    model = load_bnb(place) if name in BITSANDBYTES else load_w4a16(place)
    num_bytes = _weight_bytes(place)
    measured = speed(model)
    return {
        "bytes": num_bytes, "bits_per_weight": round(8 * num_bytes / load.num_parameters(student), 2),
        "runtime": f"transformers + {'bitsandbytes' if name in BITSANDBYTES else 'compressed-tensors'}",
        "tokenization": "same tokenizer files", **in_transformers(reference, model, tokenizer, recipe.teacher.batch_tokens),
        "prefill_speed": round(measured.prefill, 1), "decode_speed": round(measured.decode, 1),
    }  # fmt: skip
