"""Find what looks like personal data in a text: addresses, telephone, card, bank and id numbers.

By patterns and check digits, so it is found in any language, and so is now and then a number that is
none; a name, or an address in the street, is not found. The rules of countries are those of
phonenumbers (Google's libphonenumber) and python-stdnum.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

Kind = Literal["email", "card", "iban", "phone", "id"]

EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
# groups of digits with what people write between them, and what stands before a whole number
PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?\(?\d(?:[ \u00a0().\-\u2011\u2013/]{0,3}\d){6,14}(?!\w)")
# what is written like a telephone number, and is none: a day, or a range of years or pages
DAY_OR_RANGE = re.compile(
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}|[12]\d{3}[-\u2013][12]\d{3}"
)
# one word of letters and digits with what numbers are divided by; or groups of digits
ID_WORD = re.compile(r"(?<!\w)[A-Z0-9](?:[./-]?[A-Z0-9]){6,24}(?!\w)", re.IGNORECASE)
ID_GROUPS = re.compile(r"(?<![\w.])\d+(?:[ ]\d+){1,7}(?![\w])")
DIGITS_OF_A_PHONE, DIGITS_OF_AN_ID = 7, 5
DIGITS_OF_A_BARE_PHONE = 9  # without a prefix, a leading 0, or anything between them
LENGTHS_OF_CARDS = range(13, 20)

# python-stdnum's modules of numbers of people, by country
ID_NUMBERS: dict[str, tuple[str, ...]] = {
    "AL": ("al.nipt",),
    "AR": ("ar.cuit",),
    "AT": ("at.vnr",),
    "BE": ("be.nn",),
    "BG": ("bg.egn",),
    "BR": ("br.cpf",),
    "CA": ("ca.sin",),
    "CH": ("ch.ssn",),
    "CL": ("cl.rut",),
    "CN": ("cn.ric",),
    "CU": ("cu.ni",),
    "CZ": ("cz.rc",),
    "DE": ("de.idnr",),
    "DK": ("dk.cpr",),
    "DO": ("do.cedula",),
    "EC": ("ec.ci",),
    "EE": ("ee.ik",),
    "ES": ("es.dni", "es.nie"),
    "FI": ("fi.hetu",),
    "FR": ("fr.nir", "fr.nif"),
    "GB": ("gb.nhs",),
    "GH": ("gh.tin",),
    "GR": ("gr.amka",),
    "GT": ("gt.nit",),
    "HR": ("hr.oib",),
    "ID": ("id.nik", "id.npwp"),
    "IE": ("ie.pps",),
    "IL": ("il.idnr",),
    "IN": ("in_.aadhaar", "in_.pan", "in_.epic"),
    "IS": ("is_.kennitala",),
    "IT": ("it.codicefiscale",),
    "JP": ("jp.in_",),
    "KE": ("ke.pin",),
    "KR": ("kr.rrn",),
    "LT": ("lt.asmens",),
    "MU": ("mu.nid",),
    "MX": ("mx.curp", "mx.rfc"),
    "MY": ("my.nric",),
    "NL": ("nl.bsn",),
    "NO": ("no.fodselsnummer",),
    "PK": ("pk.cnic",),
    "PL": ("pl.pesel",),
    "PT": ("pt.nif", "pt.cc"),
    "RO": ("ro.cnp",),
    "RU": ("ru.inn",),
    "SE": ("se.personnummer",),
    "SI": ("si.emso",),
    "SK": ("sk.rc",),
    "TH": ("th.pin",),
    "TR": ("tr.tckimlik",),
    "UA": ("ua.rntrc",),
    "US": ("us.ssn", "us.itin"),
    "ZA": ("za.idnr",),
}


@dataclass(frozen=True)
class Finding:
    """What looks like personal data: the characters from `start` to before `end` of a text."""

    kind: Kind
    start: int
    end: int


def find(text: str, countries: Sequence[str]) -> list[Finding]:
    """Return what looks like personal data, in the order of the text; nothing overlaps.

    `countries`: whose telephone and identity numbers to know without a prefix or a separator;
    written with them, those of all countries are known. Of two readings of the same characters the
    longer counts.
    """
    plain = _with_ascii_digits(text)
    found = [
        *_matches("email", EMAIL, plain, lambda _: True),
        *_matches("card", CARD, plain, _is_card),
        *_matches("iban", IBAN, plain, _is_iban),
        *_matches("phone", PHONE, plain, lambda word: _is_phone(word, countries)),
        *_matches("id", ID_WORD, plain, lambda word: _is_id(word, countries)),
        *_matches("id", ID_GROUPS, plain, lambda word: _is_id(word, countries)),
    ]
    return list(_without_overlaps(found))


def _with_ascii_digits(text: str) -> str:
    """Return the text with every script's digits as 0 to 9, character for character."""
    if text.isascii():
        return text
    return "".join(_ascii_digit(character) for character in text)


def _ascii_digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def _matches(
    kind: Kind, pattern: re.Pattern[str], text: str, is_one: Callable[[str], bool]
) -> Iterator[Finding]:
    for match in pattern.finditer(text):
        if is_one(match.group()):
            yield Finding(kind, *match.span())


def _without_overlaps(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings in order, the longest of those that share characters."""
    taken: list[Finding] = []
    for finding in sorted(found, key=lambda f: (f.start - f.end, f.start)):
        if all(finding.end <= other.start or other.end <= finding.start for other in taken):
            taken.append(finding)
    yield from sorted(taken, key=lambda f: f.start)


def _digits(word: str) -> str:
    return "".join(character for character in word if character.isdigit())


def _is_card(word: str) -> bool:
    from stdnum import luhn

    digits = _digits(word)
    is_issued = digits[0] in "23456"  # of banks, airlines and shops
    return is_issued and len(digits) in LENGTHS_OF_CARDS and luhn.is_valid(digits)


def _is_iban(word: str) -> bool:
    from stdnum import iban

    return iban.is_valid(word.replace(" ", ""))


def _is_phone(word: str, countries: Sequence[str]) -> bool:
    """Return whether it is a number that is given out, with its prefix or in one of the countries."""
    import phonenumbers

    is_bare = word.isdigit() and not word.startswith("0")
    fewest = DIGITS_OF_A_BARE_PHONE if is_bare else DIGITS_OF_A_PHONE
    if len(_digits(word)) < fewest or DAY_OR_RANGE.fullmatch(word):
        return False
    number = word.replace("00", "+", 1) if word.startswith("00") else word
    regions = [None] if number.startswith("+") else list(countries)
    for region in regions:
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return True
    return False


def _is_id(word: str, countries: Sequence[str]) -> bool:
    """Return whether it is an identity number: of one of the countries, or, with separators or
    letters in it, of any."""
    if len(_digits(word)) < DIGITS_OF_AN_ID or DAY_OR_RANGE.fullmatch(word):
        return False
    known = set(countries)
    if not word.isdigit():
        known |= ID_NUMBERS.keys()
    return any(module.is_valid(word) for module in _modules(frozenset(known)))


@cache
def _modules(countries: frozenset[str]) -> tuple[Any, ...]:
    names = [name for country in sorted(countries) for name in ID_NUMBERS.get(country, ())]
    return tuple(import_module(f"stdnum.{name}") for name in names)
