"""Programs that misbehave in the sandbox, and what they may do."""

import os
import re
import socket
import tempfile
import time
from pathlib import Path

import pytest

from distill.tasks import sandbox
from distill.tasks.box.child import NOT_SANDBOXED

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
CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(NUMBER, ARGUMENTS) < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("bytearray(2 << 30)", "MemoryError"),
        ("open('{outside}', 'w')", "Permission denied"),
        ("open('{readable}').read()", "Permission denied"),
        ("open('big', 'wb').write(bytes(4 << 20))", "File too large"),
        ("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", "not permitted"),
        (
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
            "not permitted",
        ),
        ("import socket\nsocket.socket(socket.AF_UNIX).connect('{socket}')", "not permitted"),
        ("import socket\nsocket.socketpair(type=2)[0].sendto(b'x', '{socket}')", "not permitted"),
        ("import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "not permitted"),
        ("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "not permitted"),
        ("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "not permitted"),
        (CALL.replace("NUMBER", "425").replace("ARGUMENTS", "8, bytes(120)"), "not permitted"),
        (
            CALL.replace("NUMBER", "0x40000000 + 41").replace("ARGUMENTS", "1, 1, 0"),
            "not permitted",
        ),
        ("import os\nos.memfd_create('x')", "not permitted"),
        ("import os\nos.unshare(os.CLONE_NEWUSER)", "no attribute|not permitted"),
        ("for n in range(40):\n    open(f'{n}', 'wb').write(bytes(900_000))", "No space left"),
        ("import os\nfor n in range(9999):\n    open(f'{n}', 'w').close()", "No space left"),
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
    path = tmp_path / "socket"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(str(path))
        listening.listen()
        values = {
            "socket": path,
            "outside": tmp_path / "new",
            "readable": tmp_path / "readable",
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
        for name, value in values.items():
            program = program.replace("{" + name + "}", str(value))
        outcome = sandbox.run(program, strict=True)
    assert outcome.status not in (sandbox.PASSED, NOT_SANDBOXED, 0)
    assert re.search(output, outcome.output), outcome.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["readable", "socket"]


def sandboxes():
    """Processes that run a sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_one = b"from box import child" in path.read_bytes()
            found += [path.parent.name] if is_one else []
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
    program = """
import asyncio, json, multiprocessing, sqlite3, subprocess, threading, numpy
open('x', 'w').write('y')
assert open('x').read() == 'y'
assert numpy.ones(3).sum() == 3
assert asyncio.run(asyncio.sleep(0, 5)) == 5
threading.Thread(target=print).start()
assert subprocess.run(['/bin/echo', 'z'], capture_output=True).stdout == b'z\\n'
"""
    outcome = sandbox.run(program, strict=True)
    assert outcome.passed, outcome.output


NESTS = """
import os
for n in range(3000):
    os.mkdir('d')
    os.chdir('d')
"""


@needs_sandbox
def test_an_answer_that_nests_folders_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        sandbox.run(NESTS, strict=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_removed_however_deep_and_whatever_its_rights(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("stays")
    (folder / "link").symlink_to(outside)
    (folder / "closed").mkdir()
    (folder / "closed" / "d").mkdir()
    (folder / "closed").chmod(0)
    before = os.getcwd()
    os.chdir(folder)
    for number in range(1100):  # deeper than Python calls, and than a path is long
        os.mkdir("deep")
        os.chdir("deep")
        if number % 500 == 0:
            Path("other").mkdir()
            Path("file").touch()
    os.chdir(before)
    assert sandbox._is_too_much(str(folder))
    sandbox._remove(str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
