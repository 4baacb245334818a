"""Change values of one section of a recipe's text, and nothing else in the file.

The text is edited line by line, so that comments, order and spelling stay. What comes out is read
again: where it does not say exactly what was wanted, nothing is changed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distill.recipe.strict_yaml import NotYaml, StrictDumper, parse

_KEY = re.compile(r"^(?P<indent> +)(?P<name>[A-Za-z_]\w*):(?P<rest>(?:[ \t].*)?)$")
_COMMENT = re.compile(r"^(?P<value>[^#'\"&*!|>]*?)(?P<comment>\s+#.*)?$")
Values = Mapping[str, Any]


class NotEdited(ValueError):
    """The text cannot be changed safely; the message says why."""


@dataclass(frozen=True)
class _Field:
    """A field of the section: its lines, from `start` to before `end`, numbered in the text."""

    name: str
    start: int
    end: int


def edit_section(text: str, section: str, values: Values, defaults: Values) -> str:
    """Return the text with these values in the section.

    A field whose value is its default is not written; where the file names it, it becomes a comment.

    Raises NotEdited where the text is not one that can be changed so.
    """
    before = _parsed(text)
    wanted = _wanted(before.get(section), values, defaults)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(newline)
    start, end = _place(lines, section)
    if _is_on_one_line(lines[start], section):
        edited = [*lines[:start], _flow(lines[start], section, wanted), *lines[start + 1 :]]
    else:
        inner = _edited(lines, start, end, before[section], wanted)
        edited = [*lines[: start + 1], *inner, *lines[end:]]
    after = newline.join(edited)
    if _parsed(after) != {**before, section: wanted}:
        raise NotEdited("what would come out says something else")
    return after


def _parsed(text: str) -> dict[str, Any]:
    try:
        values = parse(text.removeprefix("\ufeff"))
    except NotYaml as error:
        raise NotEdited(str(error)) from None
    if not isinstance(values, dict):
        raise NotEdited("there are no sections in it")
    return values


def _wanted(old: Any, values: Values, defaults: Values) -> dict[str, Any]:
    """Return what the section is to say: its other fields stay, defaults are left out."""
    if not isinstance(old, dict):
        raise NotEdited("the section is not there, or not one of fields")
    wanted = {name: value for name, value in old.items() if name not in values}
    for name, value in values.items():
        is_default = name in defaults and value == defaults[name]
        if name in old and _means(old[name], value):
            wanted[name] = old[name]
        elif not is_default:
            wanted[name] = value
    return wanted


def _means(old: Any, value: Any) -> bool:
    """Return whether what the file says is this value: it may leave out what a section has besides."""
    if isinstance(old, dict) and isinstance(value, dict):
        return old.keys() <= value.keys() and all(_means(old[n], value[n]) for n in old)
    return old == value


def _place(lines: Sequence[str], section: str) -> tuple[int, int]:
    """Return the section's first line, and the one after its last field."""
    starts = [i for i, line in enumerate(lines) if re.match(rf"\ufeff?{section}:(\s|$)", line)]
    if len(starts) != 1:
        raise NotEdited(f"there is no line `{section}:`")
    start = starts[0]
    end = start + 1
    for i in range(start + 1, len(lines)):
        if lines[i].startswith(" ") and lines[i].strip():
            end = i + 1
        elif lines[i].strip() and not lines[i].startswith("#"):
            break
    return start, end


def _is_on_one_line(line: str, section: str) -> bool:
    rest = line.partition(f"{section}:")[2].strip()
    if rest.startswith("{"):
        return True
    if rest and not rest.startswith("#"):
        raise NotEdited(f"`{section}:` is followed by {rest[:40]!r}")
    return False


def _flow(line: str, section: str, wanted: Values) -> str:
    """Return a section on one line anew, with its comment."""
    head, _, rest = line.partition(f"{section}:")
    closed = rest.rindex("}") + 1 if "}" in rest else len(rest)
    return f"{head}{section}: {_text(wanted)}{rest[closed:]}"


def _edited(lines: Sequence[str], start: int, end: int, old: Values, wanted: Values) -> list[str]:
    """Return the lines of the section below its name."""
    fields = _fields(lines, start, end)
    indent = re.match(" *", lines[fields[0].start])[0] if fields else "  "  # type: ignore[index]
    inner, at = [], start + 1
    for field in fields:
        inner += lines[at : field.start]
        own = list(lines[field.start : field.end])
        at = field.end
        if field.name not in wanted:
            own = [_commented(line, indent) for line in own]
        elif wanted[field.name] != old.get(field.name):
            own = _replaced(own, indent, field.name, wanted[field.name])
        inner += own
    inner += lines[at:end]
    named = {field.name for field in fields}
    added = {name: value for name, value in wanted.items() if name not in named}
    return [*inner, *(f"{indent}{name}: {_text(value)}" for name, value in added.items())]


def _fields(lines: Sequence[str], start: int, end: int) -> list[_Field]:
    """Return the fields of a section; a field goes on as long as lines are further in than it."""
    fields: list[_Field] = []
    indent = ""
    i = start + 1
    while i < end:
        line = lines[i]
        if not line.strip() or line.lstrip().startswith("#"):
            i += 1
            continue
        found = _KEY.match(line)
        if found is None or (fields and found["indent"] != indent):
            raise NotEdited(f"line {i + 1} is none that is understood: {line.strip()[:40]!r}")
        indent = str(found["indent"])
        last = _end_of_field(lines, i, end, indent)
        fields.append(_Field(found["name"], i, last))
        i = last
    return fields


def _end_of_field(lines: Sequence[str], start: int, end: int, indent: str) -> int:
    """Return the number of the line after the field that begins at `start`.

    Comments belong to it where more of it follows.
    """
    last = start + 1
    for i in range(start + 1, end):
        is_comment = lines[i].lstrip().startswith("#")
        if lines[i].startswith((indent + " ", indent + "- ")) and not is_comment:
            last = i + 1
        elif lines[i].strip() and not is_comment:
            break
    return last


def _commented(line: str, indent: str) -> str:
    return f"{indent}# {line[len(indent) :]}" if line.strip() else line


def _replaced(own: Sequence[str], indent: str, name: str, value: Any) -> list[str]:
    """Return the lines of a field with another value; of several lines the old ones as comments."""
    begun = own[0].partition(":")[2].partition("#")[0].strip()
    if len(own) > 1 and begun:
        raise NotEdited(f"{name} stands on more than one line")
    first = _with_value(own[0], indent, name, value)
    return [first, *(_commented(line, indent) for line in own[1:])]


def _with_value(line: str, indent: str, name: str, value: Any) -> str:
    """Return the line of a field with another value, and its comment where it stood."""
    rest = line[len(indent) + len(name) + 1 :]
    found = _COMMENT.match(rest)
    if found is None:  # quotes, brackets: a # may be in them
        if "#" in rest:
            raise NotEdited(f"it cannot be told where the comment of {name} begins")
        return f"{indent}{name}: {_text(value)}"
    new = f"{indent}{name}: {_text(value)}"
    if not found["comment"]:
        return new
    column = len(line) - len(found["comment"].lstrip())
    return f"{new:<{column - 2}}  {found['comment'].strip()}"


def _text(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.dump(
        value,
        Dumper=StrictDumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=10**9,
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()
