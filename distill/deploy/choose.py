"""Which run, and which of its GGUF files: what `distill chat`, `serve` and `bench` are given."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from distill.core.results import FileCheck, QuantizeResult
from distill.core.run_folder import RunFolder
from distill.errors import MissingError, RecipeError
from distill.formats import FORMATS, path_of
from distill.formats.gguf.modelfile import smallest_passing
from distill.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class GgufChoice:
    """A GGUF file of a run. `why` says why this one, for the terminal."""

    recipe: Recipe
    path: Path
    format: str
    why: str

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.format}"


def open_run(run: str) -> tuple[Recipe, RunFolder]:
    """A run folder, or the recipe that made it. Raises MissingError, naming what is near, where there is neither."""
    place = Path(run).expanduser()
    if place.is_file():
        recipe = load_recipe(place)
        return recipe, RunFolder.of(recipe)
    if (place / "recipe.yaml").is_file():
        return load_recipe(place / "recipe.yaml"), RunFolder(place.resolve())
    known = {
        path.parent.name: path.parent
        for path in (*Path("runs").glob("*/recipe.yaml"), *place.parent.glob("*/recipe.yaml"))
    }
    near = difflib.get_close_matches(place.name, known, n=1)
    hint = (
        f"did you mean {known[near[0]]}?"
        if near
        else f"known: {', '.join(map(str, [*known.values()][:5])) or 'no run'}"
    )
    raise MissingError(f"{place}: neither a run folder nor a recipe; {hint}")


def gguf_checks(folder: RunFolder) -> dict[str, FileCheck]:
    """What quantize found out about each GGUF file of the run, by format. Raises MissingError where there is none."""
    manifest = folder.manifest("quantize", QuantizeResult)
    if manifest is None:
        raise MissingError(
            f"{folder.stage('quantize')}: not finished; run `distill quantize RECIPE` first"
        )
    checks = {
        name: check
        for name, check in manifest.result.formats.items()
        if not FORMATS[name].is_folder
    }
    if not checks:
        raise MissingError(
            f"{folder.stage('quantize')}: no GGUF file, only {', '.join(manifest.result.formats)}; add one to "
            "quantize.formats, e.g. q4_k_m, and run `distill quantize RECIPE --redo quantize`"
        )
    for name in checks:
        if not path_of(folder, name).is_file():
            raise MissingError(
                f"{path_of(folder, name)}: gone; make it again by `distill quantize RECIPE --redo quantize`"
            )
    return checks


def choose(run: str, format_name: str | None) -> GgufChoice:
    """The named format, or the smallest file that passed the gate.

    Raises MissingError (no run, no file) and RecipeError (a format that is not there, or none passed).
    """
    recipe, folder = open_run(run)
    checks = gguf_checks(folder)
    if format_name is not None:
        check = checks[known_format(format_name, checks)]
        why = f"FAILED its check: {check.failed}" if check.failed else "passed its check"
    elif (format_name := smallest_passing(checks)) is None:
        raise RecipeError(
            f"{folder.stage('quantize')}: no GGUF file passed its check; name one with --format: {', '.join(checks)}"
        )
    else:
        why = "the smallest that passed its check"
    return GgufChoice(recipe, path_of(folder, format_name), format_name, why)


def known_format(name: str, checks: dict[str, FileCheck]) -> str:
    """`name`, if the run has such a GGUF file; RecipeError naming the nearest if not."""
    if name in checks:
        return name
    if name in FORMATS and FORMATS[name].is_folder:
        raise RecipeError(
            f"--format {name}: a folder for transformers, not a file for llama.cpp; there are {', '.join(checks)}"
        )
    near = difflib.get_close_matches(name.lower().replace("-", "_"), checks, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise RecipeError(f"--format {name!r}: not in this run; {hint}There are {', '.join(checks)}")
