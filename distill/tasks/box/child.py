"""The process that sandbox.py starts: confine it, then part in two, program and tests."""

import ctypes
import os
import signal
import sys

from . import candidate, judge
from .confine import confine
from .wire import Line

NOT_SANDBOXED = 94
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def main(folder: str, mode: str) -> None:
    """Confine this process, then run the program of `folder` and the tests of standard input.

    `mode`: with `strict` nothing runs where the system refuses any of it, nor ever as root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    refused, has_namespaces = confine(libc, folder)
    if refused and (mode == "strict" or os.geteuid() == 0):
        print(f"the system refuses {' and '.join(refused)}")
        sys.stdout.flush()
        os._exit(NOT_SANDBOXED)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody reads the tests in our memory or files
    if has_namespaces:
        # the first process in a namespace of processes: when it ends, the kernel kills all others
        # there. It is ours, for signals to the first are ignored
        first = os.fork()
        if first != 0:
            _end_with(first)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _part(libc, folder)


def _part(libc: ctypes.CDLL, folder: str) -> None:
    """Run the program in one child and the tests in another; end as the tests do."""
    to_program, to_tests = os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.close(to_program[1])
        os.close(to_tests[0])
        candidate.run(Line(to_program[0], to_tests[1]), folder)
    tests = os.fork()
    if tests == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.close(to_program[0])
        os.close(to_tests[1])
        judge.run(Line(to_tests[0], to_program[1]), _tests())
    for end in (*to_program, *to_tests):
        os.close(end)
    _end_with(tests)


def _tests() -> str | None:
    """Return the tests; None where standard input has none."""
    text = sys.stdin.read()
    return text[1:] if text else None


def _end_with(child: int) -> None:
    """Wait for a child and end with its status."""
    status = os.waitpid(child, 0)[1]
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
