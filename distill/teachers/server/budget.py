"""What is used of the recipe's limits on servers.

It counts what this process used, what its requests in flight may take, and what all other runs and
jobs of the run folder used, whose logs say it. The limits hold for jobs side by side as well, but
for what those have in flight: each learns of the others' answers some seconds after they came.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from distill.core.jsonl import Row, row_of
from distill.recipe.sections import Generate

LOOK_SECONDS = 5.0  # between two looks at what others have written


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost on a server; 0 = nothing."""

    prompt: float = 0.0
    answer: float = 0.0

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


FREE = Prices()


@dataclass
class Usage:
    """What was used of a server. `cost` is by the recipe's prices."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_bytes: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def add(self, other: "Usage", times: int = 1) -> None:
        for part in fields(Usage):
            total = getattr(self, part.name) + times * getattr(other, part.name)
            setattr(self, part.name, total)


@dataclass
class AnswerUsage(Usage):
    """What one answer took, tries whose answers were thrown away among it.

    `start` and `end` are Unix times; `model` is what the server calls the model that answered.
    """

    start: float = 0.0
    end: float = 0.0
    model: str | None = None
    _began: float = field(default=0.0, repr=False, compare=False)  # by a clock nobody sets back

    def begin(self) -> None:
        """Note when the first try is sent."""
        if not self.start:
            self.start, self._began = time.time(), time.monotonic()

    def finish(self) -> None:
        """Note when a try has ended; the last one counts."""
        self.end = self.start + time.monotonic() - self._began

    def row(self) -> Row:
        """Return it as a row of the log keeps it; what is not known is left out."""
        row: Row = {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "bytes": self.num_bytes,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
        }
        if self.cost:
            row["cost"] = round(self.cost, 8)
        if self.model:
            row["model"] = self.model
        return row


Whose = tuple[str | None, str | None]  # a row's `teacher` and `server_model`


class UsageLog:
    """What the answer logs of a run folder say was used, read on as they grow.

    `logs`: each log's folder, with the prices of the server that answers there. `prices`: where
    several teachers answer there, those of each. `only`: count the rows of this one alone.
    """

    def __init__(
        self,
        logs: Mapping[Path, Prices],
        prices: Mapping[Whose, Prices] | None = None,
        only: Whose | None = None,
    ):
        self._logs = logs
        self._prices = prices or {}
        self._only = only
        self._read_to: dict[Path, int] = {}
        self._own: set[Path] = set()
        self._next_look = float("-inf")
        self._total = Usage()

    def leave_out(self, path: Path) -> None:
        """Leave out a file that this process writes: it knows itself what it uses."""
        self._own.add(path)

    def total(self) -> Usage:
        if time.monotonic() < self._next_look:
            return self._total
        self._next_look = time.monotonic() + LOOK_SECONDS
        for folder, prices in self._logs.items():
            for path in folder.glob("*.jsonl"):
                if path not in self._own:
                    self._read_on(path, prices)
        return self._total

    def _read_on(self, path: Path, prices: Prices) -> None:
        with open(path, "rb") as f:
            f.seek(self._read_to.get(path, 0))
            for line in f:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._read_to[path] = self._read_to.get(path, 0) + len(line)
                row = row_of(line)
                served = row.get("server") if isinstance(row, dict) else None
                if not isinstance(served, dict):  # it was answered on this machine
                    continue
                whose = (row.get("teacher"), row.get("server_model"))
                if self._only in (None, whose):
                    self._total.add(_usage_of_row(served, self._prices.get(whose, prices)))


def _usage_of_row(served: dict[str, Any], prices: Prices) -> Usage:
    """Return what a row says of its server; a cost that it does not say is reckoned by `prices`.

    A number below 0, which a server made up, gives nothing back of a limit.
    """
    names = ("requests", "prompt_tokens", "answer_tokens", "bytes")
    requests, prompt_tokens, answer_tokens, num_bytes = (_at_least_0(served, n) for n in names)
    cost = _at_least_0(served, "cost") or prices.cost(prompt_tokens, answer_tokens)
    return Usage(requests, prompt_tokens, answer_tokens, num_bytes, cost)


def _at_least_0(served: dict[str, Any], name: str) -> Any:
    value = served.get(name)
    return value if isinstance(value, int | float) and value > 0 else 0


@dataclass(frozen=True)
class _Limit:
    """One limit of the recipe. `most` and `unit` are in the unit that the recipe names."""

    name: str
    most: float
    used: str  # field of Usage
    unit: float = 1
    digits: int = 0

    def reached(self, used: Usage, need: Usage) -> str | None:
        """Return a sentence for people if it is used up, or too near for `need` more."""
        now = getattr(used, self.used) / self.unit
        more = getattr(need, self.used) / self.unit
        if now >= self.most:
            return f"{self.name} ({now:.{self.digits}f} of {self.most})"
        if now + more <= self.most * (1 + 1e-9):
            return None
        if self.name == "max_requests":
            return f"{self.name} ({now:.{self.digits}f} of {self.most})"
        return (
            f"{self.name} ({now:.{self.digits}f} of {self.most}, "
            f"and one more answer may take {more:.{self.digits}f})"
        )


@dataclass
class Budget:
    """What a run has used of its limits (generate.max_...) on all its servers.

    `own` is what this process used, `in_flight` what its requests that are out may take at most.
    `has_answered`: whether anything was answered well, now or before. `known_servers` is what was
    found out about servers, which are asked once a run. `purse`: what the teacher, one of several,
    may use by itself.
    """

    limits: Generate
    usage_log: UsageLog | None = None
    purse: "Purse | None" = None
    own: Usage = field(default_factory=Usage)
    in_flight: Usage = field(default_factory=Usage)
    at_once: int = 0
    most_at_once: int = 0
    num_unreported: int = (
        0  # answers whose tokens the server did not tell: counted by the tokenizer
    )
    has_answered: bool = False
    started: float = field(default_factory=time.monotonic)
    known_servers: dict[Any, Any] = field(default_factory=dict)

    def leave_out(self, path: Path) -> None:
        """Leave a file that this process writes out of what the logs say."""
        if self.usage_log is not None:
            self.usage_log.leave_out(path)
        if self.purse is not None:
            self.purse.usage_log.leave_out(path)

    def need(self, prompt_tokens: int, answer_tokens: int, prices: Prices) -> Usage:
        """Return what one more request takes at most; of its traffic only the mean is known."""
        num_bytes = self.own.num_bytes // max(1, self.own.requests)
        cost = prices.cost(prompt_tokens, answer_tokens)
        return Usage(1, prompt_tokens, answer_tokens, num_bytes, cost)

    def fits(self, need: Usage) -> bool:
        """Return whether one more request may be sent beside those in flight."""
        return self._limit_reached(need, self.in_flight) is None

    def limit_reached(self, need: Usage) -> str | None:
        """Return the limit that is used up, or too near for one more request, in words."""
        most = self.limits.max_hours
        if most is not None and self.is_out_of_time():
            return f"max_hours ({self._hours():.3g} of {most:g})"
        return self._limit_reached(need, Usage())

    def is_out_of_time(self) -> bool:
        most = self.limits.max_hours
        return most is not None and self._hours() >= most

    def _hours(self) -> float:
        return (time.monotonic() - self.started) / 3600

    def _limit_reached(self, need: Usage, in_flight: Usage) -> str | None:
        reached = _reached(vars(self.limits), self.usage_log, (self.own, in_flight), need)
        if reached is not None or self.purse is None:
            return reached
        purse = self.purse
        reached = _reached(purse.limits, purse.usage_log, (self.own, in_flight), need)
        return None if reached is None else f"{purse.name}: {reached}"


@dataclass(frozen=True)
class Purse:
    """The limits on one of several teachers alone, and what it has used in all runs and jobs."""

    name: str
    limits: Mapping[str, Any]
    usage_log: UsageLog


def _reached(
    limits: Mapping[str, Any], usage_log: UsageLog | None, others: Sequence[Usage], need: Usage
) -> str | None:
    """Return the limit that is used up, or too near for `need` more, in words.

    Used is what the log says, and `others`.
    """
    given = _limits(limits)
    if not given:
        return None
    used = Usage()
    for usage in others:
        used.add(usage)
    if usage_log is not None:
        used.add(usage_log.total())
    reached = (limit.reached(used, need) for limit in given)
    return next((text for text in reached if text is not None), None)


def _limits(limits: Mapping[str, Any]) -> list[_Limit]:
    given = []
    if (most := limits.get("max_requests")) is not None:
        given.append(_Limit("max_requests", most, "requests"))
    if (most := limits.get("max_tokens")) is not None:
        given.append(_Limit("max_tokens", most, "tokens"))
    if (most := limits.get("max_cost")) is not None:
        given.append(_Limit("max_cost", most, "cost", digits=4))
    if (most := limits.get("max_megabytes")) is not None:
        given.append(_Limit("max_megabytes", most, "num_bytes", unit=1e6, digits=2))
    return given
