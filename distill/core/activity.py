"""What this process does, as those who wait for it are told: signs of work, and whether it waits."""

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
BUSY_SHARE = 0.05  # of a core: more is work, less is waiting
BUSY_BYTES = 64 << 10  # read or written between two looks

_signs = 0
_waiting = 0
_waiting_since = 0.0
_waited_seconds = 0.0
_has_failed_together = False


def sign() -> None:
    """Count a sign of work: a step, an answer, a meeting of the ranks."""
    global _signs
    _signs += 1


def signs() -> int:
    return _signs


def waits() -> bool:
    """Return whether the process waits for the other ranks."""
    return _waiting > 0


def waited_seconds() -> float:
    """Return the seconds that the process has waited for the other ranks.

    In a pass that ranks make together its own arithmetic is among them.
    """
    return _waited_seconds


def failed_together() -> bool:
    """Return whether something failed that the ranks do together, as where one of them has ended."""
    return _has_failed_together


@contextmanager
def waiting() -> Iterator[None]:
    """Tell that the block waits for the other ranks, or may: what they do together."""
    global _waiting, _waiting_since, _waited_seconds
    if not _waiting:
        _waiting_since = time.monotonic()
    _waiting += 1
    try:
        with in_common():
            yield
    finally:
        _waiting -= 1
        if not _waiting:
            _waited_seconds += time.monotonic() - _waiting_since
        sign()


@contextmanager
def in_common() -> Iterator[None]:
    """Note what fails in the block as something that the ranks do together; it waits for nobody."""
    global _has_failed_together
    try:
        yield
    except Exception:
        _has_failed_together = True
        raise


def place() -> str:
    """Return where the main thread stands: `train.py:80 run`, the innermost line of this package.

    Where it is in none of them, the innermost of all.
    """
    innermost = frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not _is_ours(Path(frame.f_code.co_filename)):
        frame = frame.f_back
    found = frame or innermost
    if found is None:
        return "its end"
    path = Path(found.f_code.co_filename)
    name = path.relative_to(PACKAGE) if PACKAGE in path.parents else path.name
    return f"{name}:{found.f_lineno} {found.f_code.co_name}"


def _is_ours(path: Path) -> bool:
    return PACKAGE in path.parents and path.name not in ("processes.py", "activity.py")


class Effort:
    """Tells whether the process, or one that it started, computes, reads or writes.

    That is work even where nothing counts a sign.
    """

    def __init__(self) -> None:
        self._before = self._used()

    def is_made(self) -> bool:
        """Return whether it did since this was last asked."""
        before, self._before = self._before, self._used()
        seconds, cpu, size, faults = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        return cpu > BUSY_SHARE * seconds or size > BUSY_BYTES or faults > 0

    def _used(self) -> tuple[float, float, int, int]:
        """Return the time, CPU seconds, bytes read and written, and pages fetched from a disk."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        return time.monotonic(), cpu_seconds(), _bytes_moved(), faults


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started, ended or not."""
    return time.process_time() + _seconds_of_children()


def _seconds_of_children() -> float:
    """Return the CPU seconds of the processes that this one started, ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = sum(_seconds_of(pid) for pid in _children(os.getpid()))
    return ended.ru_utime + ended.ru_stime + alive


def _children(pid: int) -> Iterator[int]:
    """Yield the processes below `pid`, theirs too; none where the system does not tell."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            for child in map(int, listed.read_text().split()):
                yield child
                yield from _children(child)


def _seconds_of(pid: int) -> float:
    """Return the CPU seconds of a process and of those that it has waited for; 0 if it has ended."""
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        return sum(map(int, after_name.split()[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _bytes_moved() -> int:
    with suppress(OSError, ValueError, IndexError):  # not Linux
        lines = Path(f"/proc/{os.getpid()}/io").read_text().splitlines()
        return int(lines[0].split()[1]) + int(lines[1].split()[1])
    return 0
