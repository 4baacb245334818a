"""What is used of the recipe's limits on a server: by this process, by its requests under way, and by all other runs and jobs of
the run folder, whose rows say it.

The logs are the ledger. They hold for jobs side by side as well, but for what those have under way: each learns of the
others' answers some seconds after they came.
"""

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from distill.core.jsonl import Row, row_of
from distill.recipe.sections import Generate

LOGS = ("raw", "raw_prompts", "judged")  # folders of generate's that hold what was asked
LOOK_SECONDS = 5.0  # between two looks at what others have written
JUDGE = "judge/"  # begins a row's `teacher` where the judge's own server answered


@dataclass
class Amount:
    """Of a server's work. `cost` by the recipe's prices."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_bytes: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def add(self, other: "Amount", times: int = 1) -> None:
        for part in fields(Amount):
            setattr(self, part.name, getattr(self, part.name) + times * getattr(other, part.name))


def price(options: Generate, prompt_tokens: int, answer_tokens: int) -> float:
    return (prompt_tokens * options.price_prompt + answer_tokens * options.price_answer) / 1e6


@dataclass
class Took(Amount):
    """What one answer took, tries whose answers were thrown away among it. `model`: as the server calls what answered."""

    start: float = 0.0
    end: float = 0.0
    model: str | None = None

    def row(self) -> Row:
        """As a row of the log keeps it; what is not known is left out."""
        found: Row = {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "bytes": self.num_bytes,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
        }
        return (
            found
            | ({"cost": round(self.cost, 8)} if self.cost else {})
            | ({"model": self.model} if self.model else {})
        )


class Ledger:
    """What the logs of a run folder say was spent, read on as they grow. `stage`: generate's folder."""

    def __init__(self, stage: Path, options: Generate):
        self._stage, self._options = stage, options
        self._read_to: dict[Path, int] = {}
        self._own: set[Path] = set()
        self._next_look = float("-inf")
        self._total = Amount()

    def leave_out(self, log: Path) -> None:
        """A file that this process writes: it knows itself what it spends."""
        self._own.add(log)

    def total(self) -> Amount:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            for name in LOGS:
                for path in (self._stage / name).glob("*.jsonl"):
                    if path not in self._own:
                        self._read_on(path)
        return self._total

    def _read_on(self, path: Path) -> None:
        with open(path, "rb") as f:
            f.seek(self._read_to.get(path, 0))
            for line in f:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._read_to[path] = self._read_to.get(path, 0) + len(line)
                if (row := row_of(line)) is not None:
                    self._total.add(self._amount(row))

    def _amount(self, row: Row) -> Amount:
        said: dict[str, Any] | None = row.get("server")
        if said is None:  # answered on this machine
            return Amount()
        options, tokens = self._options, (said["prompt_tokens"], said["answer_tokens"])
        prices = (options.price_prompt, options.price_answer)
        if str(row["teacher"]).startswith(JUDGE):
            prices = (options.judge_price_prompt, options.judge_price_answer)
        cost = (
            said["cost"]
            if "cost" in said
            else sum(p * t for p, t in zip(prices, tokens, strict=True)) / 1e6
        )
        return Amount(
            said["requests"], said["prompt_tokens"], said["answer_tokens"], said["bytes"], cost
        )


@dataclass
class Spent:
    """What a run has used of its limits. `mine`: this process; `under_way`: what its requests that are out may take at most.

    `answered`: whether this teacher has answered anything well, now or before; `found`: what its servers can do, asked once."""

    ledger: Ledger | None = None
    mine: Amount = field(default_factory=Amount)
    under_way: Amount = field(default_factory=Amount)
    at_once: int = 0
    most_at_once: int = 0
    num_untold: int = 0  # answers whose tokens the server did not tell: counted by the tokenizer
    answered: bool = False
    started: float = field(default_factory=time.monotonic)
    found: dict[Any, Any] = field(default_factory=dict)

    def need(self, options: Generate, prompt_tokens: int, answer_tokens: int) -> Amount:
        """What one more request takes at most; of its traffic only the mean is known."""
        num_bytes = self.mine.num_bytes // max(1, self.mine.requests)
        return Amount(
            1, prompt_tokens, answer_tokens, num_bytes, price(options, prompt_tokens, answer_tokens)
        )

    def fits(self, options: Generate, need: Amount) -> bool:
        """Whether one more may be sent beside those under way."""
        return self._full(options, need, self.under_way) is None

    def full(self, options: Generate, need: Amount) -> str | None:
        """The limit of the recipe that is used up, or too near for one more request, as a person reads it."""
        if options.max_hours is not None and self.out_of_time(options):
            return f"max_hours ({(time.monotonic() - self.started) / 3600:.3g} of {options.max_hours:g})"
        return self._full(options, need, Amount())

    def out_of_time(self, options: Generate) -> bool:
        return (
            options.max_hours is not None
            and time.monotonic() - self.started >= 3600 * options.max_hours
        )

    def _full(self, options: Generate, need: Amount, under_way: Amount) -> str | None:
        limits = [
            ("max_requests", "requests", options.max_requests, 1, 0),
            ("max_tokens", "tokens", options.max_tokens, 1, 0),
            ("max_cost", "cost", options.max_cost, 1, 4),
            ("max_megabytes", "num_bytes", options.max_megabytes, 1e6, 2),
        ]
        if all(most is None for _, _, most, _, _ in limits):
            return None
        used = Amount()
        for amount in (self.mine, under_way, *([self.ledger.total()] if self.ledger else [])):
            used.add(amount)
        for name, part, most, unit, digits in limits:
            now, more = getattr(used, part) / unit, getattr(need, part) / unit
            if most is not None and (now >= most or now + more > most * (1 + 1e-9)):
                next_one = (
                    ""
                    if now >= most or name == "max_requests"
                    else f", and one more answer may take {more:.{digits}f}"
                )
                return f"{name} ({now:.{digits}f} of {most}{next_one})"
        return None
