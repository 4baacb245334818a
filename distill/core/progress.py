"""What a stage shows while it works: a bar with rate and ETA, or a line now and then in a job's log."""

import sys
import time
from types import TracebackType

from distill.core import activity, terminal

LINE_SECONDS = 15.0


class Progress:
    """A progress bar on a terminal, lines elsewhere.

    `with Progress("generate", total, "answers") as bar: bar.advance(3, note="drop 1 %")`. Silent
    where `shown` is False (on every process but the first). `only_long`: nothing stays of one that
    was over before the first line was due.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        shown: bool = True,
        only_long: bool = False,
    ):
        self.label, self.total, self.unit, self.shown = label, total, unit, shown
        self.only_long = only_long
        self.done = self._start_done = done
        self._start = self._last_line = time.monotonic()
        self._bar = self._task = None
        self._note = ""
        self._last_said = float("-inf")

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=terminal.raw(sys.stderr)),
                transient=self.only_long,
            )
            self._bar.start()
            terminal.guard()  # it has put streams of its own there, that print above the bar
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, unit=self.unit, rate="", note=""
            )
        return self

    @property
    def seconds(self) -> float:
        """Return the seconds since the bar began."""
        return time.monotonic() - self._start

    @property
    def _is_left_out(self) -> bool:
        return self.only_long and self.seconds < LINE_SECONDS

    def rate(self) -> float:
        """Return the units per second since the bar began."""
        return (self.done - self._start_done) / max(self.seconds, 1e-9)

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        activity.sign()
        self.done += count
        self._note = self._note if note is None else note
        if not self.shown:
            return
        if self._bar is not None and self._task is not None:
            rate = f"{self.rate():.3g}/s"
            self._bar.update(
                self._task, completed=self.done, rate=rate, note=terminal.printable(self._note)
            )
        elif time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            left = (self.total - self.done) / max(self.rate(), 1e-9)
            print(
                f"  {self.label}: {self.done}/{self.total} {self.unit}, {self.rate():.3g}/s, "
                f"{left:.0f} s left {self._note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def say(self, text: str) -> None:
        """Show news that is not progress: beside the bar on a terminal, a line now and then elsewhere."""
        activity.sign()  # that a server is waited for is no hanging
        if not self.shown:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=terminal.printable(text[:80]))
        elif time.monotonic() - self._last_said > LINE_SECONDS:
            self._last_said = time.monotonic()
            print(f"  {self.label}: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self,
        error: type[BaseException] | None,
        _value: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.shown and error is None and not self._is_left_out:
            print(
                f"  {self.label}: {self.done} {self.unit} in {self.seconds:.1f} s {self._note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
