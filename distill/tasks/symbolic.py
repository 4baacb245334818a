"""Whether two formulas are equal, by math-verify in a process that is killed at a deadline.

A tower of powers (5^5^5^5) hangs sympy in spite of math-verify's own timeout, which also fails in
threads and on Windows (its issues 55, 65, 79). The child is a script of its own, started by path:
the same on every system, and nothing of the parent is forked or imported again.

    python symbolic.py < requests.jsonl > answers.jsonl      [reference, answer] -> true or false
"""

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from importlib.util import find_spec

DEADLINE = 5.0  # seconds for one comparison
START_SECONDS = 120.0  # sympy loads in one second, on a busy small machine in many
MEMORY = 2 << 30  # bytes


class Verifier:
    """A child that compares formulas, started when it is needed, and again after it was killed."""

    def __init__(self, deadline: float = DEADLINE):
        self.deadline = deadline
        self._child: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Return the child's process id; None while there is none."""
        return self._child.pid if self._child else None

    def equal(self, reference: str, answer: str) -> bool | None:
        """Return whether the two are equal.

        None where the child was killed at the deadline, or crashed: nobody knows.
        """
        child = self._child or self._start()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: the answer is then None
            child.stdin.write(json.dumps([reference, answer]) + "\n")
            child.stdin.flush()
        is_equal = self._read(child, self.deadline)
        if is_equal is None:
            self.close()
        return is_equal

    def close(self) -> None:
        """End the child."""
        child = self._child
        self._child = None
        if child is not None:
            child.kill()
            child.communicate()

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            # -P: the script's folder holds modules of ours, none of which it wants
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._child = child
        if not self._read(child, START_SECONDS):
            # here, for the child runs this file without the package
            from distill.errors import MissingError

            self.close()
            raise MissingError(
                f"math-verify does not work here: `{sys.executable} {__file__}` does not say true; "
                "run it to see why"
            )
        return child

    @staticmethod
    def _read(child: subprocess.Popen[str], seconds: float) -> bool | None:
        """Return the next line's value, None at the deadline.

        The kill then ends the pipe, which works on every system.
        """
        assert child.stdout is not None
        timer = threading.Timer(seconds, child.kill)
        timer.start()
        try:
            line = child.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None


def is_installed() -> bool:
    """Return whether math-verify is there."""
    return find_spec("math_verify") is not None


VERIFIER = Verifier()  # one child for the whole program, started by the first formula
atexit.register(VERIFIER.close)


def serve() -> None:
    """Run the child: write one answer a line, until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    def right(texts: list[str]) -> bool:
        try:
            reference, answer = (parse(f"${text}$", parsing_timeout=0) for text in texts)
            return bool(reference and answer and verify(reference, answer, timeout_seconds=None))
        except Exception:  # sympy raises whatever it likes on what is no formula
            return False

    # the first formula builds the parser's tables: a second that is not the next one's
    print(json.dumps(right(["\\frac{1}{2}", "0.5"])), file=out, flush=True)
    for line in sys.stdin:
        _limit()
        print(json.dumps(right(json.loads(line))), file=out, flush=True)


def _limit() -> None:
    """Limit the child itself, should the parent be gone: CPU time for this line, and memory.

    Not on Windows.
    """
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + 2 * DEADLINE) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
