"""Tasks whose answers can be checked: one module each, with `VERSION` and two functions.

`grader(options)` returns `grade(answer_text, row) -> bool` and raises MissingError where this machine
lacks what the task needs. A row has `reference` and, for who reads numbers, `language`.
`reference_problem(text)` returns why no answer could be right by this reference, or None.
"""

import importlib
from collections.abc import Callable
from typing import Any

from distill.recipe.sections import Generate

Grade = Callable[[str, dict[str, Any]], bool]


def grader(options: Generate) -> Grade | None:
    """Return the `grade` of generate.task, or None for no task.

    Raise MissingError where this machine lacks what the task needs; ask for it before anything is
    paid for.
    """
    if options.task is None:
        return None
    return importlib.import_module(f"distill.tasks.{options.task}").grader(options)


def reference_problem(name: str, text: str) -> str | None:
    """Return why no answer could be right by this text as reference in the task, or None."""
    return importlib.import_module(f"distill.tasks.{name}").reference_problem(text)


def version(name: str | None) -> int | None:
    """Return the task's VERSION, to be shown beside its scores."""
    return importlib.import_module(f"distill.tasks.{name}").VERSION if name else None
