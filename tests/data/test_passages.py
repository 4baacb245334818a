"""Texts are cut into passages where sentences end, and nothing of them is lost but short ends."""

import random
import textwrap
import unicodedata

import pytest

from distill.data.passages import LONGEST, SHORTEST, opening_and_rest, passages_of, unwrapped

SENTENCES = {
    "sw": "Bei ya mahindi imepanda tena mwezi huu. Wakulima wanasema mvua ilichelewa!",
    "zh": "今年的雨水来得很晚。农民们说玉米的价格又上涨了！",
    "th": "ราคาข้าวโพดสูงขึ้นอีกครั้งในเดือนนี้เพราะฝนมาช้ากว่าปกติ",
    "hi": "इस महीने मक्के का दाम फिर बढ़ गया। किसान कहते हैं कि बारिश देर से आई।",
    "ur": "اس مہینے مکئی کی قیمت پھر بڑھ گئی۔ کسان کہتے ہیں بارش دیر سے ہوئی۔",
    "am": "በዚህ ወር የበቆሎ ዋጋ እንደገና ጨመረ። ገበሬዎች ዝናቡ ዘግይቷል ይላሉ።",
}


def squeezed(text):
    return "".join(text.split())


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("length", [100, 333, 700])
def test_passages_are_the_text_in_order_and_of_about_that_length(language, length):
    draw = random.Random(length)
    between = ["\n", "\n\n", " "] if " " in SENTENCES[language] else ["", "\n"]
    text = "".join(SENTENCES[language] + draw.choice(between) for _ in range(120)).strip()
    passages = list(passages_of(text, length))
    assert len(passages) > 2
    joined = squeezed("".join(passages))
    assert squeezed(text).startswith(joined)
    assert len(squeezed(text)) - len(joined) < SHORTEST * length
    assert all(length / 2 - 2 <= len(p) <= LONGEST * length for p in passages[:-1])
    for passage in passages:
        opening, rest = opening_and_rest(passage)
        assert squeezed(opening + rest) == squeezed(passage) and opening and rest
        assert len(opening) <= 0.35 * len(passage) + 20
        assert not unicodedata.category(rest[0]).startswith("M"), "a character keeps its marks"
        assert not unicodedata.category(passage[0]).startswith("M")


def test_a_passage_ends_with_a_sentence_where_one_ends_in_time():
    text = "One two three four. " * 40
    assert all(passage.endswith("four.") for passage in passages_of(text, 100))
    first = next(passages_of("Pi is 3.14159 or so, " * 20, 100))
    assert first.endswith(("so,", "or", "is", "Pi", "3.14159")), "no sentence ends within a number"


def test_a_short_text_is_no_passage_and_one_without_spaces_is_cut_all_the_same():
    assert list(passages_of("Too short.", 100)) == []
    assert [len(passage) for passage in passages_of("x" * 400, 100)] == [100, 100, 100, 100]


def test_a_long_text_takes_time_in_proportion():
    """A book in one row: some ten thousand passages, each found from where the last one ended."""
    text = SENTENCES["sw"] * 50_000
    assert sum(1 for _ in passages_of(text, 700)) > 4000


def test_lines_that_were_broken_for_their_length_are_joined_and_paragraphs_stay():
    wrapped = textwrap.wrap(f"{SENTENCES['sw']} Walimu walikuwa kwenye mkutano.", 60)
    text = unwrapped(["Habari", *wrapped, "", *wrapped])
    paragraph = " ".join(wrapped)
    assert text == f"Habari\n{paragraph}\n\n{paragraph}"
    dense = SENTENCES["zh"] * 3
    assert unwrapped([dense[:45], dense[45:]]) == dense, "no spaces are written there"
    verse = ["Polepole ndio mwendo", "haba na haba hujaza kibaba"]
    assert unwrapped(verse) == "\n".join(verse)
    ended = ["A line that is long and ends with a sentence of its own.", "Another one."]
    assert unwrapped(ended) == "\n".join(ended)


def test_a_space_stands_where_the_script_writes_one():
    korean = "올해는 비가 늦게 내려서 옥수수 값이 다시 올랐다고 농부들이 시장에서 말했습니다 그리고"
    assert unwrapped([korean, "내일은"]) == f"{korean} 내일은"
    thai = SENTENCES["th"]
    assert unwrapped([thai, thai]) == thai * 2


def test_a_long_wrapped_file_without_empty_lines_takes_time_in_proportion():
    """Each line is looked at with the one before it, not with all that it was joined to."""
    line = "a line of a book that was broken where it was long enough"
    assert len(unwrapped([line] * 200_000)) == 200_000 * (len(line) + 1) - 1


def test_passages_of_a_wrapped_file_end_where_sentences_do():
    lines = textwrap.wrap(" ".join([SENTENCES["sw"]] * 60), 78)
    passages = list(passages_of(unwrapped(lines), 300))
    assert len(passages) > 10 and all(passage[-1] in ".!" for passage in passages)
