"""What looks like personal data is found, in the formats of many countries, and hardly anything else."""

import json
import random
from itertools import pairwise

import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from run_helpers import QUICKSTART
from stdnum import iban, luhn

from distill.privacy.countries import COUNTRIES, countries_of
from distill.privacy.personal_data import ID_NUMBERS, find
from distill.text.codes import base_code

EVERYWHERE = tuple(sorted({country for codes in COUNTRIES.values() for country in codes}))
# numbers that keep the rules, most from python-stdnum's own documentation
IDS = {
    "BG": "752316 926 3",
    "BR": "390.533.447-05",
    "CA": "123-456-782",
    "CN": "11010519491231002X",
    "CZ": "710319/2745",
    "DE": "36 574 261 809",
    "ES": "54362315K",
    "FI": "131052-308T",
    "FR": "2 95 10 99 126 111 93",
    "GB": "943 476 5870",
    "ID": "3171011708450001",
    "IN": "2341 2341 2346",
    "IT": "RCCMNL83S18D969H",
    "KR": "971013-9019902",
    "MX": "BOXW310820HNERXN09",
    "MY": "770305-02-1234",
    "PK": "42201-0397640-8",
    "PL": "44051401359",
    "RO": "1630615123457",
    "SE": "811228-9874",
    "TH": "1-2345-45678-78-1",
    "TR": "17291716060",
    "US": "536-90-4399",
    "ZA": "7503305044089",
}


def found_in(text, countries=EVERYWHERE):
    return [(f.kind, text[f.start : f.end]) for f in find(text, countries)]


@pytest.mark.parametrize("country", EVERYWHERE)
def test_a_countrys_telephone_numbers_are_found_however_they_are_written(country):
    formats = (
        PhoneNumberFormat.E164,
        PhoneNumberFormat.INTERNATIONAL,
        PhoneNumberFormat.NATIONAL,
    )
    for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
        example = phonenumbers.example_number_for_type(country, kind)
        if example is None:
            continue
        for form in formats:
            number = phonenumbers.format_number(example, form)
            text = f"Call me, {number}, after six."
            assert any(number in string for _, string in found_in(text, (country,))), number


@pytest.mark.parametrize(("country", "number"), IDS.items())
def test_identity_numbers_are_found_by_their_check_digits(country, number):
    assert ("id", number) in found_in(f"My number is {number}.", (country,)) or any(
        number in string for _, string in found_in(f"My number is {number}.", (country,))
    )


def test_every_module_of_identity_numbers_is_there():
    assert find("ABCDE1234F 123", tuple(ID_NUMBERS)) is not None


def test_addresses_cards_and_accounts_are_found():
    text = (
        "Mail ann.o'neill+x@example.co.ke, pay 4111 1111 1111 1111 or GB82 WEST 1234 5698 7654 32!"
    )
    assert found_in(text) == [
        ("email", "ann.o'neill+x@example.co.ke"),
        ("card", "4111 1111 1111 1111"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
    ]


def test_digits_of_every_script_are_read():
    assert found_in("मेरा नंबर ९८७६५ ४३२१० है", ("IN",)) == [("phone", "९८७६५ ४३२१०")]
    assert found_in("رقمي ٠١٠ ٠١٢٣ ٤٥٦٧", ("EG",)) == [("phone", "٠١٠ ٠١٢٣ ٤٥٦٧")]


def test_a_number_with_one_digit_wrong_is_none():
    assert found_in("card 4111 1111 1111 1112", ()) == []
    assert found_in("GB83 WEST 1234 5698 7654 32", ()) == []


@pytest.mark.parametrize(
    "text",
    [
        "In 1994 there were 5,800,000,000 people; 3.14159265358979 is pi.",
        "12 + 345678 = 345690, and 2 ** 20 = 1048576",
        "on 2026-11-28 at 10:15, version 10.2.3",
        "ISBN in the year 1999-2005; pages 1034-1050",
    ],
)
def test_ordinary_numbers_are_left_alone(text):
    assert found_in(text, countries_of(["en", "sw"])) == []


def test_the_quickstarts_problems_hold_nothing_personal():
    rows = (QUICKSTART.parent / "quickstart/prompts.jsonl").read_text().splitlines()
    texts = [json.loads(row)["prompt"] for row in rows[:1000]]
    assert [found for text in texts for found in found_in(text, countries_of(["en", "zh"]))] == []


def test_nothing_overlaps_and_the_longest_reading_counts():
    draw = random.Random(3)
    for _ in range(300):
        pieces = [
            draw.choice(
                ["+254 722 123456", "a@b.co", "0722 123456", "4111111111111111", " ", "x", "7"]
            )
        ]
        pieces += draw.choices([" ", ", ", "a@b.co", "+254722123456", "12", "-"], k=8)
        findings = find("".join(pieces), ("KE",))
        assert all(a.end <= b.start for a, b in pairwise(findings))


def test_the_table_of_countries_is_by_the_codes_that_are_kept():
    assert all(base_code(code) == code for code in COUNTRIES)
    assert countries_of(["swh_Latn", "sw", "xx"]) == countries_of(["sw"])
    known = phonenumbers.SUPPORTED_REGIONS
    assert set(EVERYWHERE) <= known and set(ID_NUMBERS) <= known


def test_the_libraries_agree_on_the_examples():
    assert luhn.is_valid("4111111111111111") and iban.is_valid("GB82WEST12345698765432")
