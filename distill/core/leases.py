"""How processes divide the blocks of their job: by number, or by claims (`--shard auto`).

Claims lie in a folder that any number of processes share, coming and going.

    <folder>/<block>.<n>     who has it, the n-th to do so; its time of change is the sign of life
    <folder>/<block>.done

A claim is a file that is only ever created, and by one of those who try: that is atomic on every
shared file system, and all that is needed. Where the newest claim of a block is old, or was given
back (its time is then 0), the next number is free. At worst, where a process slept longer than its
claim lived, a block is done twice.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from distill.core.processes import Processes

T = TypeVar("T")

LIFETIME = 600.0  # seconds without a sign of life, then another process may have it
SIGNS = 10  # of life in a lifetime


@contextmanager
def assigned_blocks(
    processes: Processes,
    folder: Path,
    blocks: Mapping[str, T],
    is_done: Callable[[T], bool],
    refresh: Callable[[], None],
) -> Iterator[Iterator[T]]:
    """Yield an iterator over the blocks that are this process's and are not done.

    `blocks`: by names that must be the same in every process. `refresh`: called before `is_done`
    where another process may have done some of a block.
    """
    if processes.leases:
        with Leases(folder, blocks, is_done, refresh) as claimed:
            yield iter(claimed)
    else:
        share = static_share(processes, list(blocks.values()))
        yield (block for block in share if not is_done(block))


def static_share(processes: Processes, blocks: list[T]) -> list[T]:
    """Return the blocks, of those of its job, that may be this process's."""
    return blocks if processes.leases else blocks[processes.rank :: processes.num]


class Leases(Generic[T]):
    """The blocks that this process claims.

    A block counts as done once `is_done` says so, whenever that is; leaving the `with` gives back
    those that are not.
    """

    def __init__(
        self,
        folder: Path,
        blocks: Mapping[str, T],
        is_done: Callable[[T], bool],
        refresh: Callable[[], None],
        lifetime: float = LIFETIME,
    ):
        self._folder, self._blocks, self._lifetime = folder, blocks, lifetime
        self._is_done, self._refresh = is_done, refresh
        self._held: dict[str, Path] = {}
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._show_life, daemon=True)

    def __enter__(self) -> "Leases[T]":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beat.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._beat.join()
        self._settle()
        for path in self._held.values():
            with suppress(OSError):  # else it grows old
                os.utime(path, (0, 0))

    def __iter__(self) -> Iterator[T]:
        claimed = True
        while claimed:  # again: somebody may have given one back meanwhile
            claimed = False
            for name, block in self._blocks.items():
                self._settle()
                if name in self._held or self._is_done(block) or not self._take(name):
                    continue
                if not self._is_done(block):  # taking it may have told that it is
                    claimed = True
                    yield block

    def _settle(self) -> None:
        """Mark what is done of what this process holds."""
        for name in [n for n in self._held if self._is_done(self._blocks[n])]:
            (self._folder / f"{name}.done").touch()
            del self._held[name]

    def _take(self, name: str) -> bool:
        """Claim a block; return whether it is this process's now."""
        if (self._folder / f"{name}.done").exists():
            return False
        number = 0
        while (path := self._folder / f"{name}.{number}").exists():
            number += 1
        if number:
            newest = self._folder / f"{name}.{number - 1}"
            # in the future, too: a clock that was set back would keep the claim alive for ever
            if abs(self._now() - newest.stat().st_mtime) < self._lifetime:
                return False
        try:
            with open(path, "x") as f:
                f.write(f"{socket.gethostname()} {os.getpid()}\n")
        except FileExistsError:
            return False
        self._held[name] = path
        if number:
            self._refresh()
        return True

    def _now(self) -> float:
        """Return the time by the clock of the file system: machines disagree."""
        path = self._folder / f".{socket.gethostname()}-{os.getpid()}"
        path.touch()
        now = path.stat().st_mtime
        path.unlink()
        return now

    def _show_life(self) -> None:
        while not self._ended.wait(self._lifetime / SIGNS):
            for path in list(self._held.values()):
                # a network's file system fails now and then (ESTALE, EIO): nine signs of ten may get
                # lost, and those of the other claims are not this one's fault
                with suppress(OSError):
                    os.utime(path)
