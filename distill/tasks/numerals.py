"""Digits as numbers: local digits, exponents, numbers of any length, and references of a type."""

import math
import re
import unicodedata
from collections.abc import Collection
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeGuard

# what may stand between groups of three digits besides `,` and `.`; both kinds of space are common
# in print
THIN_SPACES = "\u00a0\u202f"
LAKHS = re.compile(r"[1-9]\d?(?:,\d\d)+,\d{3}")  # 1,23,456: how India groups
# 1e-5, 1.5E+16; 2 × 10^5, 2·10^{-5}, 2 \times 10⁻⁵
EXPONENT = (
    r"(?:[eE][-+−]?\d+(?!\w)|"
    r"\s?(?:[×xX*·⋅]|\\times|\\cdot)\s?10(?:\^\{?[-+−]?\d+\}?|[-−⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))"
)
_SCALED = re.compile(rf"(?P<digits>.*?)(?P<exponent>{EXPONENT})?", re.DOTALL)
_POWER = re.compile(r"([-+−⁻]?)([\d⁰¹²³⁴⁵⁶⁷⁸⁹]+)\}?$")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
# Beyond these a number is not read, for it could take minutes. A float's exponents end at 308.
MAX_DIGITS, MAX_EXPONENT = 20_000, 5_000


class TooLongError(ValueError):
    """A number is beyond MAX_DIGITS or MAX_EXPONENT: it is none that an answer could mean."""


def is_typed(reference: Any) -> TypeGuard[int | float]:
    """Return whether a reference is a number of its file's own (JSON, Parquet), not text."""
    return isinstance(reference, int | float) and not isinstance(reference, bool)


def equals(values: Collection[Fraction], reference: int | float) -> bool:
    """Return whether one of the values is the typed number `reference`.

    A float stands for every number that it is the nearest float to: 0.1 is one tenth.
    """
    if isinstance(reference, int):
        return reference in values
    return math.isfinite(reference) and any(_nearest(value) == reference for value in values)


def _nearest(value: Fraction) -> float:
    """Return the nearest float; infinity where it is beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def written(reference: int | float) -> str:
    """Return a typed number as text without an exponent: 0.00001 for 1e-05."""
    return format(Decimal(repr(reference)), "f")


def exact(digits: str) -> Fraction:
    """Return the value of plain digits with at most one point. Raise TooLongError.

    By way of Decimal: `int` refuses to read more than 4,300 digits.
    """
    if len(digits) > MAX_DIGITS:
        raise TooLongError
    return Fraction(Decimal(digits))


def split_exponent(number: str) -> tuple[str, Fraction]:
    """Return (what stands before the exponent, the power of ten); 1 where there is none.

    Raise TooLongError.
    """
    match = _SCALED.fullmatch(number)
    assert match is not None  # any text matches
    if match["exponent"] is None:
        return number, Fraction(1)
    power = _POWER.search(match["exponent"])
    assert power is not None  # EXPONENT ends like that
    size = power[2].translate(_SUPERSCRIPTS).lstrip("0")
    if len(size) > 4 or int(size or 0) > MAX_EXPONENT:
        raise TooLongError
    sign = -1 if power[1] in tuple("-−⁻") else 1
    return match["digits"], Fraction(10) ** (sign * int(size or 0))


def plain(text: str) -> str:
    """Return the text with ASCII digits for local ones (४२, ٤٢, ４２) and common forms of signs."""
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    """Return the character's NFKC form with ASCII digits, where that keeps the meaning."""
    # NFKC would turn thin spaces into plain ones, ² into 2 and ， into a decimal comma
    if character in THIN_SPACES or character == "，" or unicodedata.category(character) == "No":
        return character
    form = unicodedata.normalize("NFKC", character).replace("٬", ",").replace("٫", ".")
    return "".join(map(_ascii_digit, form))


def _ascii_digit(character: str) -> str:
    value = unicodedata.digit(character, None)
    return character if value is None else str(value)
