"""Programming in Python: right if the answer's code passes the tests that are its reference.

A reference is such as `assert add(1, 2) == 3`; box/judge.py says what tests can do with a program
that runs in another process. This runs code that a model wrote, in a sandbox (sandbox.py), and only
where generate.run_code says so.
"""

import ast
import re
from functools import cache, lru_cache, partial
from typing import Any

from distill.errors import MissingError, shown
from distill.recipe.sections import Generate
from distill.tasks import Grade, sandbox

VERSION = 2

_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE
)
_PYTHON = ("python", "py", "python3")


def grader(options: Generate) -> Grade:
    """Return `grade` for this machine, as strict as generate.run_code says.

    Raise MissingError naming what the system refuses the sandbox, if `sandboxed` asks for all of
    it, or if it is too much.
    """
    strict = options.run_code == "sandboxed"
    lack = sandbox.lack(strict)
    if lack is None:
        if not strict and (missing := sandbox.lack(strict=True)):
            _tell(missing)
        return partial(grade, strict=strict)
    way_out = ", or set generate.run_code to limited to go without what is missing"
    raise MissingError(
        f"generate.task python_tests: code cannot be sandboxed here: {lack}. "
        f"Run this stage on a Linux machine that allows it{way_out if strict else ''}"
    )


@cache  # a stage asks for its grader more than once
def _tell(missing: str) -> None:
    print(f"generate.task python_tests: code runs here without all of the sandbox: {missing}")


def reference_problem(text: str) -> str | None:
    """Return why these are no tests, or None: what is no Python fails all, what checks nothing none."""
    try:
        tests = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"no tests in Python ({shown(error)})"
    checking = (ast.Assert, ast.Raise, ast.Call)
    if any(isinstance(node, checking) for node in ast.walk(tests)):
        return None
    return "no tests: nothing in it is asserted"


def grade(answer_text: str, row: dict[str, Any], *, strict: bool = True) -> bool:
    """Return whether the code in the fenced blocks of `answer_text` passes `row["reference"]`.

    False where there is none.
    """
    program = code(answer_text)
    return program is not None and _passes(program, str(row["reference"]), strict)


@lru_cache(maxsize=1 << 14)  # each round of draws judges all answers so far
def _passes(program: str, tests: str, strict: bool) -> bool:
    return sandbox.run(program, tests=tests, strict=strict).passed


def code(answer_text: str) -> str | None:
    """Return the blocks fenced as ```python one after the other, as a notebook would run them.

    The last block if none says its language. Blocks of a session (>>>) are left out.
    """
    python: list[str] = []
    unnamed: list[str] = []
    for match in _BLOCK.finditer(answer_text):
        language, text = match[2].lower(), match[3]
        if text.lstrip().startswith(">>>"):
            continue
        if language in _PYTHON:
            python.append(text)
        elif not language:
            unnamed.append(text)
    return "\n".join(python or unnamed[-1:]) or None
