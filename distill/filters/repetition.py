"""Endless repetition, by which a model that is lost can be told in every script."""

import zlib

import numpy as np

from distill.text.text import Text
from distill.text.words import is_unspaced, ngrams

# Ten real sentences in a row (SIB-200, 15 languages) compress to 50 % or more, and repeat next to
# no n-gram.
_MIN_ZLIB_RATIO, _ZLIB_CHARACTERS = 0.2, 400
_MAX_REPEATED, _REPEATED_UNITS = 0.4, 60
_WORDS_A_GRAM, _CHARACTERS_A_GRAM = 6, 16
_TAIL_PROBE, _TAIL_LENGTH, _TAIL_PERIODS = 24, 100, 4


def loop(text: Text) -> str | None:
    """Return how the text repeats itself endlessly, or None.

    Its end repeats itself, it compresses too well, or most of its n-grams came before.
    """
    return _loop_at_end(text.raw) or _compresses_too_well(text.raw) or _repeats_ngrams(text)


def _loop_at_end(text: str) -> str | None:
    text = text.rstrip()
    if len(text) <= _TAIL_LENGTH:
        return None
    before = text.rfind(text[-_TAIL_PROBE:], 0, len(text) - 1)
    if before < 0:
        return None
    period = len(text) - _TAIL_PROBE - before
    span = max(period * _TAIL_PERIODS, _TAIL_LENGTH)
    tail = text[-span:]
    if len(text) < span or tail[period:] != tail[:-period]:
        return None
    if not any(character.isalnum() for character in tail[:period]):
        return None  # a rule of dashes is no loop
    return f"ends with {tail[-period:][:60]!r} {span // period} times or more"


def _compresses_too_well(text: str) -> str | None:
    """Compare with the text's code points modulo 256.

    UTF-8 spends three bytes on a Hindi letter, two of them always the same, and one threshold would
    not fit all scripts.
    """
    if len(text) < _ZLIB_CHARACTERS:
        return None
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint8)
    low_bytes = points[::4].tobytes()
    ratio = len(zlib.compress(low_bytes, 1)) / len(low_bytes)
    return f"compresses to {100 * ratio:.0f} %" if ratio < _MIN_ZLIB_RATIO else None


def _repeats_ngrams(text: Text) -> str | None:
    """Compare n-grams of 6 words, or of 16 characters where a script has no spaces."""
    if len(text.words) < _REPEATED_UNITS:
        return None
    size = _CHARACTERS_A_GRAM if is_unspaced(text.words) else _WORDS_A_GRAM
    grams = ngrams(text.words, size)
    repeated = 1 - len(set(grams)) / len(grams)
    return (
        f"{100 * repeated:.0f} % of its n-grams came before" if repeated > _MAX_REPEATED else None
    )


def first_repetition(text: Text) -> int | None:
    """Return from which character on a text that loops repeats itself, None where it does not loop.

    Where its end repeats itself: the end of that passage's first time. Else the first character from
    which on most of what follows came before, in pieces of 16 characters.
    """
    if loop(text) is None:
        return None
    return _repeated_end(text.raw) or _mostly_repeated(text.raw)


def _repeated_end(text: str) -> int | None:
    if _loop_at_end(text) is None:
        return None
    text = text.rstrip()
    before = text.rfind(text[-_TAIL_PROBE:], 0, len(text) - 1)
    period = len(text) - _TAIL_PROBE - before
    start = len(text) - period
    while start > 0 and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return start + period


def _mostly_repeated(text: str) -> int:
    seen: set[str] = set()
    came_before = []
    for start in range(max(1, len(text) - _CHARACTERS_A_GRAM + 1)):
        piece = text[start : start + _CHARACTERS_A_GRAM]
        came_before.append(piece in seen)
        seen.add(piece)
    flags = np.array(came_before)
    share_from = np.cumsum(flags[::-1])[::-1] / np.arange(len(flags), 0, -1)
    starts = np.flatnonzero(flags & (share_from > 0.5))
    return int(starts[0]) if len(starts) else 0
