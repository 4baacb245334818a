"""The units of a text that n-grams are made of: words, or characters where no spaces are written.

Splitting at spaces alone gives a Chinese sentence one "word", and every n-gram filter then silently
matches nothing.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from distill.text.scripts import SCRIPTS, UNSPACED

_UNSPACED_RANGES = tuple(points for script in UNSPACED for points in SCRIPTS[script])
_THOUSANDS = re.compile(r"(?<=\d)[,.'’  ](?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(\d+)")


class _Units(dict[int, str]):
    """What each code point is replaced by (for str.translate), worked out when first met.

    Digits of every script become 0-9, punctuation becomes a space, and an unspaced character gets
    spaces around it.
    """

    def __missing__(self, point: int) -> str:
        self[point] = unit = self._unit(chr(point))
        return unit

    @staticmethod
    def _unit(character: str) -> str:
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.digit(character))
        if _is_unspaced_point(ord(character)) and category[0] in "LMN":
            return f" {character} "
        if category == "Cf":  # joiners, direction marks, soft hyphens: invisible inside a word
            return ""
        return " " if category[0] in "PSZC" else character


def _is_unspaced_point(point: int) -> bool:
    return any(low <= point <= high for low, high in _UNSPACED_RANGES)


_UNITS = _Units()
APOSTROPHES = str.maketrans("’‘ʼ`", "''''")


def folded(text: str) -> str:
    """Return the text in NFKC and casefolded: width, ligatures and capitals no longer differ."""
    return unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> tuple[str, ...]:
    """Return the units of a text, casefolded and without punctuation.

    Numbers are units of their own (16个 is 16, 个; 80,000 is 80000; २४ is 24). `\\w` would not do:
    it breaks Hindi words at their vowel signs.
    """
    return words_of_folded(folded(text))


def words_of_folded(text: str) -> tuple[str, ...]:
    """Return the units of a text that is `folded` already."""
    text = _THOUSANDS.sub("", text).translate(_UNITS)
    return tuple(" ".join(_NUMBER.split(text)).split())


def ngrams(units: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return every run of `size` units; none where there are fewer."""
    return list(zip(*(units[start:] for start in range(size)), strict=False))


@lru_cache(maxsize=1 << 16)
def _stands_alone(unit: str) -> bool:
    return len(unit) == 1 and _is_unspaced_point(ord(unit))


def is_unspaced(units: Sequence[str]) -> bool:
    """Return whether most of the units are characters of a script without spaces."""
    return 2 * sum(map(_stands_alone, units)) > len(units)
