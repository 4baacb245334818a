"""Rows of a source that are no prompts: left out and counted by reason, up to a share."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from distill.core.jsonl import BadRow, Row
from distill.core.processes import Processes
from distill.data.sources import rows
from distill.errors import DataError
from distill.recipe import Recipe
from distill.recipe.sources import Source

Item = TypeVar("Item")
# A source with nothing but bad rows so far is not read to its end.
_ENOUGH = 100
# Few rows: so many may be bad whatever the share, if they are at most a tenth.
_FEW, _A_TENTH = 10, 10
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Left:
    """What reading left out: rows by reason, and in `notes` what a person should know of it."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()
        self.notes: list[str] = []
        self._num_told = 0

    def tell(self, who: str, processes: Processes) -> None:
        """Print each note once to standard error, in the main process alone."""
        new, self._num_told = self.notes[self._num_told :], len(self.notes)
        if processes.is_main:
            for note in new:
                print(f"{who}: {note}", file=sys.stderr)


def read_rows(
    recipe: Recipe,
    name: str,
    source: Source,
    make: Callable[[Row, str], Item],
    left: Left | None = None,
) -> list[Item]:
    """Return what `made_rows` yields."""
    return list(made_rows(recipe, name, source, make, left))


def made_rows(
    recipe: Recipe,
    name: str,
    source: Source,
    make: Callable[[Row, str], Item],
    left: Left | None = None,
) -> Iterator[Item]:
    """Yield what `make(row, where)` makes of each row of a source of the recipe's field `name`.

    A row of which it makes a DataError is left out, counted and noted in `left`. Raise the first
    such error, at the end, if there are more of them than the recipe's `generate.max_bad_rows`
    allows.
    """
    num_made = 0
    bad = _BadRows()
    for where, row in rows(recipe, name, source):
        try:
            if isinstance(row, BadRow):
                raise row
            item = make(row, where)
        except DataError as error:
            bad.add(error)
        except RecursionError:
            bad.add(BadRow("not_json", f"{where}: nested too deeply"))
        else:
            num_made += 1
            yield item
        if not num_made and bad.num == _ENOUGH:
            break
    num_rows = num_made + bad.num
    bad.check(num_rows, recipe.generate.max_bad_rows)
    if bad.num and left is not None:
        left.by_reason.update(bad.by_reason)
        left.notes.append(f"{name}: {source.name}: {bad.num:,} of {num_rows:,} rows {bad}")


class _BadRows:
    """The errors of a source's rows: how many by reason, and the first of each."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()
        self.first: dict[str, DataError] = {}

    @property
    def num(self) -> int:
        return self.by_reason.total()

    def add(self, error: DataError) -> None:
        reason = error.reason if isinstance(error, BadRow) else "bad_row"
        self.by_reason[reason] += 1
        self.first.setdefault(reason, error)

    def check(self, num_rows: int, share: float) -> None:
        """Raise the first error, with all counts, if more than so many rows are bad."""
        allowed = int(share * num_rows + 1e-6)  # 0.29 of 100 is 29
        if share > 0:
            allowed = max(allowed, min(_FEW, num_rows // _A_TENTH))
        if self.num <= allowed:
            return
        first = next(iter(self.first.values()))
        if self.num == num_rows:
            raise first
        raise DataError(
            f"{first} ({self.num:,} of {num_rows:,} rows are bad: {self._counts()}; mend them, or "
            f"raise generate.max_bad_rows, by which {allowed:,} may be left out)"
        )

    def _counts(self) -> str:
        return ", ".join(f"{reason} {num:,}" for reason, num in self.by_reason.most_common())

    def __str__(self) -> str:
        """Tell what becomes of them, and the first of each reason."""
        first = "; ".join(str(error)[:300] for error in list(self.first.values())[:3])
        return f"are left out ({self._counts()}), such as {first}"


def refuse_half_characters(where: str, *texts: Any) -> None:
    """Raise BadRow for a text with half a character: no file and no tokenizer can take it."""
    for text in texts:
        if isinstance(text, str) and (half := _HALF_CHARACTER.search(text)):
            raise BadRow(
                "half_character",
                f"{where}: half a character (the lone surrogate U+{ord(half[0]):04X}) after "
                f"{text[: half.start()][-20:]!a}: whoever wrote this cut a text in two",
            )
