"""Work that the ranks of one launch divide as they go: each takes what nobody has taken yet.

Whoever is done early does more, so that nobody waits for long, whatever each piece takes. Who does
a piece must not decide its result. What is taken is told by the store through which the ranks met.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import TypeVar

from distill.core import activity, shutdown
from distill.core.processes import LONGEST_WAIT, Processes, open_store

T = TypeVar("T")


class Claims:
    """What is taken of one work. All ranks must make it, together."""

    def __init__(self, processes: Processes):
        self._taken: set[str] = set()
        self._store = None
        if processes.num > 1:
            self._prefix = processes.broadcast(secrets.token_hex(8))
            with activity.waiting():
                self._store = open_store(processes.num, LONGEST_WAIT)

    def take(self, piece: str) -> bool:
        """Return whether the piece is this rank's, and nobody's else from now on."""
        if self._store is not None:
            with activity.waiting():
                return self._store.add(f"{self._prefix}/{piece}", 1) == 1
        is_first = piece not in self._taken
        self._taken.add(piece)
        return is_first

    def tell_done(self, piece: str) -> None:
        """Tell that this rank has made a piece that others may `wait_for`."""
        if self._store is not None:
            shutdown.check()  # at a stop signal the store may be gone with the first rank
            with activity.waiting():
                self._store.set(f"{self._prefix}/{piece} is done", "")

    def wait_for(self, piece: str) -> None:
        """Wait until whoever took the piece has made it."""
        if self._store is not None:
            with activity.waiting():
                self._store.wait([f"{self._prefix}/{piece} is done"])

    def of(self, work: str, pieces: Sequence[T]) -> Iterator[T]:
        """Yield those of the pieces that this rank takes, one as the last is done."""
        for number, piece in enumerate(pieces):
            shutdown.check()
            if self.take(f"{work} {number}"):
                yield piece
