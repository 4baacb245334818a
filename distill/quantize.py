"""quantize: the files for deployment, each loaded back in the runtime that people will use.

    quantize/<format>.gguf     for llama.cpp, Ollama, LM Studio
    quantize/imatrix.gguf      their importance matrix, in llama.cpp's format
    quantize/<nf4|int8>/       for transformers with bitsandbytes
    quantize/w16a16/           for transformers and vLLM: the student in 16 bits, always written
    quantize/w4a16/            for vLLM, and for transformers with compressed-tensors
    quantize/<format>.Modelfile  for Ollama; Modelfile alone: the smallest file that passed
    quantize/<format>.json     its check: size, tokenization, NLL, agreement with the 16-bit
                               student, memory and speed

A file whose tokenization differs from the student's by one token is an error, and so is a student
that as a float32 GGUF file does not agree with itself: something in the export is wrong, not merely
rounded. That file is written for the check alone, where no f16 file shows that all is right.

How a file is written and measured stands with its format (distill/formats).
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import shutdown
from distill.core.claims import Claims
from distill.core.digests import file_sha256
from distill.core.files import files_under
from distill.core.final_student import student_stage
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import FileCheck, QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.core.stored_json import as_type, read_json, write_json
from distill.models import find
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.licences import licence_verdict
from distill.planning.machine import GB, available_bytes
from distill.recipe import Recipe
from distill.recipe.sections import Quantize
from distill.shaping.trimmed import samples_stage

if TYPE_CHECKING:
    from distill.formats import Format
    from distill.formats.export import Export

LEFTOVERS = (".*.latent", ".recovered.*", ".export.gguf", "*_distributions.npy")


def run(
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes = ALONE,
    *,
    formats: "Sequence[Format] | None" = None,
) -> StageOutput | None:
    """Write and check what is not done yet; `formats`: these, and not what a run writes.

    Ranks divide the formats, as many at a time as their machine's memory holds. Returns None on all
    but the first.
    """
    from distill.formats import chosen
    from distill.formats.export import Export
    from distill.formats.folders import weight_bytes

    export = Export.of(recipe, folder)
    formats = formats or chosen(recipe.quantize.formats)
    missing: list[str] = []
    if processes.is_main:
        _remove_leftovers(export.stage)
        missing = [format.name for format in formats if not _is_checked(export, format)]
    missing = processes.broadcast(missing)
    todo = [format for format in formats if format.name in missing]
    with Progress("quantize", len(formats), "files", shown=processes.is_main) as bar:
        bar.advance(len(formats) - len(todo))
        _make_all(export, todo, processes, bar)
        bar.done = len(formats)
    if not processes.is_main:
        return None
    export.distributions.unlink(missing_ok=True)
    checks = {format.name: _stored(_check_path(export, format))[0] for format in formats}
    checks = {name: _judged(name, check, recipe.quantize) for name, check in checks.items()}
    files = [*_files(export, checks), *_modelfiles(export, checks)]
    return StageOutput(QuantizeResult(checks, weight_bytes(export.student)), files)


def _remove_leftovers(stage: Path) -> None:
    """Remove what a run that was killed left half done."""
    from distill.formats import recovery

    for pattern in LEFTOVERS:
        for path in stage.glob(pattern):
            recovery.remove(path)


def _is_checked(export: "Export", format: "Format") -> bool:
    """Return whether a file was written and checked before; one that has changed since is not."""
    path = _check_path(export, format)
    if not path.is_file():
        return False
    check, sha256 = _stored(path)
    if sha256 in (None, _sha256_of(export, format)):
        _tell(format, check)
        return True
    print(f"quantize: {format.name}: not what was checked before; written again", flush=True)
    path.unlink()
    return False


def _make_all(
    export: "Export", formats: "Sequence[Format]", processes: Processes, bar: Progress
) -> None:
    """Write and check these formats: one after the other, or with the other ranks."""
    if processes.num > 1 and formats:
        _make_together(export, formats, processes, bar)
        return
    for format in formats:
        format.prepare(export)
        _make(export, format, bar)


def _make_together(
    export: "Export", formats: "Sequence[Format]", processes: Processes, bar: Progress
) -> None:
    """Write and check these formats, with the other ranks; what takes long is begun first.

    What the files of a family need is made by one rank, while others write what needs nothing.
    """
    export.share_reference(processes)
    claims, has_room = Claims(processes), _has_room(export, formats, processes)
    if has_room:
        families = {type(format).prepare: format for format in formats if format.has_preparation}
        for format in claims.of("family", list(families.values())):
            format.prepare(export)
            claims.tell_done(f"family of {format.name}")
        in_order = sorted(formats, key=lambda format: not _takes_long(export, format))
        for format in claims.of("format", [f for f in in_order if not f.has_preparation]):
            _make(export, format, bar)
        for format in families.values():
            claims.wait_for(f"family of {format.name}")
        for format in claims.of("prepared", [f for f in in_order if f.has_preparation]):
            _make(export, format, bar)
    processes.barrier()


def _takes_long(export: "Export", format: "Format") -> bool:
    return format.takes_long or format.name in export.recipe.quantize.recover


def _has_room(export: "Export", formats: "Sequence[Format]", processes: Processes) -> bool:
    """Return whether this rank writes files, too: as many of a machine's do as its memory holds.

    The first of each machine does. Where others do not, that is said.
    """
    need = max(_bytes_to_make(export, format) for format in formats)
    free = available_bytes()
    has_room = processes.local_rank == 0 or (processes.local_rank + 1) * need <= free
    num_writing = sum(processes.gathered(has_room))
    if processes.is_main and num_writing < processes.num:
        print(
            f"quantize: {num_writing} of {processes.num} processes write files, the others wait: one "
            f"file takes up to {need / GB:.1f} GB of memory, and {free / GB:.1f} GB are free",
            flush=True,
        )
    return has_room


def _bytes_to_make(export: "Export", format: "Format") -> float:
    """Return the memory that writing and checking a file takes beside this process."""
    from distill.formats import recovery

    each = format.bytes_to_make
    if format.name in export.recipe.quantize.recover:
        each = recovery.BYTES_PER_WEIGHT_IN_MEMORY
    return PROCESS_BYTES + each * find.num_parameters(export.student)


def _make(export: "Export", format: "Format", bar: Progress) -> None:
    """Write a file and check it."""
    from distill.formats import recovery

    check = format.make(export, export.student, format.path(export.stage))
    if format.name in export.recipe.quantize.recover:
        check = recovery.recover(export, format, check)
    path = _check_path(export, format)
    write_json(path, {**_as_json(check), "files": _sha256_of(export, format)}, indent=1)
    _tell(format, check)
    bar.advance(1, note=format.name)
    shutdown.check()


def _tell(format: "Format", check: FileCheck) -> None:
    if check.note:
        print(f"quantize: {format.name}: {check.note}", flush=True)


def _check_path(export: "Export", format: "Format") -> Path:
    return export.stage / f"{format.name}.json"


def _stored(path: Path) -> tuple[FileCheck, dict[str, str] | None]:
    """Return (check, SHA-256 of each file that was checked) of a run that was stopped.

    None for what an earlier version wrote. Raises DataError, with the way out, where it is broken.
    """
    way_out = "delete it and run `distill quantize RECIPE`: this file is made again"
    values = read_json(path, way_out)
    files = values.pop("files", None)
    return as_type(values, FileCheck, path, way_out), files


def _sha256_of(export: "Export", format: "Format") -> dict[str, str]:
    """Return the SHA-256 of each file of a format, by its path in the stage's folder."""
    path = format.path(export.stage)
    files = files_under(path) if path.is_dir() else [path]
    return {str(f.relative_to(export.stage)): file_sha256(f) for f in files if f.is_file()}


def _as_json(check: FileCheck) -> dict[str, Any]:
    """Return what was found out about a file, without the fields that are empty for its format."""
    figures = asdict(check)
    return {name: value for name, value in figures.items() if value not in (None, {})} | {
        "peak_memory": check.peak_memory
    }


def _judged(name: str, check: FileCheck, gates: Quantize) -> FileCheck:
    """Return the check with the gate that the file does not pass, if any."""
    reason = failure(check, gates)
    if reason:
        print(f"quantize: {name} FAILED: {reason}", file=sys.stderr, flush=True)
    return replace(check, failed=reason)


def failure(check: FileCheck, gates: Quantize) -> str | None:
    """Return why a file must not be deployed, or None."""
    reasons = []
    share = check.top_token_agreement
    if share < gates.min_top_token_share:
        reasons.append(
            f"the student's likeliest token at {share:.1%} of positions, "
            f"quantize.min_top_token_share is {gates.min_top_token_share:.1%}"
        )
    if gates.max_kl is not None and not check.kl <= gates.max_kl:  # a KL that is no number, too
        reasons.append(
            f"{check.kl:.4f} nats a token (± {check.kl_error:.4f}) from the student, "
            f"quantize.max_kl is {gates.max_kl:g}"
        )
    if not reasons:
        return None
    return "; ".join([*reasons, "take a larger format, or train longer"])


def _files(export: "Export", checks: dict[str, FileCheck]) -> list[Path]:
    """Return all that was written but Modelfiles."""
    from distill.formats import path_of

    files = []
    for name in checks:
        path = path_of(export.folder, name)
        files.append(export.stage / f"{name}.json")
        files += files_under(path) if path.is_dir() else [path]
    importance = export.stage / "imatrix.gguf"
    if importance.is_file():
        files.append(importance)
    return files


def _modelfiles(export: "Export", checks: dict[str, FileCheck]) -> list[Path]:
    from distill.formats.gguf.modelfile import write_modelfiles

    return write_modelfiles(export, licence_verdict(export.recipe), checks)


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the files."""
    return {"quantize": recipe.quantize.identity()}


def cost(work: Workload) -> Cost:
    """Reckon the writing and checking of every file, and recovery."""
    from distill.formats import chosen, recovery

    formats = chosen(work.recipe.quantize.formats)
    costs = [format.cost(work) for format in formats]
    costs.append(recovery.cost(work))
    has_gguf = any(not format.is_folder for format in formats)
    check_bytes = 4 * work.student.parameters if has_gguf else 0  # a float32 file, for a while
    return Cost(
        PROCESS_BYTES + max(cost.memory for cost in costs),
        sum(cost.seconds for cost in costs),
        disk=sum(cost.disk for cost in costs) + check_bytes,
    )


STAGE = Stage(
    "quantize",
    "write the files for deployment and load each one back",
    run,
    QuantizeResult,
    section,
    reads=lambda recipe: (samples_stage(recipe), student_stage(recipe)),
    cost=cost,
    shared=True,
)
