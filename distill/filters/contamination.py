"""Is a text a copy of an evaluation item, in any script, and not merely made from the same template?

Two signs of a copy: it holds half of an item's 8-grams (as in Tulu 3, Lambert et al. 2024), or a long run of its words
that no other item has. Three rules keep templated data apart from copies:

- n-grams that several items share are a frame; an item is judged by those that only it has, where it has any;
- where the words around a number agree but the number does not, it is another problem: no copy if more than a tenth of
  the item's numbers in agreeing surroundings were replaced;
- items too short for n-grams count only when the whole text is the item.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from distill.text.words import is_unspaced, ngrams, words

NGRAM = 8
SHARE_OF_ITEM = 0.5
LONG_RUN = 13  # words
# 13 characters are three Thai words: 15 of 125 MGSM problems in Thai shared so many with another. At 26 none did.
LONG_RUN_UNSPACED = 32
OTHER_NUMBERS = 0.1

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class _Item:
    number: int  # position in the caller's list
    units: tuple[str, ...]
    own_ngrams: frozenset[Ngram]  # those that no other item has; all, where it has none of its own
    long_run: int
    masked_ngrams: tuple[
        tuple[int, Ngram, tuple[int, ...]], ...
    ]  # (position, 8-gram with `#` for numbers, where in it)
    repeats: bool  # whether one of its 8-grams comes twice


class EvalIndex:
    """Evaluation texts, ready to be compared with many training texts."""

    def __init__(self, texts: Iterable[str]):
        distinct = {
            units: number
            for number, text in reversed(list(enumerate(texts)))
            if (units := words(text))
        }
        self._short = {
            " ".join(units): number for units, number in distinct.items() if len(units) < NGRAM
        }
        long = {number: units for units, number in distinct.items() if len(units) >= NGRAM}
        self._frequency = Counter(
            gram for units in long.values() for gram in set(ngrams(units, NGRAM))
        )
        self._items: dict[int, _Item] = {}
        self._items_with: dict[Ngram, list[int]] = defaultdict(list)
        self._surroundings: set[Ngram] = set()
        for number, units in sorted(long.items()):
            run = ngrams(units, NGRAM)
            grams = frozenset(run)
            own = frozenset(gram for gram in grams if self._frequency[gram] == 1) or grams
            long_run = LONG_RUN_UNSPACED if is_unspaced(units) else LONG_RUN
            masked = _masked_ngrams(units)
            self._surroundings.update(gram for _, gram, _ in masked)
            self._items[number] = _Item(number, units, own, long_run, masked, len(grams) < len(run))
            for gram in own:
                self._items_with[gram].append(number)

    def __len__(self) -> int:
        """Number of distinct items."""
        return len(self._items) + len(self._short)

    def hit(self, text: str) -> str | None:
        """None, or which item (by its position from 0) the text copies, and how much of it."""
        units = words(text)
        if len(units) < NGRAM:
            number = self._short.get(" ".join(units)) if units else None
            return None if number is None else f"equals eval item {number}"
        seen = set(ngrams(units, NGRAM))
        known = (
            self._items_with.keys() & seen
        )  # most texts share nothing with any item and end here
        found = Counter(number for gram in known for number in self._items_with[gram])
        surroundings = _Surroundings(units, self._surroundings)
        for number, count in sorted(found.items(), key=lambda pair: (-pair[1], pair[0])):
            item = self._items[number]
            share = count / len(item.own_ngrams)
            is_copy = share >= SHARE_OF_ITEM
            if (
                is_copy or self._shares_long_run(item, count, seen)
            ) and not surroundings.have_other_numbers(item):
                how = (
                    f"{round(100 * share)} % of the {NGRAM}-grams"
                    if is_copy
                    else f"{item.long_run} units in a row"
                )
                return f"{how} of eval item {number}"
        return None

    def _shares_long_run(self, item: _Item, num_shared: int, seen: set[Ngram]) -> bool:
        """Whether a long run of the item's units is in the text, every 8-gram of it the item's own.

        `num_shared`: how many of its own 8-grams the text has; too few of them make no run.
        """
        if not item.repeats and num_shared + NGRAM - 1 < item.long_run:
            return False
        in_row = 0
        for gram in ngrams(item.units, NGRAM):
            in_row = in_row + 1 if gram in seen and self._frequency[gram] == 1 else 0
            if in_row + NGRAM - 1 >= item.long_run:
                return True
        return False


def _masked(units: Sequence[str]) -> list[str]:
    return ["#" if unit[0].isdigit() else unit for unit in units]


def _masked_ngrams(units: Sequence[str]) -> tuple[tuple[int, Ngram, tuple[int, ...]], ...]:
    """Those with a number in them: the others say nothing about numbers."""
    return tuple(
        (position, gram, tuple(k for k, unit in enumerate(gram) if unit == "#"))
        for position, gram in enumerate(ngrams(_masked(units), NGRAM))
        if "#" in gram
    )


class _Surroundings:
    """Where a text has the masked 8-grams that items have; looked for when first asked."""

    def __init__(self, units: Sequence[str], known: set[Ngram]):
        self._units, self._known = units, known

    @cached_property
    def places(self) -> dict[Ngram, list[int]]:
        found: dict[Ngram, list[int]] = {}
        for position, gram in enumerate(ngrams(_masked(self._units), NGRAM)):
            if gram in self._known:
                found.setdefault(gram, []).append(position)
        return found

    def have_other_numbers(self, item: _Item) -> bool:
        """Whether the text fits the item's words but carries other numbers in their places."""
        same: set[int] = set()
        aligned: set[int] = set()
        for start, gram, offsets in item.masked_ngrams:
            if gram not in self.places:
                continue
            for k in offsets:
                aligned.add(start + k)
                if any(
                    self._units[position + k] == item.units[start + k]
                    for position in self.places[gram]
                ):
                    same.add(start + k)
        return len(aligned - same) > OTHER_NUMBERS * len(aligned)
