"""Tasks whose answers can be checked: one module each, with VERSION and `grade(answer_text, row) -> bool`.

A row has `reference` and, for who reads numbers, `language`.
"""

import importlib
from collections.abc import Callable
from typing import Any

from distill.recipe.sections import Generate

Grade = Callable[[str, dict[str, Any]], bool]


def grader(options: Generate) -> Grade | None:
    """The `grade` of generate.task, or None for no task.

    Raises MissingError where this machine lacks what the task needs; ask for it before anything is paid for.
    """
    if options.task is None:
        return None
    module = importlib.import_module(f"distill.tasks.{options.task}")
    if options.task == "python_tests":
        return module.grader(whole=options.run_code == "sandboxed")
    if options.task == "math_answer":
        module.check()
    return module.grade


def version(name: str | None) -> int | None:
    """The task's VERSION, to be shown beside its scores."""
    return importlib.import_module(f"distill.tasks.{name}").VERSION if name else None
