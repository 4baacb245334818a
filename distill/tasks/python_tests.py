"""Programming in Python: right if the answer's code passes the tests that are its reference (`assert add(1, 2) == 3`).

This runs code that a model wrote, in a box (box.py), and only where generate.run_code says so.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from distill.errors import MissingError
from distill.tasks import sandbox

VERSION = 1

_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE
)
_PYTHON = ("python", "py", "python3")


def grader(*, whole: bool) -> Callable[[str, dict[str, Any]], bool]:
    """`grade` for this machine. Raises MissingError naming what the system refuses the box, if `whole`, or if it is too much."""
    if (lack := sandbox.lack(whole)) is not None:
        raise MissingError(
            f"generate.task python_tests: code cannot be sandboxed here: {lack}. Run this stage on a Linux machine that allows it"
            + (
                ", or set generate.run_code to limited to go without what is missing"
                if whole
                else ""
            )
        )
    return partial(grade, whole=whole)


def grade(answer_text: str, row: dict[str, Any], *, whole: bool = True) -> bool:
    """Whether the code in the fenced blocks of `answer_text` passes `row["reference"]`; False where there is none."""
    program = code(answer_text)
    return program is not None and _passes(f"{program}\n\n{row['reference']}", whole)


@lru_cache(maxsize=1 << 14)  # each round of draws judges all answers so far
def _passes(program: str, whole: bool) -> bool:
    return sandbox.run(program, whole=whole).passed


def code(answer_text: str) -> str | None:
    """The blocks fenced as ```python one after the other, as a notebook would run them; the last block if none says its
    language. Blocks of a session (>>>) are left out."""
    blocks = [
        (m[2].lower(), m[3])
        for m in _BLOCK.finditer(answer_text)
        if not m[3].lstrip().startswith(">>>")
    ]
    python = [text for language, text in blocks if language in _PYTHON] or [
        text for language, text in blocks if not language
    ][-1:]
    return "\n".join(python) or None
