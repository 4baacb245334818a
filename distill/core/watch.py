"""Watch the ranks of a launch: name one that hangs, and end all where one has died.

Each rank tells the others, by the store through which they met, that it lives, what it has done and
where it stands; that one has ended its lifeline tells. A rank that the others wait for is named; where
it does nothing at all, all end, so that a launcher or a queue can start the run again.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from distill.core import activity, lifelines, terminal
from distill.core.lifelines import DONE, REFUSED, STOPPED, Lifelines
from distill.core.processes import ENDED, NOTICE, Processes, open_store
from distill.errors import DistillError, ServerError, Stopped, in_short

BEAT = 1.0  # seconds
SURE = 2.0  # seconds that a process has been gone: all may be ending together
# Looks until the death of a rank is known: rank 0 sees it and tells, another hears and notes it, and
# finds at a last one that it is sure.
LOOKS_TO_KNOW = 5
STORE_TIMEOUT = timedelta(seconds=10)  # of an answer of the store
TO_MEND = 2  # exit status: a rank has told what is to be mended
KEY = "distill/rank/"
LISTENING = "distill/lifelines"


@dataclass(frozen=True)
class Told:
    """What a rank tells: how often it has, what it has done, and where it stands."""

    host: str
    beats: int
    signs: int
    efforts: int
    waits: bool
    place: str
    gone: list[int]  # ranks that it knows to have ended
    refused: list[int]  # and those that told before what is to be mended


NOTHING = Told("a machine that told nothing yet", 0, 0, 0, False, "its beginning", [], [])


@dataclass
class Seen:
    """What this rank has seen of one: the newest it told, and when (our clock) something changed."""

    told: Told
    beat: float
    sign: float
    work: float
    gone: float | None = None

    def update(self, told: Told, now: float) -> None:
        if told.beats != self.told.beats:
            self.beat = now
        if told.signs != self.told.signs:
            self.sign = self.work = now
        if told.efforts != self.told.efforts:
            self.work = now
        self.told = told


@contextmanager
def watching(
    processes: Processes, patience: float, *, notice: float = NOTICE, beat: float = BEAT
) -> Iterator[None]:
    """Watch the other ranks within the block.

    `patience`: seconds without work before all end; `notice`: before it is told; `beat`: between
    two looks.
    """
    if processes.num == 1:
        yield
        return
    watch = Watch(processes, patience, notice, beat)
    watch.start()
    try:
        yield
    except Stopped:
        watch.end(STOPPED)
        raise
    except ServerError:
        watch.end(None)  # it may be back: the same command goes on
        raise
    except DistillError:
        watch.end(REFUSED)
        raise
    except BaseException:
        if activity.failed_together():
            # where a rank has died what the others do together fails: let the watch say which it was
            watch.join(SURE + LOOKS_TO_KNOW * beat + BEAT)
        watch.end(None)
        raise
    watch.end(DONE)


class Watch(threading.Thread):
    """The thread that tells and watches."""

    def __init__(
        self, processes: Processes, patience: float, notice: float = NOTICE, beat: float = BEAT
    ):
        super().__init__(daemon=True, name="watch")
        self._processes, self._patience = processes, patience
        self._notice, self._beat = min(notice, patience / 2), beat
        self._ended = threading.Event()
        self._lost: float | None = None
        self._told: dict[int, Told] = {}
        self._heard = time.monotonic()
        self._seen: dict[int, Seen] = {}
        self._refused: set[int] = set()
        self._lifelines = Lifelines()
        self._effort = activity.Effort()
        self._beats = self._efforts = 0
        self._next_notice = self._notice

    def end(self, word: bytes | None) -> None:
        """End the watch; `word`: what the others are told, None where this rank fails by a fault."""
        if word in (STOPPED, REFUSED):
            self._meet(SURE if word == STOPPED else lifelines.SECONDS)
        self._ended.set()
        self.join(2 * BEAT)
        if word is None:
            self._lifelines.close()
        else:
            self._lifelines.leave(word)

    def _meet(self, most: float) -> None:
        """Wait at most so many seconds for the lifelines: a rank may leave before they are there."""
        num_others = self._processes.num - 1 if self._processes.is_main else 1
        end = time.monotonic() + most
        while self._lifelines.num_met() < num_others and time.monotonic() < end:
            time.sleep(0.02)

    def run(self) -> None:
        threading.Thread(target=self._tell, daemon=True, name="watch's teller").start()
        looked = time.monotonic()
        while not self._ended.wait(self._beat):
            if time.monotonic() - looked > self._notice / 2:
                self._forgive()
            looked = time.monotonic()
            self._told = {**self._told, self._processes.rank: self._mine()}
            if self._ended.is_set():
                return
            self._note(self._told, time.monotonic())
            self._judge(time.monotonic())

    def _forgive(self) -> None:
        """Begin anew: this process was suspended itself, perhaps with all others."""
        now = time.monotonic()
        for seen in self._seen.values():
            seen.beat = seen.sign = seen.work = now

    def _tell(self) -> None:
        """Tell what this rank does, and hear the others.

        In a thread of its own: where the process that holds the store is stopped it waits for ever.
        """
        import torch.distributed as dist

        keys = [f"{KEY}{rank}" for rank in range(self._processes.num)]
        store = self._joined_store()
        if store is None:
            return
        self._connect(store)
        while not self._ended.wait(self._beat):
            if (mine := self._told.get(self._processes.rank)) is None:
                continue
            try:
                store.set(keys[self._processes.rank], json.dumps(asdict(mine)))
                values = store.multi_get(keys)
            except dist.DistStoreError:  # too late: a rank has not told anything yet, or cannot
                continue
            except Exception:  # of torch's, by whatever name: its process has ended
                self._lost = time.monotonic()
                return
            heard = {rank: Told(**json.loads(value)) for rank, value in enumerate(values)}
            self._told = {**heard, self._processes.rank: self._told[self._processes.rank]}
            self._heard = time.monotonic()

    def _joined_store(self) -> Any | None:
        """Return a connection with the store, which may be late; None where the watch ends before."""
        while True:
            try:
                return open_store(self._processes.num, STORE_TIMEOUT)
            except Exception:  # of torch's, by whatever name
                if self._ended.wait(self._beat):
                    return None

    def _connect(self, store: Any) -> None:
        """Open this rank's lifelines; say so where that cannot be."""
        try:
            if self._processes.is_main:
                store.set(LISTENING, self._lifelines.listen())
            else:
                listening = store.get(LISTENING).decode()
                self._lifelines.join(os.environ["MASTER_ADDR"], listening, self._processes.rank)
        except Exception as error:  # of the system's or of torch's, by whatever name
            rank, host = self._processes.rank, socket.gethostname()
            text = (
                f"rank {rank} on {host} cannot be seen to end: no connection with rank 0 ({error})"
            )
            terminal.write_news(in_short(text, 300))

    def _mine(self) -> Told:
        self._beats += 1
        # a rank that waits works as well: NCCL turns in a loop
        self._efforts += self._effort.is_made() and not activity.waits()
        return Told(
            host=socket.gethostname(),
            beats=self._beats,
            signs=activity.signs(),
            efforts=self._efforts,
            waits=activity.waits(),
            place=activity.place(),
            gone=sorted(self._lifelines.gone()),
            refused=sorted(self._lifelines.refused()),
        )

    def _note(self, told: dict[int, Told], now: float) -> None:
        for rank, news in told.items():
            seen = self._seen.setdefault(rank, Seen(news, now, now, now))
            seen.update(news, now)
        self._refused |= {rank for news in told.values() for rank in news.refused}
        known = {rank for news in told.values() for rank in news.gone} | self._refused
        stopped = self._lifelines.stopped()
        if activity.waits():  # for one that was stopped
            known |= stopped
        for rank in self._seen.keys() & (stopped - known):
            self._seen[rank].gone = None  # not missed: the work in hand is finished and saved
        for rank in known:
            seen = self._seen.setdefault(rank, Seen(NOTHING, now, now, now))
            seen.gone = now if seen.gone is None else seen.gone

    def _judge(self, now: float) -> None:
        self._end_where_one_has_ended(now)
        if len(self._seen) == self._processes.num:  # whoever has heard nobody judges nobody
            self._name_who_is_waited_for(now)

    def _end_where_one_has_ended(self, now: float) -> None:
        gone = [(s.gone, rank, s) for rank, s in self._seen.items() if s.gone is not None]
        for since, rank, seen in sorted(gone, key=lambda one: one[0])[:1]:
            if now - since > SURE and rank in self._refused:
                self._end_by_refusal(rank)
            elif now - since > SURE:
                self._end_all(f"{_name(rank, seen)} has ended ({_stood(seen)})")
        # rank 0, stopped by a signal, may take the store with it: the work in hand is finished
        is_expected = 0 in self._lifelines.stopped() and not activity.waits()
        if self._lost is not None and now - self._lost > 2 * SURE and not is_expected:
            self._end_all(
                f"the process at {os.environ['MASTER_ADDR']} that joins the ranks has ended"
            )

    def _name_who_is_waited_for(self, now: float) -> None:
        signed = now - max(seen.sign for seen in self._seen.values())
        suspects = self._suspects(now)
        names = ", ".join(f"{_name(r, s)} ({self._why(s, now)})" for r, s in suspects.items())
        if signed < self._notice or not suspects:
            self._next_notice = self._notice
            return
        idle = now - max(seen.work for seen in suspects.values())
        # whoever speaks ends first, else it would be the next to be waited for
        if idle > self._patience + (0 if self._speaks(now) else SURE):
            self._end_all(
                f"no step for {signed:.0f} s, waiting for {names}; processes.patience is "
                f"{self._patience / 60:g} minutes"
            )
        if signed > self._next_notice:
            self._next_notice *= 2
            self._say(f"no step for {signed:.0f} s, waiting for {names}")

    def _suspects(self, now: float) -> dict[int, Seen]:
        """Return the ranks that the others wait for: the silent ones, else those that do not wait."""
        silent = {r: s for r, s in self._seen.items() if now - s.beat > self._notice / 2}
        if now - self._heard > self._notice and 0 in silent:
            return {0: silent[0]}  # it holds the store, so that nothing is heard of the others
        if silent:
            return silent
        working = {r: s for r, s in self._seen.items() if not s.told.waits}
        return working or self._seen  # all wait for each other

    def _why(self, seen: Seen, now: float) -> str:
        if now - seen.beat > self._notice / 2:
            return f"no sign of life; {_stood(seen)}"
        return f"it stands in {seen.told.place}"

    def _speaks(self, now: float) -> bool:
        """Return whether this is the lowest rank that still tells: it prints for all."""
        fresh = (r for r, s in self._seen.items() if now - s.beat < self._notice / 2)
        telling = [rank for rank in fresh if self._seen[rank].gone is None]
        return self._processes.rank == min(telling, default=self._processes.rank)

    def _say(self, text: str) -> None:
        if self._speaks(time.monotonic()):
            terminal.write_news(text)

    def _end_all(self, text: str) -> None:
        """End this process; its peers see the same and do so too. Every file is whole or not there."""
        if not self._ended.is_set():
            self._say(f"{text}; all ranks end: run the same command to continue")
            if self._lifelines.stopped():
                self._lifelines.leave(STOPPED)  # let the others finish what they have in hand
            os._exit(ENDED)

    def _end_by_refusal(self, rank: int) -> None:
        """End this process because of what another rank refuses: the same command would, too."""
        if not self._ended.is_set():
            self._say(f"rank {rank} cannot go on and has said why; all ranks end: mend that first")
            self._lifelines.leave(REFUSED)  # also for those that did not hear of it
            os._exit(TO_MEND)


def _name(rank: int, seen: Seen) -> str:
    return f"rank {rank} on {seen.told.host}"


def _stood(seen: Seen) -> str:
    return f"last seen in {seen.told.place}"
