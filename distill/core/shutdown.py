"""Ctrl-C, SIGTERM and SIGUSR1 mean: finish what is in hand, save, stop cleanly.

The handler only sets a flag; loops ask for it where stopping is safe. A second signal ends the process
at once, which is safe too: every file is written whole or not at all.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from distill.errors import DistillError, Stopped

_requested: list[str] = []
_failures: list[DistillError] = []


@contextmanager
def listening() -> Iterator[None]:
    """Handle the signals within the block.

    Whoever handled them before (a notebook) does so again after it.

    Outside the main thread there is nothing to handle.
    """
    _requested.clear()
    _failures.clear()
    try:
        with _handled_by(_on_signal):
            yield
    finally:
        _failures.clear()


@contextmanager
def deaf() -> Iterator[None]:
    """Let the signals end the process at once within the block: nobody looks at the flag there.

    Outside the main thread there is nothing to change. Raises Stopped for one that came before.
    """
    with _handled_by(signal.SIG_DFL):
        check()
        yield


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], object] | signal.Handlers,
) -> Iterator[None]:
    """Give the signals this handler within the block, and the one that they had after it."""
    old = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name)
            old[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


def _on_signal(number: int, _frame: object) -> None:
    if _requested:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _requested.append(signal.Signals(number).name)
    if os.environ.get("RANK", "0") == "0":
        # not print: the signal may have come in the middle of one
        os.write(
            2,
            f"\n{_requested[0]}: finishing and saving what is in hand; once more ends at once\n".encode(),
        )


def requested() -> bool:
    return bool(_requested)


def fail(error: DistillError) -> None:
    """Let the next `check` raise this error: for what a thread beside the work finds out."""
    _failures.append(error)


def withdraw(error: DistillError) -> None:
    """Let no `check` raise this error any more: it has been raised."""
    if error in _failures:
        _failures.remove(error)


def check() -> None:
    """Raise Stopped if a signal came. Call it where everything done so far is on disk."""
    if _failures:
        raise _failures[0]
    if _requested:
        raise Stopped(f"stopped by {_requested[0]}; run the same command to continue")
