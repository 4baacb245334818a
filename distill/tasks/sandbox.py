"""A box for code that a model wrote: little time and memory, few processes, one folder, no network. Linux only.

    outcome = run("assert 1 + 1 == 2", whole=True)      # outcome.passed

The child is this file, started by path with an empty environment. Before it runs the program it takes from itself what
the program must not have: the network and the sight of other processes (namespaces), all files but its folder and
Python's own (Landlock; its own folder alone may be written), and everything beyond the limits (rlimits).

It keeps in clumsy and looping code. It is no wall against somebody who knows a hole in the kernel, and a program that
wants to cheat can end with the status that means "passed".
"""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SECONDS, CPU_SECONDS = 10, 8  # the first by the clock
MEMORY = 512 << 20  # bytes of address space of each process
PROCESSES = 8  # and threads
FILE_BYTES = 1 << 20
PASSED, NOT_BOXED = (
    93,
    94,
)  # exit statuses: a program that ends by itself before its tests ran has not passed

NEWUSER, NEWPID, NEWNET, NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000  # sched.h
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # prctl.h
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = (
    444,
    445,
    446,
)  # system calls, the same on every architecture
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI: bits of rights to files; from 5 on 16
READ_FOLDER, READ_FILE, READ_WRITE_FILE = (
    0b1101,
    0b0100,
    0b0110,
)  # execute, read file, list; read file; and write
READABLE = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
)


@dataclass(frozen=True)
class Outcome:
    """`status`: the program's exit status, -9 where it was killed at the deadline; `said`: the end of what it printed."""

    status: int
    said: str

    @property
    def passed(self) -> bool:
        return self.status == PASSED


def run(program: str, *, whole: bool, seconds: float = SECONDS) -> Outcome:
    """Run a program in the box until it ends or `seconds` are over; then all its processes are killed.

    `whole`: not run at all (status NOT_BOXED) where the system refuses the namespaces or Landlock. Else it runs with what
    there is; the rlimits always hold.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        Path(folder, "answer.py").write_text(program, encoding="utf-8", errors="replace")
        environment = {
            "HOME": folder,
            "TMPDIR": folder,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-B",
                "-X",
                "utf8",
                __file__,
                folder,
                "whole" if whole else "limited",
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        ) as child:
            try:
                status = child.wait(seconds)
            except subprocess.TimeoutExpired:
                status = -signal.SIGKILL
            finally:
                with contextlib.suppress(ProcessLookupError):  # what it left behind, too
                    os.killpg(child.pid, signal.SIGKILL)
        said.seek(max(0, said.seek(0, os.SEEK_END) - 1000))
        return Outcome(status, said.read().decode(errors="replace").strip())


@cache
def lack(whole: bool) -> str | None:
    """Why code cannot be sandboxed on this machine, or None; tried once."""
    if sys.platform != "linux":
        return f"the box needs Linux, this is {sys.platform}"
    outcome = run(_BOMB, whole=whole, seconds=60)
    return None if outcome.passed else outcome.said or f"its child ended with {outcome.status}"


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


def _child(folder: str, whole: bool) -> None:
    """Box this process in, then run the program in a child of it."""
    import ctypes
    import resource

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        if (result := libc.syscall(number, *arguments)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    is_root, missing = os.geteuid() == 0, []
    others = 0 if is_root else _num_tasks()
    if is_root:
        with contextlib.suppress(OSError):  # only in a container whose root is somebody else's user
            os.setresuid(65534, 0, 0)  # nobody's count: the kernel never limits root's processes
    has_spaces = libc.unshare(NEWUSER | NEWNET | NEWPID | NEWIPC) == 0
    if not has_spaces:
        missing.append(f"namespaces for network and processes ({os.strerror(ctypes.get_errno())})")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        _close_files(ctypes, call, folder)
    except OSError as error:
        missing.append(f"Landlock for files ({error.strerror})")
    if missing and (whole or is_root):
        print(f"the system refuses {' and '.join(missing)}")
        sys.stdout.flush()
        os._exit(NOT_BOXED)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = PROCESSES if has_spaces else others + PROCESSES  # a space of users counts its own only
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    # the first process in a space of processes: when it ends, the kernel kills all others there. It is ours, for signals
    # to the first are ignored
    for _ in range(2 if has_spaces else 1):
        if (child := os.fork()) != 0:
            status = os.waitpid(child, 0)[1]
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sys.path.insert(0, folder)
    __import__(
        "answer"
    )  # as a module: what stands under `if __name__ == "__main__"` is not asked for
    os._exit(PASSED)


def _num_tasks() -> int:
    """Processes and threads of this user."""
    count = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if process.name.isdecimal() and process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
    return count


def _close_files(ctypes, call, folder: str) -> None:
    """Landlock: everything in `folder`, reading Python and the system's libraries, nothing else. Raises OSError."""
    abi = call(LANDLOCK_CREATE, None, 0, 1)
    everything = (1 << LANDLOCK_RIGHTS.get(abi, 16)) - 1
    # from ABI 6 on also: no signals and no abstract sockets to processes outside
    rules = struct.pack("=QQQ", everything, 0, 3) if abi >= 6 else struct.pack("=Q", everything)
    ruleset = call(LANDLOCK_CREATE, rules, len(rules), 0)
    python = {
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.executable),
        *filter(os.path.isabs, sys.path),
    }
    allowed = {
        path: READ_FOLDER if os.path.isdir(path) else READ_FILE
        for path in (*python, *READABLE)
        if os.path.exists(path)
    }
    allowed |= {"/dev/null": READ_WRITE_FILE, folder: everything}
    for path, rights in allowed.items():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        call(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    call(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2] == "whole")
