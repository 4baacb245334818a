"""Programs that misbehave in the sandbox, and what they may do."""

import os
import socket
import time
from pathlib import Path

import pytest

from distill.tasks import sandbox

LACK = sandbox.lack(strict=True)
needs_sandbox = pytest.mark.skipif(
    LACK is not None, reason=f"code cannot be sandboxed here: {LACK}"
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


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "output"),
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
            "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo hello from inside && exit 1'], check=True)",
            "hello from inside",
        ),
    ],
)
def test_what_a_program_may_not_do(program, output, tmp_path, monkeypatch):
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
        outcome = sandbox.run(program, strict=True)
    assert (
        outcome.status not in (sandbox.PASSED, sandbox.NOT_SANDBOXED, 0)
        and output in outcome.output
    )
    assert [p.name for p in tmp_path.iterdir()] == ["readable"]


def sandboxes():
    """Processes that run a sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if sandbox.__file__.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


@needs_sandbox
def test_a_fork_bomb_and_an_endless_loop_end_with_all_their_processes():
    assert sandbox.run(FORKS, strict=True).passed
    assert (
        sandbox.run(
            "import os\nif os.fork(): os.setsid()\nwhile True: pass", strict=True, seconds=2
        ).status
        == -9
    )
    while sandboxes():  # a kill takes a moment
        time.sleep(0.05)


@needs_sandbox
def test_what_a_program_may_do():
    program = "open('x', 'w').write('y')\nassert open('x').read() == 'y'\nimport json, sqlite3, numpy\nassert numpy.ones(3).sum() == 3"
    outcome = sandbox.run(program, strict=True)
    assert outcome.passed, outcome.output
