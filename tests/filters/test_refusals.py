"""Refusals in every language that has phrases, and the file that these are in."""

import re

import pytest
import yaml

from distill.errors import DataError
from distill.filters import refusals
from distill.filters.refusals import read_phrases
from distill.text.scripts import LANGUAGES
from distill.text.text import Text

PHRASES = read_phrases(refusals.FILE)


def refusal(text: str, language: str) -> str | None:
    return refusals.refusal(Text(text), language)


REFUSALS = {
    "en": "I’m sorry, but I can’t assist with that request.",
    "zh": "抱歉，我无法回答这个问题。",
    "fr": "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "sw": "Samahani, siwezi kukusaidia na ombi hilo.",
    "id": "Maaf, saya tidak bisa membantu permintaan tersebut.",
    "hi": "क्षमा करें, मैं इस अनुरोध में आपकी सहायता नहीं कर सकता।",
    "es": "Lo siento, pero no puedo ayudarte con eso.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "ar": "عذراً، لا يمكنني مساعدتك في هذا الطلب.",
    "de": "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
    "vi": "Xin lỗi, tôi không thể giúp bạn với yêu cầu này.",
    "bn": "দুঃখিত, আমি এই অনুরোধে সাহায্য করতে পারব না।",
    "th": "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
    "ta": "மன்னிக்கவும், என்னால் இந்தக் கோரிக்கைக்கு உதவ முடியாது.",
    "am": "ይቅርታ፣ በዚህ ጥያቄ ልረዳዎት አልችልም።",
    "ha": "Yi haƙuri, ba zan iya taimaka maka da wannan ba.",
    "yo": "Ẹ má bínú, mi ò lè ràn yín lọ́wọ́ pẹ̀lú ìbéèrè yìí.",
    "ru": "Извините, я не могу помочь с этим запросом.",
    "ja": "申し訳ありませんが、そのご質問にはお答えできません。",
    "ko": "죄송합니다. 그 요청은 도와드릴 수 없습니다.",
}


@pytest.mark.parametrize("language", REFUSALS)
def test_a_refusal_is_found_in_its_language(language):
    assert language in PHRASES
    assert (refusal(REFUSALS[language], language) or "").startswith("opens with")


def test_refusals_in_english_and_chinese_are_found_in_answers_in_any_language():
    assert refusal(REFUSALS["en"], "wo") and refusal(REFUSALS["zh"], "sw")
    assert refusal("As an AI language model, I cannot have opinions.", "sw")
    assert refusal("**I cannot provide** instructions for that.", "en")
    assert "wo" not in PHRASES


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("No, 7 is not an even number.", "en"),
        ("I'm sorry to hear that your goat is ill. Give it clean water.", "en"),
        ("I can't believe how fast it grew, wrote the farmer.", "en"),
        (
            "Unfortunately, when you copy a film its borders will most likely be cut and it won't look right.",
            "en",
        ),
        (
            "To stop the process, you cannot use this command; use kill instead. Sorry for the confusion.",
            "en",
        ),
        ("Samahani ni neno la kuomba radhi kwa Kiswahili.", "sw"),
        ("不能被 2 整除的数叫做奇数。", "zh"),
        ("Malheureusement, la récolte ne sera pas bonne cette année.", "fr"),
        ("Maaf adalah kata yang dipakai untuk meminta ampun.", "id"),
    ],
)
def test_answers_that_only_look_like_refusals_pass(text, language):
    assert refusal(text, language) is None


@pytest.mark.parametrize("language", PHRASES)
def test_every_language_has_three_lists_of_regular_expressions(language):
    assert language in LANGUAGES
    parts = PHRASES[language].model_dump()
    assert list(parts) == ["apology", "inability", "outright"]
    for phrases in parts.values():
        assert phrases and all(re.compile(phrase) for phrase in phrases)
    assert PHRASES[language].pattern()


def test_a_phrase_that_is_added_is_found(tmp_path):
    table = {"eo": {"apology": ["pardonu"], "inability": ["ne povas"], "outright": ["mi rifuzas"]}}
    path = tmp_path / "refusals.yaml"
    path.write_text(yaml.safe_dump(table))
    pattern = read_phrases(path)["eo"].pattern()
    assert pattern.match("pardonu, sed mi ne povas fari tion") and pattern.match("mi rifuzas")
    assert not pattern.match("pardonu estas vorto") and not pattern.match("mi ne povas")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eo: {apology: [a], inability: [b]}", r"eo.outright: Field required"),
        ("eo: {apology: [a], inability: ['b('], outright: [c]}", r"eo.inability.0: .*'b\(' is no"),
        ("eo: {apology: [], inability: [b], outright: [c]}", r"eo.apology: List should have at"),
        ("eo: {apology: [a], inability: [b], outright: [c], more: [d]}", r"eo.more: Extra inputs"),
        ("false: {apology: [a], inability: [b], outright: [c]}", r".*False is no language code"),
        ("eo: [", "not YAML"),
        ("eo: {apology: [a], apology: [b]}", r"not YAML \(key 'apology' is given twice"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, words):
    path = tmp_path / "refusals.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"refusals\.yaml: " + words):
        read_phrases(path)
