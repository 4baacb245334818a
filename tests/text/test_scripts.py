"""Letters of each script, and the scripts of each language."""

import pytest

from distill.errors import RecipeError
from distill.text.scripts import letters_by_script, scripts_of, weighed


def test_only_letters_and_vowel_signs_are_counted():
    assert letters_by_script("Jibu: 12 + 3 = 15!") == {"Latin": 4}
    assert letters_by_script("ab中文") == {"Latin": 2, "Han": 2}
    assert letters_by_script("नमस्ते") == {"Devanagari": 6}
    assert letters_by_script("12 👍") == {}


def test_letters_of_plain_ascii_are_counted_as_among_others():
    for points in ([65], [97, 122], range(0x80), range(0x30, 0x3A), [64, 91, 96, 123]):
        text = "".join(map(chr, points))
        beside_another = letters_by_script(text + "中")
        assert letters_by_script(text) | {"Han": 1} == beside_another


def test_a_letter_of_a_dense_script_weighs_three():
    assert weighed({"Latin": 2, "Han": 2}) == {"Latin": 2, "Han": 6}


def test_codes_with_regions_and_scripts():
    assert scripts_of("pt-BR") == ("Latin",)
    assert scripts_of("zh-Hant-TW") == scripts_of("zh")
    assert scripts_of("sr-Cyrl") == ("Cyrillic",) and scripts_of("xx-Latn") == ("Latin",)
    with pytest.raises(RecipeError, match="'xx'"):
        scripts_of("xx")
