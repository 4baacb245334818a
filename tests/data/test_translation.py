"""Translation pairs: how one is asked for, and which answer is one."""

import pytest

from distill.data.translation import chrf, request, wrong_translation
from distill.errors import DataError


def test_a_translation_in_other_words_passes_and_another_sentence_does_not():
    reference = "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa."
    assert chrf(reference, reference) == 1 and chrf("", reference) == 0
    assert (
        wrong_translation("Watu wote huzaliwa huru na wana hadhi na haki sawa.", reference) is None
    )
    assert "chrF" in (
        wrong_translation("Jaribio hilo lilionyesha kwamba DNA ndiyo nyenzo ya nasaba.", reference)
        or ""
    )
    assert (
        wrong_translation(
            "人人生来自由，尊严和权利一律平等。", "人人生而自由，在尊严和权利上一律平等。"
        )
        is None
    )
    assert wrong_translation(
        "今天的天气很好，我们去市场买菜。", "人人生而自由，在尊严和权利上一律平等。"
    )


def test_a_translation_is_asked_for_by_the_languages_name():
    assert request("pt-BR") == "Translate into Portuguese. Give the translation only."
    with pytest.raises(DataError, match="'nan': we know no English name"):
        request("nan")
