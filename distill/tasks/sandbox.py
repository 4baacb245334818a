"""A sandbox for code that a model wrote: little time and memory, one folder, no network.

Linux only.

    outcome = run("assert 1 + 1 == 2", strict=True)      # outcome.passed

The child is this file, started by path with an empty environment. Before it runs the program it
takes from itself what the program must not have: the network and the sight of other processes
(namespaces), all files but its folder and Python's own (Landlock; its own folder alone may be
written), and everything beyond the limits (rlimits).

It contains accidents, clumsy and looping code, not a determined attacker: it is no wall against
somebody who knows a hole in the kernel, and a program that wants to cheat can end with the status
that means "passed".
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
from typing import IO

SECONDS, CPU_SECONDS = 10, 8  # the first by the clock
MEMORY = 512 << 20  # bytes of address space of each process
PROCESSES = 8  # and threads
FILE_BYTES = 1 << 20
# exit statuses: a program that ends by itself before its tests ran has not passed
PASSED, NOT_SANDBOXED = 93, 94

# flags of unshare (sched.h) and options of prctl (prctl.h)
NEWUSER, NEWPID, NEWNET, NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
# system calls, the same on every architecture
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI: bits of rights to files; from 5 on 16
# execute, read file, list; read file; and write
READ_FOLDER, READ_FILE, READ_WRITE_FILE = 0b1101, 0b0100, 0b0110
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
    """How a program ended.

    `status`: its exit status, -9 where it was killed at the deadline. `output`: the end of what it
    printed.
    """

    status: int
    output: str

    @property
    def passed(self) -> bool:
        """Return whether it ran to its end."""
        return self.status == PASSED


def run(program: str, *, strict: bool, seconds: float = SECONDS) -> Outcome:
    """Run a program in the sandbox until it ends or `seconds` are over.

    Then all its processes are killed. `strict`: do not run it at all (status NOT_SANDBOXED) where
    the system refuses the namespaces or Landlock. Else it runs with what there is; the rlimits
    always hold.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        Path(folder, "answer.py").write_text(program, encoding="utf-8", errors="replace")
        status = _run_child(folder, output, strict, seconds)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 1000))
        return Outcome(status, output.read().decode(errors="replace").strip())


def _run_child(folder: str, output: IO[bytes], strict: bool, seconds: float) -> int:
    """Run this file as the child and return its exit status, -SIGKILL at the deadline."""
    python = [sys.executable, "-I", "-B", "-X", "utf8"]
    with subprocess.Popen(
        [*python, __file__, folder, "strict" if strict else "limited"],
        cwd=folder,
        env={
            "HOME": folder,
            "TMPDIR": folder,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ) as child:
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it left behind, too
                os.killpg(child.pid, signal.SIGKILL)


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


def _child(folder: str, strict: bool) -> None:
    """Confine this process, then run the program in a child of it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    num_others = 0 if is_root else _num_tasks()
    if is_root:
        with contextlib.suppress(OSError):  # only in a container whose root is somebody else's user
            os.setresuid(65534, 0, 0)  # nobody's count: the kernel never limits root's processes
    missing = []
    has_namespaces = libc.unshare(NEWUSER | NEWNET | NEWPID | NEWIPC) == 0
    if not has_namespaces:
        missing.append(f"namespaces for network and processes ({os.strerror(ctypes.get_errno())})")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        _close_files(libc, folder)
    except OSError as error:
        missing.append(f"Landlock for files ({error.strerror})")
    if missing and (strict or is_root):
        print(f"the system refuses {' and '.join(missing)}")
        sys.stdout.flush()
        os._exit(NOT_SANDBOXED)
    # a namespace of users counts its own processes only
    _limit_resources(PROCESSES if has_namespaces else num_others + PROCESSES)
    # the first process in a namespace of processes: when it ends, the kernel kills all others
    # there. It is ours, for signals to the first are ignored
    for _ in range(2 if has_namespaces else 1):
        _fork_and_wait()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sys.path.insert(0, folder)
    # as a module: what stands under `if __name__ == "__main__"` is not asked for
    __import__("answer")
    os._exit(PASSED)


def _limit_resources(num_processes: int) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: num_processes,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _fork_and_wait() -> None:
    """Go on in a child; the parent waits for it and ends with its status."""
    child = os.fork()
    if child == 0:
        return
    status = os.waitpid(child, 0)[1]
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _num_tasks() -> int:
    """Return the number of processes and threads of this user."""
    count = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if process.name.isdecimal() and process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
    return count


def _system_call(libc, number: int, *arguments: object) -> int:
    """Return the result of a system call. Raise OSError."""
    import ctypes

    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _close_files(libc, folder: str) -> None:
    """Leave by Landlock `folder`, and reading Python and the system's libraries. Raise OSError."""
    abi = _system_call(libc, LANDLOCK_CREATE, None, 0, 1)
    everything = (1 << LANDLOCK_RIGHTS.get(abi, 16)) - 1
    # from ABI 6 on also: no signals and no abstract sockets to processes outside
    rules = struct.pack("=QQQ", everything, 0, 3) if abi >= 6 else struct.pack("=Q", everything)
    ruleset = _system_call(libc, LANDLOCK_CREATE, rules, len(rules), 0)
    for path, rights in _rights_by_path(folder, everything).items():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _system_call(libc, LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
        os.close(descriptor)
    _system_call(libc, LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _rights_by_path(folder: str, everything: int) -> dict[str, int]:
    python = {
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.executable),
        *filter(os.path.isabs, sys.path),
    }
    rights = {
        path: READ_FOLDER if os.path.isdir(path) else READ_FILE
        for path in (*python, *READABLE)
        if os.path.exists(path)
    }
    return rights | {"/dev/null": READ_WRITE_FILE, folder: everything}


if __name__ == "__main__":
    _child(sys.argv[1], strict=sys.argv[2] == "strict")
