"""Which run, and which of its GGUF files: what `distill chat`, `serve` and `bench` are given."""

import sys
from dataclasses import dataclass
from pathlib import Path

from distill.core import verification
from distill.core.named_run import open_run
from distill.core.results import FileCheck, QuantizeResult
from distill.core.run_folder import RunFolder
from distill.core.safety_results import GatesResult, with_gates
from distill.errors import DataError, MissingError, RecipeError, did_you_mean
from distill.formats import FORMATS, path_of
from distill.formats.gguf.modelfile import smallest_passing
from distill.recipe import Recipe, advising, in_full

TOLD_BYTES = (
    1 << 30
)  # a file that takes more than a second or so to read: one is told why one waits


@dataclass(frozen=True)
class GgufChoice:
    """A GGUF file of a run. `why` says why this one, for the terminal."""

    recipe: Recipe
    path: Path
    format: str
    why: str

    @property
    def name(self) -> str:
        """Return what the model is called by a server."""
        return f"{self.recipe.name}-{self.format}"


def gguf_checks(recipe: Recipe, folder: RunFolder) -> dict[str, FileCheck]:
    """Return what quantize found out about each GGUF file of the run, by format.

    One that failed a gate of the recipe's `evaluate.gates` is marked failed.

    Raises MissingError where there is none.
    """
    stage = folder.stage("quantize")
    manifest = folder.manifest("quantize", QuantizeResult)
    if manifest is None:
        raise MissingError(f"{stage}: not finished; run `distill quantize RECIPE` first")
    formats = with_gates(manifest.result.formats, _gates(recipe, folder))
    checks = {name: check for name, check in formats.items() if not FORMATS[name].is_folder}
    if not checks:
        raise MissingError(
            f"{stage}: no GGUF file, only {', '.join(formats)}; add one to quantize.formats, "
            "e.g. q4_k_m, and run `distill run RECIPE --redo quantize`"
        )
    for name in checks:
        path = path_of(folder, name)
        if not path.is_file():
            raise MissingError(
                f"{path}: gone; make it again by `distill run RECIPE --redo quantize`"
            )
    return checks


def _gates(recipe: Recipe, folder: RunFolder) -> GatesResult | None:
    """Return what the gates of the recipe said of these files; say so where they have not yet."""
    if recipe.evaluate.gates is None:
        return None
    manifest = folder.manifest("gates", GatesResult)
    if manifest is not None and manifest.inputs["quantize"] == folder.digest("quantize", recipe):
        return manifest.result
    told = "evaluate.gates has not judged these files yet: run `distill run RECIPE` to its end"
    print(in_full(told, recipe), file=sys.stderr, flush=True)
    return None


def choose(run: str, format_name: str | None) -> GgufChoice:
    """Return the named format, or the smallest file that passed the gate, once it is found whole.

    Raises MissingError (no run, no file), RecipeError (a format that is not there, or none passed)
    and DataError (the file is not the one that was checked).
    """
    recipe, folder = open_run(run)
    with advising(recipe):
        checks = gguf_checks(recipe, folder)
        name, why = _named(folder, format_name, checks)
        require_whole(folder, name)
    return GgufChoice(recipe, path_of(folder, name), name, why)


def _named(
    folder: RunFolder, format_name: str | None, checks: dict[str, FileCheck]
) -> tuple[str, str]:
    """Return (the format, why this one)."""
    if format_name is not None:
        failed = checks[known_format(format_name, checks)].failed
        return format_name, f"FAILED its check: {failed}" if failed else "passed its check"
    name = smallest_passing(checks)
    if name is None:
        raise RecipeError(
            f"{folder.stage('quantize')}: no GGUF file passed its check; name one with --format: "
            f"{', '.join(checks)}"
        )
    return name, "the smallest that passed its check"


def require_whole(folder: RunFolder, name: str) -> None:
    """Compare the whole file of a format with what quantize wrote, at the speed of the disk.

    What its check said holds for those bytes alone, and llama.cpp runs flipped ones without a word.
    Raises DataError, saying the way out, if it is another.
    """
    path = path_of(folder, name)
    recorded = {file.path: file for file in folder.recorded_files("quantize")}
    if path not in recorded:
        raise DataError(
            f"{path}: not among the files of {folder.stage('quantize') / 'manifest.json'}; copy "
            "both again from where they are whole, or run `distill run RECIPE --redo quantize`"
        )
    file = recorded[path]
    if file.num_bytes > TOLD_BYTES:
        size = f"{file.num_bytes / 1e9:.1f} GB"
        print(f"{path.name}: comparing {size} with what was written", file=sys.stderr, flush=True)
    verification.require_same_content(file)


def known_format(name: str, checks: dict[str, FileCheck]) -> str:
    """Return `name`, if the run has such a GGUF file.

    Raises RecipeError, naming the nearest, if it has none.
    """
    if name in checks:
        return name
    known = ", ".join(checks)
    if name in FORMATS and FORMATS[name].is_folder:
        raise RecipeError(
            f"--format {name}: a folder for transformers, not a file for llama.cpp; "
            f"there are {known}"
        )
    hint = did_you_mean(name, checks)
    there_are = f"{hint} There are" if hint else "there are"
    raise RecipeError(f"--format {name!r}: not in this run; {there_are} {known}")
