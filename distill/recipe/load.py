"""The recipe: one YAML file, one strict schema, every field described where it stands.

    recipe = load_recipe("recipes/quickstart.yaml", ["train.learning_rate=1e-3", "run_folder=/data/run1"])

Paths in a recipe are relative to the recipe's folder, paths in an override to the current folder. A model is a local
folder if it starts with `.`, `/` or `~`, else the id of a model hub. All problems are reported at once, before any
model is touched. The sections are described in sections.py.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill.errors import MissingError, RecipeError
from distill.recipe.recipe import Recipe
from distill.recipe.schema import describe, fields_at
from distill.recipe.strict_yaml import StrictLoader

# Fields that had another name before
RENAMED = {"think": "reasoning", "thinking": "enable_thinking", "steer": "system_prompts"}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. Raises RecipeError that lists every problem, one a line; MissingError if no such file.

    `overrides` are `dotted.path=value` with the value in YAML, e.g. `train.learning_rate=1e-4`.
    """
    source = Path(source).expanduser().resolve()
    if not source.is_file():
        raise MissingError(f"{source}: no such recipe")
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
    for override in overrides:
        _apply(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_problem(source, e, values) for e in error.errors()]
        raise RecipeError("\n".join(lines)) from None
    recipe._source = source
    return recipe


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"override {override!r}: write dotted.path=value, e.g. train.learning_rate=1e-4"
        )
    *parents, last = path.split(".")
    if "server" in last or "key" in last:  # the value may hold a key
        override = f"{path}=..."
    try:
        value = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError:
        raise RecipeError(f"override {override!r}: the value is not YAML") from None
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise RecipeError(f"override {override!r}: {parent} is a value, not a section")
    place[last] = _from_here(last, value)


def _from_here(name: str, value: Any) -> Any:
    """Paths in an override are relative to the current folder."""
    if isinstance(value, list) and name == "prompts":
        return [_from_here(name, part) for part in value]
    if isinstance(value, dict) and name == "prompts":
        return {key: _from_here(key, part) for key, part in value.items()}
    always, where_it_looks_so = ("prompts", "run_folder", "file", "gguf"), ("model", "dataset")
    if isinstance(value, str) and (
        name in always or (name in where_it_looks_so and value.startswith((".", "~")))
    ):
        return str(Path(value).expanduser().resolve())
    return value


def _problem(source: Path, error: Mapping[str, Any], values: dict[str, Any]) -> str:
    """One line for one problem: file, field, value, way out."""
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    message = error["msg"].removeprefix("Value error, ")
    if location and location[-1] == "[key]":  # of a mapping with fixed keys
        return (
            f"{source}: {'.'.join(location[:-1])}: unknown key: {message[0].lower() + message[1:]}"
        )
    if error["type"] == "extra_forbidden":
        known = [n for n, _ in fields_at(Recipe, location[:-1])]
        renamed = RENAMED.get(location[-1])
        near = (
            [renamed]
            if renamed in known
            else difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        )
        hint = f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"
        return f"{source}: {name}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{source}: {name}: missing; it is needed"
    if error["type"] == "value_error" or not location:
        return f"{source}: {name + ': ' if name else ''}{message}"
    if location[-1] in (
        "server",
        "judge_server",
        "api_key_env",
        "judge_api_key_env",
    ):  # may hold a key
        return f"{source}: {name}: {message[0].lower() + message[1:]}"
    value: Any = values
    for part in error["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
    return f"{source}: {name}: {value!r}: {message[0].lower() + message[1:]}"


def explain(name: str = "") -> str:
    """What `distill explain train.loss` prints: the field (or every field of a section), type, default, description."""
    return describe(Recipe, name)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe: every field, with its value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
