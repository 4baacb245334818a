"""Copies of evaluation items are found in every script; problems from the same template are not."""

import pytest
from run_helpers import SHARED_DATA

from distill.filters.contamination import EvalIndex
from distill.text.text import Text

MGSM = SHARED_DATA / "mgsm"
ITEMS = {
    "en": "Amina sells mangoes at the market in Kisumu. She brings 48 mangoes in the morning, sells 29 of them before noon "
    "and gives 6 to her sister. How many mangoes does she take home in the evening?",
    "sw": "Amina anauza maembe katika soko la Kisumu. Analeta maembe 48 asubuhi, anauza 29 kabla ya saa sita na anampa "
    "dada yake 6. Je, anarudi nyumbani na maembe mangapi jioni?",
    "zh": "阿米娜在基苏木的市场上卖芒果。她早上带来48个芒果，中午之前卖掉29个，又送给妹妹6个。她晚上带多少个芒果回家？",
    "th": "อามีนาขายมะม่วงที่ตลาดในเมืองคิซูมู เธอนำมะม่วงมา 48 ผลในตอนเช้า ขายไป 29 ผลก่อนเที่ยง และให้น้องสาว 6 ผล "
    "ตอนเย็นเธอนำมะม่วงกลับบ้านกี่ผล",
    "hi": "अमीना किसुमु के बाज़ार में आम बेचती है। वह सुबह 48 आम लाती है, दोपहर से पहले 29 बेचती है और अपनी बहन को 6 देती है। "
    "शाम को वह कितने आम घर ले जाती है?",
    "am": "አሚና በኪሱሙ ገበያ ማንጎ ትሸጣለች። ጠዋት 48 ማንጎ ታመጣለች፣ ከሰዓት በፊት 29 ትሸጣለች እና ለእህቷ 6 ትሰጣለች። ማታ ስንት ማንጎ ወደ ቤት ትወስዳለች?",
}
OTHER = {"48": "75", "29": "31", "6": "8"}


def hit(index: EvalIndex, text: str) -> str | None:
    return index.hit(Text(text))


def with_other_numbers(text: str) -> str:
    for old, new in OTHER.items():
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def index() -> EvalIndex:
    return EvalIndex(ITEMS.values())


@pytest.mark.parametrize("code", ITEMS)
def test_a_verbatim_copy_is_found_alone_and_inside_a_longer_text(index, code):
    number = list(ITEMS).index(code)
    assert hit(index, ITEMS[code]) == f"100 % of the 8-grams of eval item {number}"
    assert hit(index, f"Question 1: {ITEMS[code]} Let us think. 12 + 30 = 42.") is not None


@pytest.mark.parametrize("code", ITEMS)
def test_the_same_frame_with_other_numbers_is_no_copy(index, code):
    assert hit(index, with_other_numbers(ITEMS[code])) is None
    assert hit(index, ITEMS[code].replace("29", "30")) is None, "one number of three"


@pytest.mark.parametrize("code", ITEMS)
def test_other_white_space_punctuation_case_and_digits_hide_nothing(index, code):
    full_width = ITEMS[code].translate({ord(str(d)): chr(0xFF10 + d) for d in range(10)})
    thai = ITEMS[code].translate({ord(str(d)): chr(0x0E50 + d) for d in range(10)})
    loose = ITEMS[code].replace("。", " 。\n").replace(". ", " !\n\n").replace(",", " ;").upper()
    for disguised in (full_width, thai, loose):
        assert hit(index, disguised) is not None


@pytest.mark.parametrize("code", ITEMS)
def test_half_of_an_item_is_a_copy_and_a_little_of_it_is_not(index, code):
    text = ITEMS[code]
    assert hit(index, text[: int(0.7 * len(text))]) is not None
    assert hit(index, text[: int(0.2 * len(text))]) is None


def test_a_long_run_of_a_long_item_is_a_copy():
    item = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(200))
    parts = item.split()
    assert (
        hit(EvalIndex([item]), "something before " + " ".join(parts[50:63]) + " and after it")
        == "13 units in a row of eval item 0"
    )
    assert (
        hit(EvalIndex([item]), "something before " + " ".join(parts[50:62]) + " and after it")
        is None
    )


def test_a_frame_that_many_items_share_is_no_copy_but_each_item_is():
    frame = "You are a careful teacher of arithmetic for children in primary school, so explain every step. What does {} mean?"
    items = [
        frame.format(word)
        for word in ("addition", "division", "a fraction", "a remainder", "multiplication")
    ]
    index = EvalIndex(items)
    assert hit(index, frame.format("a square root")) is None
    assert all(hit(index, item) is not None for item in items)


def test_one_changed_number_of_twelve_does_not_hide_a_copy():
    rivers = [
        "Tana",
        "Athi",
        "Mara",
        "Nzoia",
        "Yala",
        "Sondu",
        "Ewaso",
        "Turkwel",
        "Kerio",
        "Galana",
        "Voi",
        "Umba",
    ]
    sentences = [
        f"In the year {1900 + 7 * i} the {river} river rose above the old stone bridge near the town of Upper {river}."
        for i, river in enumerate(rivers)
    ]
    item = " ".join(sentences)
    assert hit(EvalIndex([item]), item.replace("1907", "1908")) is not None


def test_a_short_item_must_be_the_whole_text():
    index = EvalIndex(["What is 7 x 8?", "法国的首都？"])
    assert hit(index, "what is 7 X 8") == "equals eval item 0"
    assert hit(index, "法国的首都") == "equals eval item 1"
    assert hit(index, "What is 7 x 9?") is None
    assert hit(index, "Tell me, what is 7 x 8?") is None


def test_empty_texts_and_equal_items():
    index = EvalIndex(["", "...", ITEMS["en"], ITEMS["en"].upper()])
    assert len(index) == 1
    assert hit(index, "") is None and hit(index, "?!") is None
    assert hit(index, ITEMS["en"]) == "100 % of the 8-grams of eval item 2"


@pytest.mark.skipif(
    not MGSM.is_dir(), reason="MGSM is not beside the checkout (../shared/data/mgsm)"
)
@pytest.mark.parametrize("code", ["en", "sw", "zh", "bn", "th"])
def test_on_real_problems_every_copy_and_no_other_problem_is_found(code):
    lines = (MGSM / f"mgsm_{code}.tsv").read_text(encoding="utf-8").splitlines()
    problems = [line.split("\t")[0] for line in lines[:120]]
    index = EvalIndex(problems[::2])
    assert all(hit(index, problem) is not None for problem in problems[::2])
    assert not [problem for problem in problems[1::2] if hit(index, problem)]
