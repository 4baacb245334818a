"""A recipe read from its YAML file, and written as one.

    overrides = ["train.learning_rate=1e-3", "run_folder=/data/run1"]
    recipe = load_recipe("recipes/quickstart.yaml", overrides)

Paths in a recipe are relative to the recipe's folder, paths in an override to the current folder. A
model is a local folder if it starts with `.`, `/` or `~`, else the id of a model hub. All problems
are reported at once, before any model is touched. The sections are described in sections/.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill.errors import MissingError, RecipeError
from distill.recipe.overrides import apply_override
from distill.recipe.problems import problem_lines
from distill.recipe.recipe import Recipe
from distill.recipe.strict_yaml import StrictLoader


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    `overrides` are `dotted.path=value` with the value in YAML, e.g. `train.learning_rate=1e-4`.
    Raises RecipeError that lists every problem, one a line; MissingError if there is no such file.
    """
    source = Path(source).expanduser().resolve()
    if not source.is_file():
        raise MissingError(f"{source}: no such recipe")
    values = _read_yaml(source)
    for override in overrides:
        apply_override(values, override)
    try:
        return Recipe.from_values(values, source)
    except ValidationError as error:
        raise RecipeError("\n".join(problem_lines(source, error, values))) from None


def _read_yaml(source: Path) -> dict[str, Any]:
    try:
        values = yaml.load(source.read_text(encoding="utf-8"), Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{source}{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # of a character that no text has
        raise RecipeError(f"{source}: not YAML: {error}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source}: not UTF-8 ({error.reason})") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{source}: expected sections such as `teacher:`, got {type(values).__name__}"
        )
    return values


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML: every field, with its value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
