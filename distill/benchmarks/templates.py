"""The templates of a benchmark's file, filled within the bounds of chat templates."""

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError

from distill.chat.bounds import Budget, TooMuch, limited
from distill.chat.rendering import BoundedEnvironment

# What foreign values can make a template raise; the last three are those of `literal`
FAILURES = (
    TemplateError,
    TooMuch,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


def fill(template: str, row: Mapping[str, Any], language: str, words: Mapping[str, str]) -> str:
    """Return the text of a row's fields. Raises one of FAILURES where they do not fit."""
    if "{" not in template:
        return template  # most choices are letters
    length = sum(len(str(value)) for value in row.values())
    with limited(Budget(length, 1)):
        return _parsed(template).render(row, language=language, words=words)


@cache
def _parsed(text: str) -> Template:
    environment = BoundedEnvironment(lambda _: "")  # no date in it
    environment.undefined, environment.keep_trailing_newline = StrictUndefined, True
    environment.filters["literal"] = ast.literal_eval  # a list that a data set holds as text
    return environment.from_string(text)
