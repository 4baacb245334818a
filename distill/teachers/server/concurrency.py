"""How many requests a server bears at once: additive increase, multiplicative decrease (AIMD)."""

import asyncio
import time
from collections.abc import Callable

FIRST_LIMIT = 4
INCREASE_AFTER = 25  # answers without trouble, then one more request at once
DECREASE = 0.75
# below it, 25 answers are too long to wait: one more after each round without trouble
SMALL_LIMIT = 8
CUT_SECONDS = 1.0  # one burst of refusals is one piece of news


class ConcurrencyLimit:
    """The gate that requests pass. It is closed while the server is away, and until the server said
    that it may be asked again."""

    def __init__(self, most: int):
        self.most = most
        self.limit = float(min(FIRST_LIMIT, most))
        self.closed = False
        self.held_until = float("-inf")
        self._num_inside = 0
        self._num_calm = 0
        self._last_cut = float("-inf")
        self._changed = asyncio.Condition()

    async def enter(self, fits: Callable[[], bool] = lambda: True) -> None:
        """Wait until one more may be sent.

        `fits`: whether the recipe's limits leave room beside those in flight. Where none is in flight it
        enters anyway, so that somebody finds that they do not.
        """

        def is_open() -> bool:
            if self.closed or time.monotonic() < self.held_until:
                return False
            if self._num_inside >= int(self.limit):
                return False
            return not self._num_inside or fits()

        async with self._changed:
            await self._changed.wait_for(is_open)
            self._num_inside += 1

    async def leave(self, *, calm: bool) -> None:
        """Say how it went: the limit rises after some calm answers and falls with trouble."""
        async with self._changed:
            self._num_inside -= 1
            if calm:
                self._rise()
            else:
                self._fall()
            self._changed.notify_all()

    def _rise(self) -> None:
        self._num_calm += 1
        enough = self.limit if self.limit < SMALL_LIMIT else INCREASE_AFTER
        if self._num_calm >= enough:
            self.limit = min(float(self.most), self.limit + 1)
            self._num_calm = 0

    def _fall(self) -> None:
        self._num_calm = 0
        if time.monotonic() - self._last_cut > CUT_SECONDS:
            self.limit = max(1.0, self.limit * DECREASE)
            self._last_cut = time.monotonic()

    async def set_closed(self, closed: bool) -> None:
        self.closed = closed
        await self.notify()

    def hold(self, seconds: float) -> None:
        """Let nobody enter for so long; who calls it calls `notify` then."""
        self.held_until = max(self.held_until, time.monotonic() + seconds)

    async def notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
