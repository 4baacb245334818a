"""A system that refuses the namespaces: what is told, and what still holds."""

import json
import subprocess
import sys
import tempfile

import pytest

from distill.tasks import sandbox

# Our own filter, put on first, refuses the namespaces. Root, whom nothing limits, is never let in: in
# a namespace of users it is somebody else.
REFUSING = """
import ctypes, json, os, sys, tempfile
from distill.tasks import sandbox
from distill.tasks.box.seccomp import refuse_system_calls
tempfile.tempdir = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    libc.unshare(0x10000000)
    open("/proc/self/uid_map", "w").write("1000 0 1")
libc.prctl(38, 1, 0, 0, 0)
refuse_system_calls(libc, may_leave_session=True)
def run(program, tests=None, strict=False):
    outcome = sandbox.run(program, tests=tests, strict=strict, seconds=8)
    return [outcome.status, outcome.output[-200:], len(os.listdir(sys.argv[1]))]
fill = "for n in range(9999):\\n    open(f'{n}', 'wb').write(bytes(1 << 20))\\n    import time; time.sleep(.02)"
nest = "import os\\nfor n in range(3000):\\n    os.mkdir('d')\\n    os.chdir('d')"
print(json.dumps({
    "strict": run("x = 1", strict=True),
    "right": run("def f(): return 3", "assert f() == 3"),
    "cheat": run("import os\\nos._exit(93)", "assert f() == 3"),
    "socket": run("import socket\\nsocket.socket(socket.AF_UNIX)"),
    "session": run("import os\\nos.setsid()"),
    "fill": run(fill),
    "nest": run(nest),
}))
"""


@pytest.fixture(scope="module")
def outcomes():
    if (lack := sandbox.lack(strict=False)) is not None:
        pytest.skip(f"code cannot be sandboxed here: {lack}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", REFUSING, folder]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def test_strict_runs_nothing_and_says_what_is_refused(outcomes):
    status, output, _ = outcomes["strict"]
    assert status == 94
    assert output == (
        "the system refuses namespaces for network and processes (Operation not permitted)"
    )


def test_limited_judges_alike_and_no_socket_is_made(outcomes):
    assert outcomes["right"][0] == sandbox.PASSED
    assert outcomes["cheat"][0] == 1
    assert outcomes["socket"][0] == outcomes["session"][0] == 1
    assert "not permitted" in outcomes["socket"][1] and "not permitted" in outcomes["session"][1]


def test_a_program_that_fills_the_disk_is_killed_and_leaves_nothing(outcomes):
    assert outcomes["fill"][0] == -9
    assert [left for _, _, left in outcomes.values()] == [0] * len(outcomes)
