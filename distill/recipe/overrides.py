"""Overrides of a recipe on the command line: `train.learning_rate=1e-4`."""

from pathlib import Path
from typing import Any

import yaml

from distill.errors import RecipeError
from distill.recipe.strict_yaml import StrictLoader

PATHS = ("prompts", "run_folder", "file", "gguf")
IDS_OR_PATHS = ("model", "dataset")  # a path, if it looks like one


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value, `dotted.path=value` with the value in YAML, among the values of a recipe.

    Raises RecipeError for what is none; a value that may hold a key is not repeated.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"override {override!r}: write dotted.path=value, e.g. train.learning_rate=1e-4"
        )
    *parents, last = path.split(".")
    shown = f"{path}=..." if "server" in last or "key" in last else override
    try:
        value = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError:
        raise RecipeError(f"override {shown!r}: the value is not YAML") from None
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"override {shown!r}: {parent} is a value, not a section")
    section[last] = _from_here(last, value)


def _from_here(name: str, value: Any) -> Any:
    """Return the value of a field; paths in an override are relative to the current folder."""
    if isinstance(value, list) and name == "prompts":
        return [_from_here(name, part) for part in value]
    if isinstance(value, dict) and name == "prompts":
        return {key: _from_here(key, part) for key, part in value.items()}
    if isinstance(value, str) and _is_path(name, value):
        return str(Path(value).expanduser().resolve())
    return value


def _is_path(name: str, value: str) -> bool:
    return name in PATHS or (name in IDS_OR_PATHS and value.startswith((".", "~")))
