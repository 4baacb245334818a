"""Whether a text copies an evaluation item, in any script, or only comes from the same template.

Two signs of a copy: it holds half of an item's 8-grams (as in Tulu 3, Lambert et al. 2024), or a
long run of its words that no other item has. Three rules keep templated data apart from copies:

- n-grams that several items share are a frame; an item is judged by those that only it has, where
  it has any;
- where the words around a number agree but the number does not, it is another problem: no copy if
  more than a tenth of the item's numbers in agreeing surroundings were replaced;
- items too short for n-grams count only when the whole text is the item.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from distill.text.text import Text
from distill.text.words import is_unspaced, ngrams, words

NGRAM = 8
SHARE_OF_ITEM = 0.5
LONG_RUN = 13  # words
# 13 characters are three Thai words: 15 of 125 MGSM problems in Thai shared so many with another.
# At 26 none did.
LONG_RUN_UNSPACED = 32
OTHER_NUMBERS = 0.1

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class _MaskedNgram:
    """An 8-gram with `#` for its numbers: where it begins, and at which offsets the numbers are."""

    position: int
    gram: Ngram
    number_offsets: tuple[int, ...]


@dataclass(frozen=True)
class _Item:
    """An evaluation text of 8 units or more.

    `number`: its position in the caller's list. `own_ngrams`: those that no other item has; all,
    where it has none of its own. `repeats`: whether one of its 8-grams comes twice.
    """

    number: int
    units: tuple[str, ...]
    own_ngrams: frozenset[Ngram]
    long_run: int
    masked_ngrams: tuple[_MaskedNgram, ...]
    repeats: bool


class EvalIndex:
    """Evaluation texts, ready to be compared with many training texts."""

    def __init__(self, texts: Iterable[str]):
        distinct: dict[tuple[str, ...], int] = {}  # units and first position, the last text first
        for number, text in reversed(list(enumerate(texts))):
            units = words(text)
            if units:
                distinct[units] = number
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
            self._add(self._item(number, units))

    def _item(self, number: int, units: tuple[str, ...]) -> _Item:
        run = ngrams(units, NGRAM)
        grams = frozenset(run)
        return _Item(
            number=number,
            units=units,
            own_ngrams=frozenset(gram for gram in grams if self._frequency[gram] == 1) or grams,
            long_run=LONG_RUN_UNSPACED if is_unspaced(units) else LONG_RUN,
            masked_ngrams=_masked_ngrams(units),
            repeats=len(grams) < len(run),
        )

    def _add(self, item: _Item) -> None:
        self._items[item.number] = item
        self._surroundings.update(masked.gram for masked in item.masked_ngrams)
        for gram in item.own_ngrams:
            self._items_with[gram].append(item.number)

    def __len__(self) -> int:
        """Return the number of distinct items."""
        return len(self._items) + len(self._short)

    def hit(self, text: Text) -> str | None:
        """Return which item (position from 0) the text copies and how much of it, or None."""
        found = self._found(text)
        return None if found is None else f"{found[1]} eval item {found[0]}"

    def item_in(self, text: Text) -> int | None:
        """Return the position from 0 of the item that the text copies, or None."""
        found = self._found(text)
        return None if found is None else found[0]

    def _found(self, text: Text) -> tuple[int, str] | None:
        """Return the item that the text copies, and how it is told, or None."""
        if len(text.words) < NGRAM:
            number = self._short.get(" ".join(text.words)) if text.words else None
            return None if number is None else (number, "equals")
        grams = set(ngrams(text.words, NGRAM))
        # most texts share nothing with any item and end here
        known = self._items_with.keys() & grams
        num_shared = Counter(number for gram in known for number in self._items_with[gram])
        surroundings = _Surroundings(text.words, self._surroundings)
        for number, num in sorted(num_shared.items(), key=lambda pair: (-pair[1], pair[0])):
            item = self._items[number]
            copied = self._copied(item, num, grams)
            if copied is not None and not surroundings.have_other_numbers(item):
                return number, f"{copied} of"
        return None

    def _copied(self, item: _Item, num_shared: int, grams: set[Ngram]) -> str | None:
        """Return how much of the item a text has, if that makes it a copy, or None.

        `num_shared`: how many of the item's own 8-grams are among the text's `grams`.
        """
        share = num_shared / len(item.own_ngrams)
        if share >= SHARE_OF_ITEM:
            return f"{round(100 * share)} % of the {NGRAM}-grams"
        if self._shares_long_run(item, num_shared, grams):
            return f"{item.long_run} units in a row"
        return None

    def _shares_long_run(self, item: _Item, num_shared: int, grams: set[Ngram]) -> bool:
        """Return whether a text has a long run of the item, every 8-gram of it the item's own."""
        if not item.repeats and num_shared + NGRAM - 1 < item.long_run:
            return False  # too few of its 8-grams to make a run
        num_in_row = 0
        for gram in ngrams(item.units, NGRAM):
            is_own = gram in grams and self._frequency[gram] == 1
            num_in_row = num_in_row + 1 if is_own else 0
            if num_in_row + NGRAM - 1 >= item.long_run:
                return True
        return False


def _masked(units: Sequence[str]) -> list[str]:
    return ["#" if unit[0].isdigit() else unit for unit in units]


def _masked_ngrams(units: Sequence[str]) -> tuple[_MaskedNgram, ...]:
    """Return those with a number in them: the others say nothing about numbers."""
    masked = []
    for position, gram in enumerate(ngrams(_masked(units), NGRAM)):
        offsets = tuple(offset for offset, unit in enumerate(gram) if unit == "#")
        if offsets:
            masked.append(_MaskedNgram(position, gram, offsets))
    return tuple(masked)


class _Surroundings:
    """Where a text has the masked 8-grams that items have; looked for when first asked."""

    def __init__(self, units: Sequence[str], known: set[Ngram]):
        self._units, self._known = units, known

    @cached_property
    def positions(self) -> dict[Ngram, list[int]]:
        """Return where each known masked 8-gram begins in the text."""
        positions: dict[Ngram, list[int]] = {}
        for position, gram in enumerate(ngrams(_masked(self._units), NGRAM)):
            if gram in self._known:
                positions.setdefault(gram, []).append(position)
        return positions

    def have_other_numbers(self, item: _Item) -> bool:
        """Return whether the text has the item's words but other numbers among them."""
        same: set[int] = set()
        aligned: set[int] = set()
        for masked in item.masked_ngrams:
            positions = self.positions.get(masked.gram)
            if positions is None:
                continue
            for offset in masked.number_offsets:
                index = masked.position + offset
                aligned.add(index)
                number = item.units[index]
                if any(self._units[position + offset] == number for position in positions):
                    same.add(index)
        return len(aligned - same) > OTHER_NUMBERS * len(aligned)
