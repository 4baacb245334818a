"""Code in a box: right and wrong solutions, and programs that misbehave."""

import sys
import time
from pathlib import Path

import pytest

from distill.errors import MissingError
from distill.recipe.sections import Generate
from distill.tasks import grader, python_tests, sandbox

LACK = sandbox.lack(whole=True)
boxed = pytest.mark.skipif(LACK is not None, reason=f"code cannot be sandboxed here: {LACK}")

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
RIGHT = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds."


def options(**more):
    return Generate.model_validate({"prompts": "p.jsonl", **more})


@boxed
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


FORKS = """
import os, time
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            time.sleep(60)
        children += 1
except BlockingIOError:
    pass
assert 0 < children < 10
"""


@boxed
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("bytearray(2 << 30)", "MemoryError"),
        ("open('{outside}', 'w')", "Permission denied"),
        ("open('{readable}').read()", "Permission denied"),
        ("open('big', 'wb').write(bytes(4 << 20))", "File too large"),
        ("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", "unreachable"),
        (
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
            "unreachable",
        ),
        ("import resource as r\nr.setrlimit(r.RLIMIT_NPROC, (999, 999))", "not allowed to raise"),
        ("import os\nos.kill({pid}, 9)", "No such process"),
        ("import os\nassert os.environ['SECRET']", "KeyError"),
        (
            "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo hello from the box && exit 1'], check=True)",
            "hello from the box",
        ),
    ],
)
def test_what_a_program_may_not_do(program, said, tmp_path, monkeypatch):
    import os
    import socket

    monkeypatch.setenv("SECRET", "shown")
    (tmp_path / "readable").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        values = {
            "outside": tmp_path / "new",
            "readable": tmp_path / "readable",
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
        for name, value in values.items():
            program = program.replace("{" + name + "}", str(value))
        outcome = sandbox.run(program, whole=True)
    assert outcome.status not in (sandbox.PASSED, sandbox.NOT_BOXED, 0) and said in outcome.said
    assert [p.name for p in tmp_path.iterdir()] == ["readable"]


def boxes():
    """Processes that run a box."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if sandbox.__file__.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


@boxed
def test_a_fork_bomb_and_an_endless_loop_end_with_all_their_processes():
    assert sandbox.run(FORKS, whole=True).passed
    assert (
        sandbox.run(
            "import os\nif os.fork(): os.setsid()\nwhile True: pass", whole=True, seconds=2
        ).status
        == -9
    )
    while boxes():  # a kill takes a moment
        time.sleep(0.05)


@boxed
def test_what_a_program_may_do():
    program = "open('x', 'w').write('y')\nassert open('x').read() == 'y'\nimport json, sqlite3, numpy\nassert numpy.ones(3).sum() == 3"
    outcome = sandbox.run(program, whole=True)
    assert outcome.passed, outcome.said


def test_code_is_run_only_where_the_recipe_says_so():
    for more in (
        {"task": "python_tests"},
        {"run_code": "sandboxed"},
        {"task": "math_answer", "run_code": "limited"},
    ):
        with pytest.raises(ValueError, match="runs code that models wrote"):
            options(**more)


def test_a_system_that_cannot_box_is_told_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr(sandbox, "lack", lambda whole: "no namespaces" if whole else None)
    with pytest.raises(MissingError, match=r"no namespaces.*run_code to limited"):
        grader(options(task="python_tests", run_code="sandboxed"))
    assert grader(options(task="python_tests", run_code="limited"))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    sandbox.lack.cache_clear()
    with pytest.raises(MissingError, match="needs Linux, this is darwin"):
        python_tests.grader(whole=False)
    sandbox.lack.cache_clear()
