"""The units of a text that n-grams are made of: words, or single characters in scripts that write no spaces.

Splitting at spaces alone gives a Chinese sentence one "word", and every n-gram filter then silently matches nothing.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from distill.text.language import SCRIPTS, UNSPACED

_UNSPACED_RANGES = tuple(r for script in UNSPACED for r in SCRIPTS[script])
_THOUSANDS = re.compile(r"(?<=\d)[,.'’  ](?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(\d+)")


class _Units(dict[int, str]):
    """For str.translate: digits of every script to 0-9, punctuation to a space, spaces around unspaced characters."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        category = unicodedata.category(character)
        if category == "Nd":
            unit = str(unicodedata.digit(character))
        elif any(low <= point <= high for low, high in _UNSPACED_RANGES) and category[0] in "LMN":
            unit = f" {character} "
        elif category == "Cf":  # joiners, direction marks, soft hyphens: invisible inside a word
            unit = ""
        else:
            unit = " " if category[0] in "PSZC" else character
        self[point] = unit
        return unit


_UNITS = _Units()
APOSTROPHES = str.maketrans("’‘ʼ`", "''''")


@lru_cache(maxsize=4)  # the filters of one answer ask one after the other
def folded(text: str) -> str:
    """NFKC and casefolded: full-width, ligatures and capitals no longer differ."""
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=4)
def words(text: str) -> tuple[str, ...]:
    """Casefolded units of the NFKC text without punctuation; numbers are units of their own (16个 is 16, 个; 80,000 is
    80000; २४ is 24). `\\w` would not do: it breaks Hindi words at their vowel signs."""
    text = _THOUSANDS.sub("", folded(text))
    return tuple(" ".join(_NUMBER.split(text.translate(_UNITS))).split())


def ngrams(units: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` units; none where there are fewer."""
    return list(zip(*(units[start:] for start in range(size)), strict=False))


@lru_cache(maxsize=1 << 16)
def _stands_alone(unit: str) -> bool:
    return len(unit) == 1 and any(low <= ord(unit) <= high for low, high in _UNSPACED_RANGES)


def is_unspaced(units: Sequence[str]) -> bool:
    """Whether most of the units are characters of a script without spaces between words."""
    return 2 * sum(map(_stands_alone, units)) > len(units)
