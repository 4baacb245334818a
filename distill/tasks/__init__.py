"""Tasks whose answers can be checked: one module each, with VERSION and `grade(answer_text, row) -> bool`."""

import importlib
from collections.abc import Callable
from typing import Any

Grade = Callable[[str, dict[str, Any]], bool]


def grader(name: str | None) -> Grade | None:
    """The task's `grade`, or None for no task. Names come from the recipe's schema."""
    return importlib.import_module(f"distill.tasks.{name}").grade if name else None


def version(name: str | None) -> int | None:
    """The task's VERSION, to be shown beside its scores."""
    return importlib.import_module(f"distill.tasks.{name}").VERSION if name else None
