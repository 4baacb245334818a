"""What `distill explain` prints: fields of a recipe, their defaults, choices, descriptions."""

from collections.abc import Sequence
from typing import Any, TypeGuard, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distill.errors import RecipeError, did_you_mean
from distill.recipe.recipe import Recipe


def explain(name: str = "") -> str:
    """Return a line on the field of this dotted name, or on every field of a section.

    Raises RecipeError, naming the nearest, where the recipe has no such field.
    """
    location = [part for part in name.split(".") if part]
    fields = {f"{name}.{n}" if name else n: info for n, info in fields_at(location).items()}
    if location:
        fields = _own_field(name, location) | fields
    return "\n".join(_line(full_name, info) for full_name, info in fields.items())


def _own_field(name: str, location: list[str]) -> dict[str, FieldInfo]:
    """Return the field itself; nothing where it is a section, which has no text of its own."""
    neighbours = fields_at(location[:-1])
    if location[-1] not in neighbours:
        hint = "" if len(location) > 1 else meant_in_sections(name)
        hint = hint or did_you_mean(location[-1], neighbours, cutoff=0.4)
        raise RecipeError(f"{name}: no such field" + (f"; {hint}" if hint else ""))
    info = neighbours[location[-1]]
    return {} if _is_section(info.annotation) else {name: info}


def fields_at(location: Sequence[str]) -> dict[str, FieldInfo]:
    """Return the fields at this place of a recipe, by name; none where it is no section."""
    section: type[BaseModel] = Recipe
    for part in location:
        if part.isdecimal():  # a position in a list
            continue
        info = section.model_fields.get(part)
        inner = None if info is None else _section_in(info.annotation)
        if inner is None:
            return {}
        section = inner
    return section.model_fields


def dotted_names(name: str) -> list[str]:
    """Return the names with their section, such as train.epochs, of the fields of this name."""
    sections = {n: info.annotation for n, info in Recipe.model_fields.items()}
    return [f"{n}.{name}" for n, s in sections.items() if _is_section(s) and name in s.model_fields]


def meant_in_sections(name: str) -> str:
    """Return "did you mean a.x or b.x?" of the sections that have a field of this name, "" of none."""
    names = dotted_names(name)
    return f"did you mean {' or '.join(names)}?" if names else ""


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a type is or holds (a list of sections, or none); else None."""
    if _is_section(annotation):
        return annotation
    for argument in get_args(annotation):
        section = _section_in(argument)
        if section is not None:
            return section
    return None


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _line(name: str, info: FieldInfo) -> str:
    if _is_section(info.annotation):
        return f"{name}: {info.annotation.__doc__}"
    facts = "needed" if info.is_required() else f"default {info.default!r}"
    choices = get_args(info.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        facts += f"; {' | '.join(choices)}"
    return f"{name} ({facts}): {info.description}"
