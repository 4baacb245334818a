"""A recipe read from its YAML file, and written as one.

    overrides = ["train.learning_rate=1e-3", "run_folder=/data/run1"]
    recipe = load_recipe("recipes/quickstart.yaml", overrides)

Paths in a recipe are relative to the recipe's folder (in a run folder's recipe: to the folder of the
one that it was resolved from), paths in an override to the current folder. A model is a local folder
if it starts with `.`, `/` or `~`, else the id of a model hub. All problems are reported at once,
before any model is touched. The sections are described in sections/.
"""

import codecs
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill.errors import MissingError, RecipeError, shown
from distill.recipe.overrides import apply_override
from distill.recipe.problems import problem_lines
from distill.recipe.recipe import Recipe
from distill.recipe.strict_yaml import NotYaml, StrictDumper, parse

LARGEST = 1 << 20  # bytes of a recipe
ORIGIN = "# resolved from "
SEAL = "# sha256 of the lines below: "


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    `overrides` are `dotted.path=value` with the value in YAML, e.g. `train.learning_rate=1e-4`.
    Raises RecipeError that lists every problem, one a line; MissingError if there is no such file.
    """
    path = _existing(source)
    values, origin = _read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    try:
        return Recipe.from_values(values, path, origin=origin, overrides=overrides)
    except ValidationError as error:
        raise RecipeError("\n".join(problem_lines(path, error, values))) from None


def _existing(source: str | Path) -> Path:
    try:
        path = Path(source).expanduser().resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        reason = getattr(error, "strerror", None) or error
        raise MissingError(f"{shown(str(source))}: no such recipe ({reason})") from None
    if not is_file:
        raise MissingError(f"{path}: no such recipe")
    return path


def _read_yaml(source: Path) -> tuple[dict[str, Any], Path | None]:
    """Return (values, the file that they were resolved from, if they stand in a run folder)."""
    try:
        with source.open("rb") as f:
            data = f.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise RecipeError(f"{source}: more than {LARGEST:,} bytes: that is no recipe")
        _require_no_utf16(source, data)
        _require_as_sealed(source, data)
        text = data.decode("utf-8-sig")
        values = parse(text)
    except OSError as error:
        raise RecipeError(f"{source}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except NotYaml as error:
        line = f", line {error.line}" if error.line else ""
        raise RecipeError(f"{source}{line}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{source}: expected sections such as `teacher:`, got {type(values).__name__}"
        )
    return values, _origin(text)


def _origin(text: str) -> Path | None:
    first, _, rest = text.partition("\n")
    is_sealed = first.startswith(ORIGIN) and rest.startswith(SEAL)
    return Path(first.removeprefix(ORIGIN)) if is_sealed else None


def _require_no_utf16(source: Path, data: bytes) -> None:
    """Raise RecipeError for UTF-16, as Windows' editors save it: with its mark, or a NUL a letter."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in data[:2]:
        raise RecipeError(f"{source}: UTF-16, not UTF-8; save it as UTF-8")


def _require_as_sealed(source: Path, data: bytes) -> None:
    """Raise RecipeError where the recipe of a run folder is not what the run wrote there."""
    _, seal, rest = data.partition(SEAL.encode())
    checksum, _, below = rest.partition(b"\n")
    if seal and hashlib.sha256(below).hexdigest().encode() != checksum.strip():
        raise RecipeError(
            f"{source}: its content does not match its checksum: it is damaged, or was edited. Copy "
            f"it from where it is whole, or take out the line '{SEAL.strip()} ...' to use it as it is"
        )


def sealed_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as a run folder holds it: where it came from, and its checksum."""
    text = to_yaml(recipe)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return f"{ORIGIN}{recipe.origin}\n{SEAL}{checksum}\n{text}"


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML: every field, with its value."""
    values = recipe.model_dump(mode="json")
    return yaml.dump(values, Dumper=StrictDumper, sort_keys=False, allow_unicode=True)
