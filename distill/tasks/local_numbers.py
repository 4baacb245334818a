"""Numbers as people write them: local digits and separators, currency, units, Chinese numerals."""

import re
import unicodedata
from fractions import Fraction

from distill.tasks.numerals import EXPONENT, LAKHS, TooLongError, exact, plain, split_exponent
from distill.text.codes import base_code

# Where 1.000 is one, to three places; elsewhere it may also be a thousand. (CLDR: decimal point,
# comma between groups.)
POINT_LANGUAGES = frozenset(
    {
        "am",
        "bn",
        "en",
        "gu",
        "ha",
        "he",
        "hi",
        "ig",
        "ja",
        "kn",
        "ko",
        "ml",
        "mr",
        "my",
        "ne",
        "pa",
        "si",
        "so",
        "sw",
        "ta",
        "te",
        "th",
        "ur",
        "yo",
        "zh",
        "zu",
    }
)
_SPACES = " '’\u00a0\u2009\u202f"
_BODY = rf"\d[\d.,{_SPACES}]*(?<![.,{_SPACES}])"
# words beside a number: any after a space; glued to it only those that are no product of variables
_UNIT = (
    r"(?:\s+(?!(?:pi|sqrt|log|ln|sin|cos|tan)\b)(?:[^\W\d_]{2,}|[mglsh]\b)"
    r"|(?:cm|mm|km|kg|mg|ml)\b|[^\W\d_a-zA-Z])"
    r"[^\d=+*/^\\(){}<>|]*(?:\^\{?[23]\}?)?"
)
_NUMBER = re.compile(
    rf"(?:[^\W\d_]{{2,}}\.?\s*)?(?P<sign>[-−+]?)\s*(?P<body>{_BODY})(?P<exponent>{EXPONENT})?"
    rf"(?P<myriad>[百千万萬亿億]?)(?:/=|/-)?(?:{_UNIT})?"
)
_RATIO = re.compile(r"(?P<sign>[-−+]?)\s*(?P<above>\d+)\s*/\s*(?P<below>\d+)")


def readings(text: str, language: str | None = None) -> frozenset[Fraction]:
    """Return every value that a text may have; none where it is not one number.

    A currency sign, a unit and a full stop are no part of it (₹250, KSh 250, 25 m², 42元). In a
    language with a decimal comma, and where the language is unknown, 1.000 may be one or a
    thousand; 0,75 is three quarters everywhere.
    """
    try:
        return _readings(_bare(text), language)
    except TooLongError:
        return frozenset()


def _readings(bare: str, language: str | None) -> frozenset[Fraction]:
    ratio = _RATIO.fullmatch(bare)
    below = exact(ratio["below"]) if ratio else 0
    if ratio and below:
        return frozenset({_sign(ratio["sign"]) * exact(ratio["above"]) / below})
    number = _NUMBER.fullmatch(bare)
    if number:
        factor = _factor(number)
        return frozenset(factor * value for value in _values(number["body"], language))
    value = chinese_number(bare)
    return frozenset() if value is None else frozenset({value})


def _bare(text: str) -> str:
    """Return the text with plain digits and without currency signs and a full stop."""
    characters = (c for c in plain(text) if unicodedata.category(c) != "Sc")
    return "".join(characters).strip().rstrip(".。।").strip()


def _factor(number: re.Match[str]) -> Fraction:
    """Return what a number's digits are multiplied by: sign, power of ten, 万."""
    _, power = split_exponent(number["exponent"] or "")
    myriad = _HAN[number["myriad"]] if number["myriad"] else 1
    return power * _sign(number["sign"]) * myriad


def _sign(text: str) -> int:
    return -1 if text in ("-", "−") and text else 1


def _values(body: str, language: str | None) -> set[Fraction]:
    """Return what digits with separators between may mean."""
    for space in _SPACES:
        if space in body:
            joined = _without_spaces(body, space)
            if joined is None:
                return set()
            body = joined
    point, comma = _decimal(body, ",", "."), _decimal(body, ".", ",")
    if point is not None and base_code(language or "") in POINT_LANGUAGES:
        return {point}
    return {value for value in (point, comma) if value is not None}


def _without_spaces(body: str, space: str) -> str | None:
    """Return the number without `space` between its groups of three; None if they are not such."""
    integer, mark, decimals = re.fullmatch(r"([^.,]*)([.,]?)(.*)", body).groups()  # type: ignore[union-attr] - matches all
    if not re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(space)}\d{{3}})+", integer):
        return None
    return integer.replace(space, "") + mark + decimals


def _decimal(body: str, group: str, mark: str) -> Fraction | None:
    """Return the value if `group` stands between groups of digits and `mark` before decimals."""
    integer, _, decimals = body.partition(mark)
    is_grouped = re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(group)}\d{{3}})+", integer)
    is_in_lakhs = group == "," and LAKHS.fullmatch(integer)
    if is_grouped or is_in_lakhs:
        integer = integer.replace(group, "")
    if not integer.isdecimal():
        return None
    if mark in body and not decimals.isdecimal():
        return None
    return exact(f"{integer}.{decimals or 0}")


_HAN = {
    c: int(unicodedata.numeric(c))
    for c in "零〇一二三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟萬億"
} | {"两": 2, "兩": 2}
_HAN_DIGITS = "".join(_HAN)
_LONGEST_CHINESE = 4000  # characters
_CHINESE = re.compile(rf"(负|負)?([{_HAN_DIGITS}]+)(?:(分之|点|點)([{_HAN_DIGITS}]+))?([^\W\d_]*)")


def chinese_number(text: str) -> Fraction | None:
    """Return the value of 四十二, 三万五千, 二〇二四, 负三, 三点一四, 二分之一.

    A unit may follow (四十二元). None where it is no such number.
    """
    match = _CHINESE.fullmatch(text)
    if match is None or len(text) > _LONGEST_CHINESE:
        return None
    negative, first, link, second, _ = match.groups()
    value: Fraction | None = Fraction(_integer(first))
    if link == "分之":
        value = _integer(second) / value if value else None
    elif link:
        value = _with_decimals(value, second)
    return -value if negative and value is not None else value


def _with_decimals(value: Fraction, numeral: str) -> Fraction | None:
    digits = [_HAN[character] for character in numeral]
    if max(digits) > 9:
        return None
    return value + exact("0." + "".join(map(str, digits)))


def _integer(numeral: str) -> int:
    digits = [_HAN[character] for character in numeral]
    if len(digits) > 1 and max(digits) < 10:  # digit by digit, as in years
        return int("".join(map(str, digits)))
    total = section = digit = 0
    for value in digits:
        if value < 10:
            digit = value
        elif value < 10_000:
            section += (digit or 1) * value  # 十二 is twelve
            digit = 0
        elif 0 < total < value:  # 三万亿: all before is multiplied
            total = (total + section + digit) * value
            section = digit = 0
        else:
            total += (section + digit) * value
            section = digit = 0
    return total + section + digit
