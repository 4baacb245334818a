"""As many threads as cores are free: llama.cpp's wait for each other at full speed.

At the end of every matrix product all threads wait for the slowest. Where another process has the
core of one of them, the others burn theirs meanwhile: with both of two cores at work elsewhere, 300
short answers took 6 minutes instead of 4 seconds. Waiting without polling is no way out: on free
cores it made decoding three times slower than polling, and slower than a single thread.
"""

import time
from collections.abc import Callable

from distill.core.cores import CoreWatch

LOOK_SECONDS = 0.25


class SpareThreads:
    """Sets the number of threads now and then, to what other processes leave, at most `most`.

    What llama.cpp computes does not depend on it.
    """

    def __init__(self, most: int, set_threads: Callable[[int], None]):
        self.count = self._most = most
        self._set_threads = set_threads
        self._watch = CoreWatch()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def adjust(self) -> None:
        """Look at the cores, if the last look is a while ago. Call it before each batch."""
        if self._most == 1 or time.monotonic() < self._next_look:
            return
        count = self._watch.spare(self._most)
        if count != self.count:
            self._set_threads(count)
            self.count = count
        self._next_look = time.monotonic() + LOOK_SECONDS


def spare_threads(most: int) -> int:
    """Return the number of threads for what keeps it while it runs, after a look at the cores."""
    if most == 1:
        return 1
    watch = CoreWatch()
    time.sleep(LOOK_SECONDS)
    return watch.spare(most)
