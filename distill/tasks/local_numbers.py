"""Numbers as people write them: local digits, separators by language, currency and units, Chinese numerals."""

import re
import unicodedata
from fractions import Fraction

from distill.tasks.final_number import LAKHS, plain

# Where 1.000 is one, to three places; elsewhere it may also be a thousand. (CLDR: decimal point, comma between groups.)
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
    r"(?:\s+(?!(?:pi|sqrt|log|ln|sin|cos|tan)\b)(?:[^\W\d_]{2,}|[mglsh]\b)|(?:cm|mm|km|kg|mg|ml)\b|[^\W\d_a-zA-Z])"
    r"[^\d=+*/^\\(){}<>|]*(?:\^\{?[23]\}?)?"
)
_NUMBER = re.compile(
    rf"(?:[^\W\d_]{{2,}}\.?\s*)?(?P<sign>[-−+]?)\s*(?P<body>{_BODY})(?P<myriad>[百千万萬亿億]?)(?:/=|/-)?(?:{_UNIT})?"
)
_RATIO = re.compile(r"(?P<sign>[-−+]?)\s*(?P<above>\d+)\s*/\s*(?P<below>\d+)")


def readings(text: str, language: str | None = None) -> frozenset[Fraction]:
    """Every value that a text may have; empty where it is not one number.

    A currency sign, a unit and a full stop are no part of it (₹250, KSh 250, 25 m², 42元). In a language with a decimal
    comma, and where the language is unknown, 1.000 may be one or a thousand; 0,75 is three quarters everywhere.
    """
    bare = (
        "".join(c for c in plain(text) if unicodedata.category(c) != "Sc")
        .strip()
        .rstrip(".。।")
        .strip()
    )
    if (ratio := _RATIO.fullmatch(bare)) and int(ratio["below"]):
        return frozenset(
            {_sign(ratio["sign"]) * Fraction(int(ratio["above"]), int(ratio["below"]))}
        )
    if found := _NUMBER.fullmatch(bare):
        factor = _sign(found["sign"]) * (_HAN[found["myriad"]] if found["myriad"] else 1)
        return frozenset(factor * value for value in _values(found["body"], language))
    value = chinese_number(bare)
    return frozenset() if value is None else frozenset({value})


def _sign(text: str) -> int:
    return -1 if text in ("-", "−") and text else 1


def _values(body: str, language: str | None) -> set[Fraction]:
    """What digits with separators between may mean."""
    for space in _SPACES:
        if space in body:
            whole, mark, decimals = re.fullmatch(r"([^.,]*)([.,]?)(.*)", body).groups()  # type: ignore[union-attr] - matches all
            if not re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(space)}\d{{3}})+", whole):
                return set()
            body = whole.replace(space, "") + mark + decimals
    point, comma = _decimal(body, ",", "."), _decimal(body, ".", ",")
    if point is not None and (language or "").partition("-")[0] in POINT_LANGUAGES:
        return {point}
    return {value for value in (point, comma) if value is not None}


def _decimal(body: str, group: str, mark: str) -> Fraction | None:
    whole, _, decimals = body.partition(mark)
    grouped = re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(group)}\d{{3}})+", whole)
    if grouped or (group == "," and LAKHS.fullmatch(whole)):
        whole = whole.replace(group, "")
    if not whole.isdecimal() or (mark in body and not decimals.isdecimal()):
        return None
    return Fraction(f"{whole}.{decimals or 0}")


_HAN = {
    c: int(unicodedata.numeric(c))
    for c in "零〇一二三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟萬億"
} | {"两": 2, "兩": 2}
_HAN_DIGITS = "".join(_HAN)
_CHINESE = re.compile(rf"(负|負)?([{_HAN_DIGITS}]+)(?:(分之|点|點)([{_HAN_DIGITS}]+))?([^\W\d_]*)")


def chinese_number(text: str) -> Fraction | None:
    """四十二, 三万五千, 二〇二四, 负三, 三点一四, 二分之一; a unit may follow (四十二元). None where it is no such number."""
    found = _CHINESE.fullmatch(text)
    if found is None:
        return None
    negative, first, link, second, _ = found.groups()
    value = Fraction(_whole(first))
    if link == "分之":
        if not value:
            return None
        value = _whole(second) / value
    elif link:
        if any(_HAN[c] > 9 for c in second):
            return None
        value += Fraction("0." + "".join(str(_HAN[c]) for c in second))
    return -value if negative else value


def _whole(numeral: str) -> int:
    if len(numeral) > 1 and all(_HAN[c] < 10 for c in numeral):  # digit by digit, as in years
        return int("".join(str(_HAN[c]) for c in numeral))
    total = section = digit = 0
    for c in numeral:
        value = _HAN[c]
        if value < 10:
            digit = value
        elif value < 10_000:
            section, digit = section + (digit or 1) * value, 0  # 十二 is twelve
        elif 0 < total < value:  # 三万亿: all before is multiplied
            total, section, digit = (total + section + digit) * value, 0, 0
        else:
            total, section, digit = total + (section + digit) * value, 0, 0
    return total + section + digit
