"""Programming in Python: right and wrong solutions, and machines that cannot run them."""

import sys

import pytest

from distill.errors import MissingError
from distill.recipe.sections import Generate
from distill.tasks import grader, sandbox

LACK = sandbox.lack(strict=True)
needs_sandbox = pytest.mark.skipif(
    LACK is not None, reason=f"code cannot be sandboxed here: {LACK}"
)
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
RIGHT = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds."


def options(**more):
    return Generate.model_validate({"prompts": "p.jsonl", **more})


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (RIGHT, True),
        (RIGHT.replace("a + b", "a - b"), False),
        (RIGHT.replace("```python", "```"), True),
        (RIGHT + "\n```\nnot the answer\n```\n```text\nnor this\n```", True),
        ("```py\nONE = 1\n```\nand\n~~~python\ndef add(a, b):\n    return ONE * a + b\n~~~", True),
        (RIGHT.replace("\n```\nIt", "\n\nif __name__ == '__main__':\n    input()\n```\nIt"), True),
        (RIGHT + "\n```python\n>>> add(1, 2)\n3\n```", True),
        ("def add(a, b): return a + b", False),  # no block: prose, for all we know
        ("```python\nimport sys\nsys.exit(0)\n```", False),  # ends before the tests
        ("```python\nimport os\nos._exit(0)\n```", False),
        ("```python\ndef add(a, b:\n```", False),
        ("", False),
    ],
)
def test_right_is_what_passes_the_tests(answer, passes):
    assert (
        grader(options(task="python_tests", run_code="sandboxed"))(answer, {"reference": TESTS})
        is passes
    )


def test_code_is_run_only_where_the_recipe_says_so():
    for more in (
        {"task": "python_tests"},
        {"run_code": "sandboxed"},
        {"task": "math_answer", "run_code": "limited"},
    ):
        with pytest.raises(ValueError, match="runs code that models wrote"):
            options(**more)


def test_a_system_that_cannot_sandbox_is_told_and_nothing_is_run(monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "lack", lambda strict: "no namespaces" if strict else None)
    with pytest.raises(MissingError, match=r"no namespaces.*run_code to limited"):
        grader(options(task="python_tests", run_code="sandboxed"))
    assert grader(options(task="python_tests", run_code="limited"))
    assert "code runs here without all of the sandbox: no namespaces" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    sandbox.lack.cache_clear()
    with pytest.raises(MissingError, match="needs Linux, this is darwin"):
        grader(options(task="python_tests", run_code="limited"))
    sandbox.lack.cache_clear()
