"""Script gate and language identification, on sentences written for this test and on SIB-200 where it is at hand."""

import math
from pathlib import Path

import pytest

from distill.errors import RecipeError
from distill.text import language
from distill.text.language import identify, script_share, sentences, wrong_language

SIB200 = Path(__file__).resolve().parents[3] / "shared" / "data" / "sib200"
ANSWERS = {
    "en": "She sells the remaining mangoes at the market and earns eighteen shillings every day.",
    "zh": "她每天在市场上卖掉剩下的芒果，一共赚了十八先令。",
    "sw": "Anauza maembe yaliyobaki sokoni na kupata shilingi kumi na nane kila siku.",
    "id": "Dia menjual sisa mangga di pasar dan mendapatkan delapan belas ribu rupiah setiap hari.",
    "hi": "वह बाज़ार में बचे हुए आम बेचती है और हर दिन अठारह रुपये कमाती है।",
    "bn": "সে বাজারে বাকি আম বিক্রি করে এবং প্রতিদিন আঠারো টাকা আয় করে।",
    "th": "เธอขายมะม่วงที่เหลือในตลาดและมีรายได้วันละสิบแปดบาท",
    "ta": "அவள் சந்தையில் மீதமுள்ள மாம்பழங்களை விற்று தினமும் பதினெட்டு ரூபாய் சம்பாதிக்கிறாள்.",
    "am": "የቀሩትን ማንጎዎች በገበያ ትሸጣለች እና በየቀኑ አስራ ስምንት ብር ታገኛለች።",
    "ha": "Tana sayar da sauran mangwaro a kasuwa kuma tana samun kuɗi kowace rana.",
    "yo": "Ó ń ta máńgòrò tó kù ní ọjà, ó sì ń rí owó náírà méjìdínlógún lójoojúmọ́.",
    "vi": "Cô ấy bán số xoài còn lại ở chợ và kiếm được mười tám nghìn đồng mỗi ngày.",
    "ar": "تبيع المانجو المتبقية في السوق وتكسب ثمانية عشر شلنًا كل يوم.",
    "fr": "Elle vend les mangues restantes au marché et gagne dix-huit shillings par jour.",
    "es": "Ella vende los mangos restantes en el mercado y gana dieciocho chelines cada día.",
    "pt": "Ela vende as mangas restantes no mercado e ganha dezoito xelins por dia.",
    "my": "သူမသည် ကျန်ရှိသော သရက်သီးများကို ဈေးတွင် ရောင်းချပြီး နေ့စဉ် ဝင်ငွေရသည်။",
}


@pytest.mark.parametrize("code", ANSWERS)
def test_an_answer_in_the_wanted_language_is_kept(code):
    assert wrong_language(ANSWERS[code], code, list(ANSWERS)) is None
    assert wrong_language(ANSWERS[code], code, [code]) is None


@pytest.mark.parametrize("wanted", ANSWERS)
def test_an_answer_in_any_other_of_the_languages_is_dropped(wanted):
    for other, answer in ANSWERS.items():
        if other != wanted:
            assert wrong_language(answer, wanted, list(ANSWERS)), f"{other} passed as {wanted}"


@pytest.mark.parametrize("wanted", [code for code in ANSWERS if code not in ("en", "zh")])
def test_english_and_chinese_are_recognised_though_the_recipe_does_not_name_them(wanted):
    assert wrong_language(ANSWERS["en"], wanted, [wanted])
    assert wrong_language(ANSWERS["zh"], wanted, [wanted])


def test_han_in_swahili_is_dropped_with_its_share():
    reason = wrong_language("Jibu ni 因为他有五个芒果 kumi na mbili.", "sw", ["sw"])
    assert reason is not None and reason.startswith("script: ") and reason.endswith("% Han in sw")


def test_a_name_in_another_script_or_language_is_no_reason():
    assert wrong_language(ANSWERS["sw"] + " Mwandishi ni 鲁迅.", "sw", ["sw"]) is None
    assert wrong_language("我在使用 TensorFlow 和 PyTorch 训练模型。", "zh", ["zh"]) is None
    assert wrong_language(ANSWERS["hi"] + " (Reserve Bank of India)", "hi", ["hi"]) is None


def test_the_majority_of_the_judged_text_decides_sentence_by_sentence():
    mixed = f"{ANSWERS['sw']} {ANSWERS['en']} {ANSWERS['en']}"
    assert wrong_language(mixed, "sw", ["sw"]) == "language: 2 of 3 sentences look like en"
    assert wrong_language(f"{ANSWERS['sw']} {ANSWERS['sw']} {ANSWERS['en']}", "sw", ["sw"]) is None


def test_what_cannot_be_judged_is_kept():
    for text in ("42", "x = 5", "", "👍", "$$\\frac{1}{2}$$", "OK!", "`print(1)`"):
        assert wrong_language(text, "sw", ["sw"]) is None


def test_code_formulas_and_addresses_are_not_read_as_english():
    code = "```python\nfor item in range(10):\n    print('the number is', item)\n```"
    formula = "$\\text{the total number of apples} = 3 \\times 4$"
    for extra in (code, formula, "https://en.wikipedia.org/wiki/Some_long_english_title_here"):
        assert wrong_language(f"{ANSWERS['hi']} {extra} {extra} {extra}", "hi", ["hi"]) is None


def test_two_amounts_of_money_are_not_a_formula():
    assert "puts in" in language.prose("He buys a house for $80,000 and then puts in $50,000 in repairs.")


def test_a_language_unknown_to_the_classifier_has_the_script_gate_only():
    assert not language.can_identify("wo") and language.can_identify("sw")
    assert wrong_language("Xale yi dañuy jàng téere yi ci ekool bi bés bu nekk.", "wo", ["wo", "fr"]) is None
    assert wrong_language(ANSWERS["zh"], "wo", ["wo"])
    assert wrong_language(ANSWERS["en"], "ti", ["ti"])


def test_japanese_and_chinese_are_told_apart_by_kana():
    assert wrong_language("彼女は毎日市場で残りのマンゴーを売ります。", "ja", ["ja"]) is None
    assert wrong_language("彼女は毎日市場で残りのマンゴーを売ります。", "zh", ["zh"])
    assert identify(ANSWERS["zh"], "ja", ["ja"])[0] == "zh"


def test_script_share_counts_letters_only():
    assert script_share("Jibu: 12 + 3 = 15!", "sw") == 1.0
    assert script_share("ab中文", "zh") == 0.5
    assert script_share("नमस्ते", "hi") == 1.0
    assert math.isnan(script_share("12 👍", "sw"))


def test_codes_with_regions_and_scripts():
    assert language.scripts_of("pt-BR") == ("Latin",)
    assert language.scripts_of("zh-Hant-TW") == language.scripts_of("zh")
    assert language.scripts_of("sr-Cyrl") == ("Cyrillic",) and language.scripts_of("xx-Latn") == ("Latin",)
    with pytest.raises(RecipeError, match="'xx'"):
        language.scripts_of("xx")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 3.5 dollars. Is it dear? No!", ["It costs 3.5 dollars.", "Is it dear?", "No!"]),
        ("今天很热。明天呢？不知道！", ["今天很热。", "明天呢？", "不知道！"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("አንድ ነው። ሁለት ነው፧ አዎ", ["አንድ ነው።", "ሁለት ነው፧", "አዎ"]),
        ("เขามีมะม่วง 5 ผล เธอมีสามผล", ["เขามีมะม่วง 5 ผล", "เธอมีสามผล"]),
        ("သူသွားသည်။ ငါလာသည်။", ["သူသွားသည်။", "ငါလာသည်။"]),
        ("هل هذا؟ نعم", ["هل هذا؟", "نعم"]),
        ("- one\n- two", ["- one", "- two"]),
    ],
)
def test_sentences_end_as_each_script_ends_them(text, expected):
    assert sentences(text) == expected


@pytest.mark.skipif(not SIB200.is_dir(), reason="SIB-200 is not beside the checkout (../shared/data/sib200)")
def test_on_real_sentences_the_right_language_stays_and_others_go():
    codes = {"swh_Latn": "sw", "zho_Hans": "zh", "hin_Deva": "hi", "ind_Latn": "id", "hau_Latn": "ha", "yor_Latn": "yo",
             "vie_Latn": "vi", "amh_Ethi": "am", "eng_Latn": "en", "fra_Latn": "fr"}  # fmt: skip
    texts = {}
    for name, code in codes.items():
        lines = (SIB200 / f"{name}_dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
        texts[code] = [line.split("\t")[2] for line in lines[:50]]
    for wanted, mine in texts.items():
        kept = sum(wrong_language(text, wanted, list(texts)) is None for text in mine)
        assert kept >= 0.98 * len(mine), wanted
        for other, theirs in texts.items():
            if other != wanted:
                passed = [text for text in theirs[:10] if wrong_language(text, wanted, list(texts)) is None]
                assert not passed, f"{other} passed as {wanted}: {passed[:2]}"
