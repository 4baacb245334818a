"""What the time of the ranks of a launch went to, a row a stage in `<run>/ranks.jsonl`.

It is there where there are several, and says how long each was idle: see `idle_seconds`. Nothing
that a run makes depends on it.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.core import activity
from distill.core.jsonl import read_jsonl
from distill.core.processes import Processes
from distill.core.stored_json import as_type
from distill.errors import MissingError

FILE_NAME = "ranks.jsonl"
WAY_OUT = "delete it: the next stage that several processes make begins it anew"


@dataclass(frozen=True)
class RankTime:
    """One rank's stage: seconds until it was done with it, seconds of those that it waited for
    others, and its CPU seconds, with those of what it started, over its threads."""

    seconds: float
    waited: float
    computed: float

    def idle_seconds(self, whole: float) -> float:
        """Return the seconds of a stage of `whole` seconds in which it waited and computed nothing.

        A pass that ranks make together counts as waiting, and is computing as well. On GPUs, where
        who waits turns in a loop (NCCL), that is computing, too: there it says less than was idle.
        """
        waited = whole - (self.seconds - self.waited)
        return max(0.0, min(waited, whole - self.computed))


@dataclass(frozen=True)
class StageTimes:
    """The ranks' times of a stage, in their order."""

    stage: str
    ranks: list[RankTime]

    @property
    def seconds(self) -> float:
        """Return the seconds until the last rank was done."""
        return max(rank.seconds for rank in self.ranks)

    @property
    def idle_seconds(self) -> float:
        """Return the idle seconds of all ranks together."""
        return sum(rank.idle_seconds(self.seconds) for rank in self.ranks)

    def write(self, run_folder: Path) -> None:
        """Add a row to the file of the run."""
        row = {"stage": self.stage, "ranks": [asdict(rank) for rank in self.ranks]}
        with open(run_folder / FILE_NAME, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def __str__(self) -> str:
        share = self.idle_seconds / max(len(self.ranks) * self.seconds, 1e-9)
        return f"{self.stage}: {len(self.ranks)} processes, idle {share:.0%} of their time"


class RankClock:
    """The time of this rank from its making on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._waited = activity.waited_seconds()
        self._cpu = activity.cpu_seconds()

    def meet(self, stage: str, processes: Processes) -> StageTimes:
        """Wait for all ranks at the end of a stage; return their times."""
        import torch

        cpu = activity.cpu_seconds() - self._cpu
        own = RankTime(
            seconds=time.monotonic() - self._started,
            waited=activity.waited_seconds() - self._waited,
            computed=cpu / torch.get_num_threads(),
        )
        return StageTimes(stage, processes.gathered(own))


def read_times(run_folder: Path) -> list[StageTimes]:
    """Return the times of each stage, the newest of one that was made again.

    Raises MissingError where no launch of several ranks has finished a stage, and DataError, with
    the way out, for a file that is none of ours.
    """
    path = run_folder / FILE_NAME
    if not path.is_file():
        raise MissingError(f"{path}: no such file: several processes of one launch write it")
    rows = [as_type(row, StageTimes, path, WAY_OUT) for _, row in read_jsonl(path)]
    return list({row.stage: row for row in rows}.values())


def idle_share(times: Sequence[StageTimes]) -> float:
    """Return the idle share of all ranks' seconds."""
    all_seconds = sum(len(stage.ranks) * stage.seconds for stage in times)
    return sum(stage.idle_seconds for stage in times) / max(all_seconds, 1e-9)
