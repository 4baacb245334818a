"""How many of this machine's cores this process may use, and other processes leave to it."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# of a core's line there, in ticks: what other processes must have had. Not niced work, which yields
USER, SYSTEM, IRQ, SOFTIRQ, STEAL = 1, 3, 6, 7, 8


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def usual_threads() -> int:
    """Return how many threads numeric libraries take here: OMP_NUM_THREADS, else every own core."""
    wished, _, _ = os.environ.get("OMP_NUM_THREADS", "").partition(",")  # one a level
    return int(wished) if wished.strip().isdecimal() and int(wished) else len(own_cores())


class CoreWatch:
    """Tells from one look to the next what other processes did on the cores of this one."""

    def __init__(self) -> None:
        self._names = {f"cpu{number}" for number in own_cores()}
        self._last = self._look()

    @property
    def num_cores(self) -> int:
        return len(self._names)

    def taken(self) -> float:
        """Return how many cores other processes kept busy since the last look, on average.

        0 where the system does not say. Ticks are 10 ms: looks should be 0.1 s apart or more.
        """
        seconds, busy, own = self._last
        self._last = self._look()
        elapsed = self._last[0] - seconds
        if elapsed <= 0:
            return 0.0
        by_others = (self._last[1] - busy) - (self._last[2] - own)
        return min(max(0.0, by_others / elapsed), float(self.num_cores))

    def spare(self, most: int) -> int:
        """Return how many cores were free since the last look, from 1 to `most`."""
        return max(1, min(most, int(self.num_cores - self.taken() + 0.5)))

    def _look(self) -> tuple[float, float, float]:
        """Return the time, the seconds that our cores were busy, and our share of them."""
        return time.monotonic(), self._busy_seconds(), time.process_time()

    def _busy_seconds(self) -> float:
        try:
            lines = STAT.read_text().splitlines()
        except OSError:  # not Linux, or hidden
            return 0.0
        ticks = 0
        for line in lines:
            fields = line.split()
            if fields and fields[0] in self._names:
                ticks += sum(int(fields[n]) for n in (USER, SYSTEM, IRQ, SOFTIRQ, STEAL))
        return ticks / os.sysconf("SC_CLK_TCK")
