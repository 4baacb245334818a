"""What a section of the recipe is made of, and how it is explained."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from distill.errors import RecipeError


def field(default: Any, description: str, *, machine: bool = False) -> Any:
    return Field(default, description=description, json_schema_extra={"machine": machine})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what comes out."""
        fields = type(self).model_fields
        machine = {
            n
            for n, f in fields.items()
            if isinstance(f.json_schema_extra, dict) and f.json_schema_extra["machine"]
        }
        return self.model_dump(mode="json", exclude=machine)


def fields_at(model: type[BaseModel], location: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, field) of what stands at `location` of a recipe of `model`; nothing where it is no section."""
    for part in location:
        if part.isdecimal():  # a place in a list
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        for inner in (annotation, *get_args(annotation)):  # a list of sections, or none
            if get_origin(inner) is list:
                annotation = get_args(inner)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return
        model = annotation
    yield from model.model_fields.items()


def describe(model: type[BaseModel], name: str) -> str:
    """A field of a recipe of `model`, or every field of a section: name, default, choices, description."""
    parts = [p for p in name.split(".") if p]
    fields = dict(fields_at(model, parts[:-1]))
    if parts and parts[-1] not in fields:
        near = difflib.get_close_matches(parts[-1], fields, n=1, cutoff=0.4)
        raise RecipeError(f"{name}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
    inner = list(fields_at(model, parts))
    shown = [(f"{name}.{n}" if name else n, f) for n, f in inner]
    if parts and not (
        inner and isinstance(fields[parts[-1]].annotation, type)
    ):  # a section has no text of its own
        shown.insert(0, (name, fields[parts[-1]]))
    lines = []
    for full, f in shown:
        is_section = isinstance(f.annotation, type) and issubclass(f.annotation, Section)
        if is_section:
            lines.append(f"{full}: {f.annotation.__doc__}")
            continue
        choices = get_args(f.annotation)
        kind = (
            " | ".join(map(str, choices))
            if choices and all(isinstance(c, str) for c in choices)
            else ""
        )
        default = "needed" if f.is_required() else f"default {f.default!r}"
        lines.append(f"{full} ({default}{'; ' + kind if kind else ''}): {f.description}")
    return "\n".join(lines)
