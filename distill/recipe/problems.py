"""What is wrong with a recipe, a line for each problem: file, field, value, way out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.errors import did_you_mean, in_short, shown
from distill.recipe.explain import fields_at, meant_in_sections

LONGEST_LINE, LONGEST_MESSAGE = 600, 800  # characters
# Fields that had another name before
RENAMED = {"think": "reasoning", "thinking": "enable_thinking", "steer": "system_prompts"}
# pydantic's names of a value where there should be a section
NO_SECTION = ("model_type", "model_attributes_type")
# Fields that may hold a key by mistake: their value is not repeated
SECRET = ("server", "judge_server", "api_key_env", "judge_api_key_env")


def problem_lines(source: Path, error: ValidationError, values: dict[str, Any]) -> list[str]:
    """Return a line for each problem. `source`: the recipe's file, `values`: what it says.

    Where they fill LONGEST_MESSAGE the others are counted.
    """
    problems = error.errors()
    lines: list[str] = []
    for problem in problems:
        if sum(map(len, lines)) > LONGEST_MESSAGE:
            lines.append(f"{source}: and {len(problems) - len(lines)} more problems")
            break
        lines.append(f"{source}: {in_short(_problem(problem, values), LONGEST_LINE)}")
    return lines


def _problem(problem: Mapping[str, Any], values: dict[str, Any]) -> str:
    location = [in_short(str(part), 60) for part in problem["loc"]]
    name = ".".join(location)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" or not location:  # a sentence of ours
        return f"{name}: {message}" if name else message
    message = message[0].lower() + message[1:]
    if location[-1] == "[key]":  # of a mapping with fixed keys
        return f"{'.'.join(location[:-1])}: unknown key: {message}"
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown key; {_hint(location)}"
    if problem["type"] == "missing":
        return f"{name}: missing; it is needed"
    if location[-1] in SECRET:
        return f"{name}: {message}"
    if problem["type"] in NO_SECTION and (known := fields_at(location)):
        message = f"a section, so fields in braces, {{NAME: value}}; it has {', '.join(known)}"
    return f"{name}: {shown(_value_at(problem['loc'], values))}: {message}"


def _hint(location: Sequence[str]) -> str:
    """Return what a key that the recipe does not know may have meant."""
    known = fields_at(location[:-1])
    renamed = RENAMED.get(location[-1])
    if renamed in known:
        return f"did you mean {renamed}?"
    elsewhere = meant_in_sections(location[-1]) if len(location) <= 2 else ""
    if elsewhere:
        return elsewhere
    return did_you_mean(location[-1], known, cutoff=0.5) or f"known here: {', '.join(known)}"


def _value_at(location: Sequence[str | int], values: Any) -> Any:
    """Return the value at a location, or the last one on the way to it."""
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
    return values
