"""A check of many texts over the cores of this machine, in processes that this file starts.

Each check looks at one item alone, so the results do not depend on how many processes there are.
They are programs of their own: a copy of this process would have its teacher, its threads and its
GPU. `python -m distill.filters.over_cores FD` is one of them, which reads and writes the socket FD.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from distill.core import shutdown
from distill.core.cores import usual_threads
from distill.core.processes import launched_rank
from distill.core.progress import Progress
from distill.core.subprocesses import environment
from distill.data.samples import Prompt
from distill.errors import DataError, DistillError
from distill.filters.base import FilterContext, PromptsCheck

Item = TypeVar("Item")
Check = Callable[[Item, FilterContext], str | None]
LEAST = 4096  # items for a process: below, its start takes longer than it saves
AT_ONCE = 128  # items that a process is given


def checked(check: Check[Item], items: Sequence[Item], context: FilterContext) -> list[str | None]:
    """Return what `check` says of each item: a function of a module, not one within another.

    `context.find_mark` is for checks in this process: others do not see it. Raises what the check
    raises, and DataError where a process ends by itself.
    """
    shown = launched_rank() == 0
    with Progress("filters", len(items), "texts", shown=shown, only_long=True) as bar:
        num_processes = min(usual_threads(), len(items) // LEAST)
        if num_processes < 2:
            return list(_checked_here(check, items, context, bar))
        with _Children(bar) as children:
            children.start(num_processes, check, replace(context, find_mark=None))
            return children.results(items)


def _checked_here(
    check: Check[Item], items: Iterable[Item], context: FilterContext, bar: Progress
) -> Iterator[str | None]:
    for part in _parts(items):
        for item in part:
            yield check(item, context)
        bar.advance(len(part))


def each_over_cores(check: Callable[[Prompt, FilterContext], str | None]) -> PromptsCheck:
    """Do what `each` does over the cores, for a check that takes long."""

    def check_each(
        prompts: Sequence[Prompt], left: Sequence[int], context: FilterContext
    ) -> Iterator[tuple[int, str]]:
        details = checked(check, [prompts[index] for index in left], context)
        for index, detail in zip(left, details, strict=True):
            if detail is not None:
                yield index, detail

    return check_each


class _Children:
    """Processes that apply a check to what they are given."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._started: dict[Connection, subprocess.Popen[bytes]] = {}
        self._given: dict[Connection, int] = {}  # the number of the part that it works at

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._started.items():
            connection.close()
            process.kill()
            process.wait()

    def start(self, num: int, check: Check[Any], context: FilterContext) -> None:
        for _ in range(num):
            ours, theirs = Pipe()
            with theirs:
                self._started[ours] = _start(theirs)
        for connection in self._started:
            with _told_if_it_ended():
                connection.send((check, context))

    def results(self, items: Iterable[Any]) -> list[str | None]:
        """Return the result of each item, in their order."""
        found: dict[int, list[str | None]] = {}
        for number, part in enumerate(_parts(items)):
            connection = self._free(found)
            with _told_if_it_ended():
                connection.send(part)
            self._given[connection] = number
        while self._given:
            self._receive(found)
        return [result for number in sorted(found) for result in found[number]]

    def _free(self, found: dict[int, list[str | None]]) -> Connection:
        """Return the connection of a process that waits for work."""
        if len(self._given) == len(self._started):
            self._receive(found)
        return next(one for one in self._started if one not in self._given)

    def _receive(self, found: dict[int, list[str | None]]) -> None:
        """Take the results of those that have them; wait for one at least."""
        shutdown.check()
        for connection in wait(list(self._given)):
            assert isinstance(connection, Connection)
            with _told_if_it_ended():
                results = connection.recv()
            if isinstance(results, Exception):
                raise results
            found[self._given.pop(connection)] = results
            self._bar.advance(len(results))


@contextlib.contextmanager
def _told_if_it_ended() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        shutdown.check()  # Ctrl-C reaches them, too
        raise DataError(
            "a process that filters texts has ended: what it said stands above, and where that is "
            "nothing, memory was short; run the same command again, with OMP_NUM_THREADS=1 all is "
            "filtered in one process"
        ) from None


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the items in lists of AT_ONCE."""
    left = iter(items)
    while part := list(islice(left, AT_ONCE)):
        yield part


def _start(theirs: Connection) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    return subprocess.Popen(
        command,
        env=environment() | {"OMP_NUM_THREADS": "1"},  # each has a core
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def serve(connection: Connection) -> None:
    """Answer each list of items by the list of results, or by the error, until there are no more."""
    with contextlib.suppress(EOFError, ConnectionError):
        check, context = connection.recv()
        while True:
            items = connection.recv()
            try:
                connection.send([check(item, context) for item in items])
            except DistillError as error:
                connection.send(error)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one ends it
    serve(Connection(int(sys.argv[1])))
