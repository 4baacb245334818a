"""A sandbox for code that a model wrote: little time, memory and disk, one folder, no network.

Linux only.

    outcome = run("x = 2", tests="assert x == 2", strict=True)      # outcome.passed

The child is the package box/, started by path with an empty environment. Before it runs the program
it takes from itself what the program must not have: the network and the sight of other processes
(namespaces), all files but its folder and Python's own (Landlock; its folder alone may be written,
and is a disk of 16 MiB in memory), sockets and other dangerous system calls (seccomp), and
everything beyond the limits (rlimits).

The tests run in a process of their own, which asks the program for values and compares them. So a
program cannot pass by ending with some status, by an `__eq__` that is always true, by patching
Python or by reading the tests: box/judge.py says what a test can be. What a test hands to the
program it may use: a method that is asked whether 3 is right (`assert f.accepts(3)`) answers itself.

It is no wall against somebody who knows a hole in the kernel. Without namespaces the folder is on
the real disk: what it holds is summed ten times a second, so that a fast program writes more than
its 16 MiB before it is killed.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from distill.tasks.box.confine import DISK_BYTES, DISK_FILES, PROCESSES
from distill.tasks.box.judge import PASSED

SECONDS = 10  # by the clock
DISK_WATCH_SECONDS = 0.1
MAX_DEPTH = 32  # of folders in folders
REMOVE_TRIES = 100
_START = """
import sys
sys.path.insert(0, sys.argv[1])
from box import child
del sys.path[0]
child.main(*sys.argv[2:])
"""


@dataclass(frozen=True)
class Outcome:
    """How a program and its tests ended.

    `status`: the exit status, -9 where all was killed at the deadline or for its files. `output`:
    the end of what was printed.
    """

    status: int
    output: str

    @property
    def passed(self) -> bool:
        """Return whether the program and its tests ran to their end."""
        return self.status == PASSED


def run(
    program: str, *, tests: str | None = None, strict: bool, seconds: float = SECONDS
) -> Outcome:
    """Run a program, then its tests, in the sandbox until they end or `seconds` are over.

    Then all its processes are killed. `strict`: do not run it at all (status NOT_SANDBOXED) where
    the system refuses the namespaces, Landlock or seccomp. Else it runs with what there is; the
    rlimits always hold.
    """
    with _folder() as folder, tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as output:
        Path(folder, "answer.py").write_text(program, encoding="utf-8", errors="replace")
        if tests is not None:
            asked.write(b"\n" + tests.encode("utf-8", "replace"))
            asked.seek(0)
        status = _run_child(folder, asked, output, strict, seconds)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 1000))
        return Outcome(status, output.read().decode(errors="replace").strip())


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        _remove(folder)


def _run_child(
    folder: str, asked: IO[bytes], output: IO[bytes], strict: bool, seconds: float
) -> int:
    """Run the child and return its exit status, -SIGKILL at the deadline."""
    python = [sys.executable, "-I", "-B", "-X", "utf8", "-c", _START]
    # what is printed can be written there, not read: the tests print, too
    printed = os.open(f"/proc/self/fd/{output.fileno()}", os.O_WRONLY | os.O_APPEND)
    with subprocess.Popen(
        [*python, str(Path(__file__).parent), folder, "strict" if strict else "limited"],
        cwd=folder,
        env={
            "HOME": folder,
            "TMPDIR": folder,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdin=asked,
        stdout=printed,
        stderr=printed,
        start_new_session=True,
    ) as child:
        os.close(printed)
        try:
            return _wait(child, folder, seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it left behind, too
                os.killpg(child.pid, signal.SIGKILL)


def _wait(child: subprocess.Popen[bytes], folder: str, seconds: float) -> int:
    """Return the child's status; -SIGKILL at the deadline or where its files are too much."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            return child.wait(min(left, DISK_WATCH_SECONDS))
        except subprocess.TimeoutExpired:
            if _is_too_much(folder):
                break
    return -signal.SIGKILL


def _is_too_much(folder: str) -> bool:
    """Return whether a folder's files are more, larger or deeper than a program may leave."""
    num_bytes = num_files = 0
    waiting = [(folder, 0)]
    while waiting and num_bytes <= DISK_BYTES and num_files <= DISK_FILES:
        path, depth = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(path) as entries:  # it is gone, or closed
            for entry in entries:
                num_files += 1
                num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
        if depth > MAX_DEPTH:
            return True
    return num_bytes > DISK_BYTES or num_files > DISK_FILES


def _remove(folder: str) -> None:
    """Remove a folder, however deep and whatever its rights."""
    problem = None
    for _ in range(REMOVE_TRIES):
        try:
            _empty(folder)
            os.rmdir(folder)
            return
        except OSError as error:  # a process that was just killed wrote once more
            problem = error
            time.sleep(0.01)
    print(f"python_tests: {folder} could not be removed ({problem}); remove it yourself")


def _empty(folder: str) -> None:
    """Remove what is in a folder; what is in a folder in it is first moved up.

    shutil.rmtree calls itself at each level, and paths end at 4,096 bytes.
    """
    os.chmod(folder, 0o700)
    number, prefix = 0, secrets.token_hex(8)  # a name that nothing there has
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in os.listdir(entry.path):
                number += 1
                os.rename(Path(entry.path, inner), Path(folder, f"{prefix}{number}"))
            os.rmdir(entry.path)


@cache
def lack(strict: bool) -> str | None:
    """Return why code cannot be sandboxed on this machine, or None; tried once."""
    if sys.platform != "linux":
        return f"the sandbox needs Linux, this is {sys.platform}"
    outcome = run(_BOMB, strict=strict, seconds=60)
    if outcome.passed:
        return None
    return outcome.output or f"its child ended with {outcome.status}"


_BOMB = f"""
import os, time
try:
    for _ in range({PROCESSES}):
        if os.fork() == 0:
            time.sleep(60)
except BlockingIOError:
    pass
else:
    raise SystemExit("the system does not limit this user's processes")
"""
