"""Ctrl-C, SIGTERM and SIGUSR1 mean: finish what is in hand, save, stop cleanly.

The handler only sets a flag; loops ask for it where stopping is safe. A second signal ends the process at once, which
is safe too: every file is written whole or not at all.
"""

import signal
import threading

from distill.errors import Stopped

_requested: list[str] = []


def listen() -> None:
    """Install the handlers (a no-op outside the main thread, e.g. in a notebook's worker)."""
    _requested.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), _on_signal)


def _on_signal(number: int, _frame: object) -> None:
    if _requested:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _requested.append(signal.Signals(number).name)


def requested() -> bool:
    return bool(_requested)


def check() -> None:
    """Raise Stopped if a signal came. Call it where everything done so far is on disk."""
    if _requested:
        raise Stopped(f"stopped by {_requested[0]}; run the same command to continue")
