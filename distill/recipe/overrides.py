"""Overrides of a recipe on the command line: `train.learning_rate=1e-4`."""

from pathlib import Path
from typing import Any

from distill.errors import RecipeError, shown
from distill.recipe.paths import absolute, path_problem
from distill.recipe.strict_yaml import NotYaml, parse

PATHS = ("prompts", "run_folder", "file", "gguf")
OF_SECTIONS = ("prompts", "teachers")  # lists of sections, whose fields may be paths
IDS_OR_PATHS = ("model", "dataset")  # a path, if it looks like one


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value, `dotted.path=value` with the value in YAML, among the values of a recipe.

    Raises RecipeError for what is none; a value that may hold a key is not repeated.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"override {shown(override)}: write dotted.path=value, e.g. train.learning_rate=1e-4"
        )
    *parents, last = path.split(".")
    is_secret = "server" in last or "key" in last
    name = shown(f"{path}=..." if is_secret else override)
    try:
        value = parse(text)
    except NotYaml as error:
        reason = "" if is_secret else f" ({error})"
        raise RecipeError(f"override {name}: the value is not YAML{reason}") from None
    section: Any = values
    for depth, parent in enumerate(parents, 1):
        if isinstance(section, list):
            section = _entry(section, parent, name)
        else:
            section = section.setdefault(parent, {})
        if not isinstance(section, dict) and (
            parent != "teachers" or not isinstance(section, list)
        ):
            way_out = ""
            if isinstance(section, list):
                way_out = f": give the whole list, {'.'.join(parents[:depth])}=[...]"
            raise RecipeError(
                f"override {name}: {shown(parent)} is a value, not a section{way_out}"
            )
    if isinstance(section, list):
        raise RecipeError(f"override {name}: write teachers.NAME.field=value")
    section[last] = _from_here(last, value)


def _entry(entries: list[Any], name: str, override: str) -> Any:
    """Return the entry of this name of a list (`teachers.NAME.field=value`)."""
    named = {
        e["name"]: e for e in entries if isinstance(e, dict) and isinstance(e.get("name"), str)
    }
    if name not in named:
        known = ", ".join(named) or "none with a name"
        raise RecipeError(f"override {override}: no {shown(name)} among them; there are {known}")
    return named[name]


def _from_here(name: str, value: Any) -> Any:
    """Return the value of a field; paths in an override are relative to the current folder."""
    if isinstance(value, list) and name in OF_SECTIONS:
        return [_from_here(name, part) for part in value]
    if isinstance(value, dict) and name in OF_SECTIONS:
        return {key: _from_here(key, part) for key, part in value.items()}
    if isinstance(value, str) and _is_path(name, value) and path_problem(value) is None:
        try:
            return str(absolute(Path.cwd(), value))
        except (ValueError, OSError) as error:  # links in circles; the current folder is gone
            raise RecipeError(f"override {name}={shown(value)}: {error}") from None
    return value  # the recipe says what is wrong with a path that there cannot be


def _is_path(name: str, value: str) -> bool:
    return name in PATHS or (name in IDS_OR_PATHS and value.startswith((".", "~")))
