"""Any task whose answer ends in a number: right if the last number of the answer equals the reference."""

import re
import unicodedata
from fractions import Fraction
from typing import Any

VERSION = 1

# digits with `,` `.` `'` or a thin space between groups; a sign only where no digit or letter stands before it
NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,.'\u00a0\u202f]*|\d[\d,.'\u00a0\u202f]*")


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Whether the last number in `answer_text` equals `row["reference"]`; False where there is none."""
    found = numbers(answer_text)
    wanted = numbers(str(row["reference"]))
    return bool(found and wanted) and found[-1] == wanted[-1]


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order: local digits (४२, ٤٢, ４２), thousands separators and decimals understood."""
    # NFKC would turn the thin spaces that group digits into plain ones
    plain = "".join(c if c in "\u00a0\u202f" else _digit(unicodedata.normalize("NFKC", c)) for c in text)
    found = [_value(match.group()) for match in NUMBER.finditer(plain)]
    return [value for value in found if value is not None]


def _digit(character: str) -> str:
    value = unicodedata.digit(character, None) if len(character) == 1 else None
    return character if value is None else str(value)


def _value(text: str) -> Fraction | None:
    """1,000 and 1.000 and 1 000 are a thousand, 1.5 and 0,75 are not: a separator groups if three digits follow each."""
    sign = -1 if text[0] in "-−" else 1
    body = text.lstrip("-−").rstrip(".,'\u00a0\u202f")
    for separator in (",", ".", "'", "\u00a0", "\u202f"):
        whole, point, decimals = body, "", ""
        other = "." if separator == "," else ","
        if other in body:
            whole, point, decimals = body.partition(other)
        if re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(separator)}\d{{3}})+", whole) and (not point or decimals.isdigit()):
            return sign * Fraction(whole.replace(separator, "") + ("." + decimals if point else ""))
    decimal = body.replace(",", ".")
    return sign * Fraction(decimal) if re.fullmatch(r"\d+(?:\.\d+)?", decimal) else None
