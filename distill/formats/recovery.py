"""Win back what rounding took, by quantization-aware distillation; keep the better file."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.core.files import FolderWriter, files_under, fsync_folder
from distill.core.results import Agreement, Closeness, FileCheck, Recovery
from distill.core.stage import Cost
from distill.formats.base import Format, Rounding
from distill.formats.compare import refer_to
from distill.formats.export import Export
from distill.models.saving import save_model

# Of positions where the likeliest token leads clearly: a file of the same weights mostly has it at
# so many.
SAME_TOP_TOKEN = 0.995
# llama.cpp rounds activations to 8 bits where weights are quantized; another grid costs more
SAME_FILE_KL = 0.002
BYTES_PER_WEIGHT_IN_MEMORY = 28
TOKENS_A_STEP = 2048


def recover(export: Export, format: Format, plain: FileCheck) -> FileCheck:
    """Train the student on its own rounded weights, and keep the better of two files.

    `plain`: the check of the file that is there. The recovered one takes its place where it is
    better. Returns the check of the file that is kept, with both figures in it.
    """
    model = export.load_student()
    roundings = format.roundings(export, model)
    _train(export, format, model, roundings)
    path = format.path(export.stage)
    other = path.with_name(f".recovered.{path.name}")
    recovered = _make(export, format, model, other)
    trained = _agreement_with_trained(export, format, model, roundings, other)
    is_better = recovered.kl < plain.kl and recovered.nll <= plain.nll
    if is_better:
        _take_place(other, path)
    else:
        remove(other)
    kept = "recovered" if is_better else "plain"
    share = trained.top_token_agreement
    recovery = Recovery(_closeness(plain), _closeness(recovered), kept, share)
    check = recovered if is_better else plain
    return replace(check, recovery=recovery, note=recovery_note(recovery) + _doubt(trained))


def _train(export: Export, format: Format, model: Any, roundings: Mapping[str, Rounding]) -> None:
    from distill.training.recover import RecoveryPlan
    from distill.training.recover import recover as train

    options = export.recipe.quantize
    train(
        model,
        export.training_sequences(),
        roundings,
        RecoveryPlan(options.recover_steps, options.recover_learning_rate, export.recipe.seed),
        pad_id=export.tokenizer.pad_token_id,
        vocab_size=len(export.tokenizer),
        label=f"recover {format.name}",
    )


def _make(export: Export, format: Format, model: Any, path: Path) -> FileCheck:
    """Write the trained model to `path`, by way of a model folder, and measure the file."""
    latent = export.stage / f".{format.name}.latent"
    with FolderWriter(latent) as temporary:
        for file in files_under(export.student):
            if file.suffix != ".safetensors":
                copy = temporary / file.relative_to(export.student)
                copy.parent.mkdir(exist_ok=True)  # of further chat templates
                shutil.copy2(file, copy)
        save_model(model, temporary)
    check = format.make(export, latent, path)
    shutil.rmtree(latent)
    return check


def _agreement_with_trained(
    export: Export, format: Format, model: Any, roundings: Mapping[str, Rounding], file: Path
) -> Agreement:
    """Return how far the file is from the model that was trained, its weights rounded.

    They differ by the arithmetic of the file's runtime alone, unless the model was trained on
    another grid than the file's.
    """
    from distill.training.recover import with_rounded_weights

    path = export.stage / f"{format.name}_distributions.npy"  # other ranks may recover others
    with with_rounded_weights(model, roundings):
        trained = refer_to(export.in_transformers(model), export.reference.samples, path)
        agreement = format.agreement(export, trained, file)
    path.unlink()
    return agreement


def _doubt(trained: Agreement) -> str:
    """Return what to say of a file that is far from the model that was trained; else nothing."""
    share = trained.top_token_agreement_without_ties
    if share >= SAME_TOP_TOKEN or trained.kl <= SAME_FILE_KL:
        return ""
    return (
        f"; its file is {trained.kl:.4f} nats from the model that was trained: this student is "
        "easily moved by rounding, or it was trained on another grid than the file's"
    )


def _closeness(check: FileCheck) -> Closeness:
    return Closeness(check.kl, check.nll_change, check.top_token_agreement)


def recovery_note(recovery: Recovery) -> str:
    """Return what recovery did, in a line for the terminal and the report."""
    plain, recovered = recovery.plain, recovery.recovered
    figures = (
        f"KL {plain.kl:.5f} to {recovered.kl:.5f}, "
        f"NLL change {plain.nll_change:+.5f} to {recovered.nll_change:+.5f}"
    )
    if recovery.kept == "plain":
        return f"recovery did not help ({figures}): the plain file is kept"
    return f"recovery won back {1 - recovered.kl / plain.kl:.0%} of the KL ({figures})"


def _take_place(other: Path, path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    other.replace(path)
    fsync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def cost(work: Any) -> Cost:
    """Reckon recovery, whose disk is that of the files. `work`: a planning.costs.Workload."""
    options, num_weights = work.recipe.quantize, work.student.parameters
    if not options.recover:
        return Cost(0, 0)
    # forward twice, backward, and the rounding of every weight each fourth step
    steps = len(options.recover) * options.recover_steps
    seconds = steps * TOKENS_A_STEP * 10 * num_weights / work.machine.flops
    return Cost(BYTES_PER_WEIGHT_IN_MEMORY * num_weights, seconds)
