"""The gates: scripts, then sentences; on sentences of this test and on SIB-200 where it is."""

import pytest
from run_helpers import SHARED_DATA

from distill.text import language
from distill.text.identification import by_script_only, can_identify, identify
from distill.text.text import Text

SIB200 = SHARED_DATA / "sib200"


def wrong_language(text, code, languages, prompt=""):
    return language.wrong_language(Text(text), code, languages, prompt)


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


OWN = {
    "sw": "Mkulima anapanda mahindi mwanzoni mwa mvua na kuyavuna baada ya miezi minne. Kabla ya kupanda analima shamba "
    "lake kwa jembe la ng'ombe. Mbolea ya samadi huongeza rutuba ya udongo na mavuno huwa mengi zaidi. Baada ya mavuno, "
    "mahindi hukaushwa juani na kuhifadhiwa ghalani. Wadudu waharibifu wanaweza kuzuiwa kwa kuchanganya majivu na nafaka.",
    "id": "Petani menanam jagung pada awal musim hujan dan memanennya setelah empat bulan. Sebelum menanam, ia membajak "
    "ladangnya dengan sapi. Pupuk kandang menambah kesuburan tanah sehingga hasil panen lebih banyak. "
    "Setelah panen, jagung dijemur lalu disimpan di lumbung.",
    "hi": "किसान बरसात की शुरुआत में मक्का बोता है और चार महीने बाद उसे काटता है। बोने से पहले वह बैलों से अपना खेत "
    "जोतता है। गोबर की खाद मिट्टी की उर्वरता बढ़ाती है और उपज अधिक होती है। कटाई के बाद मक्का धूप में सुखाकर गोदाम में रखा जाता है।",
    "th": "ชาวนาปลูกข้าวโพดในต้นฤดูฝน และเก็บเกี่ยวหลังจากสี่เดือน ก่อนปลูกเขาไถนาด้วยวัว ปุ๋ยคอกช่วยเพิ่มความอุดมสมบูรณ์ของดิน ทำให้ได้ผลผลิตมากขึ้น",
    "zh": "农民在雨季开始时种玉米，四个月以后收割。播种之前，他用牛耕地。"
    "农家肥能提高土壤的肥力，收成也就更多。收割以后，玉米要晒干，再放进粮仓。",
}
ENGLISH = "The farmer then stores the dry maize in a barn that keeps out the rain."


@pytest.mark.parametrize("code", OWN)
def test_one_sentence_that_leaked_drops_a_long_answer(code):
    others = [
        ENGLISH,
        OWN["zh"].split("。")[0] + "。",
        "Le paysan garde ensuite le maïs sec dans une grange à l'abri de la pluie.",
    ]
    for other in others:
        if code == "zh" and other == others[1]:
            continue
        assert wrong_language(f"{OWN[code]} {OWN[code]} {other} {OWN[code]}", code, [code]), other
    assert wrong_language(OWN[code] * 3, code, list(OWN)) is None
    many = f"{OWN[code]} " * 20
    if code not in ("zh", "th"):
        assert (
            wrong_language(f"{many} {others[1]}", code, [code])
            == f"script: Han in {code}: {others[1]!r}"
        ), "2 % of the letters"


def test_a_french_sentence_in_english_is_found_where_the_recipe_has_english_alone():
    french = "Le paysan garde ensuite le maïs sec dans une grange à l'abri de la pluie."
    for languages in (["en"], ["en", "sw"]):
        assert wrong_language(
            f"{ENGLISH} {ANSWERS['en']} {french}", "en", languages
        ) and not wrong_language(ENGLISH, "en", languages)


def test_han_in_the_middle_of_a_swahili_sentence_weighs_three_letters_each():
    assert wrong_language(OWN["sw"] + " Mkulima 把玉米晒干再放进粮仓 kila mwaka.", "sw", ["sw"])
    assert wrong_language("Mkulima 把玉米晒干 kila mwaka baada ya mavuno yake yote.", "sw", ["sw"])


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "sw",
            "Kitabu chake “The Old Man and the Sea and the Boy Who Loved Him” kilichapishwa mwaka 1952.",
        ),
        ("sw", "Neno la Kichina la akili bandia ni 人工智能 na la Kijapani ni 人工知能."),
        (
            "sw",
            "Shirika la Afya Duniani (World Health Organization of the United Nations in Geneva) lilianzishwa mwaka 1948.",
        ),
        (
            "sw",
            "Methali ya Kichina husema: “千里之行，始于足下。” Maana yake ni kwamba kila safari huanza na hatua moja.",
        ),
        (
            "sw",
            "Mifano: Amazon Web Services, Microsoft Azure, Google Cloud Platform na Oracle Cloud Infrastructure.",
        ),
        ("sw", "Neno hilo linatokana na neno la Kiarabu كتاب."),
        (
            "hi",
            "उनकी किताब *The Discovery of India* 1946 में छपी।\n- World Health Organization\n- International Monetary Fund",
        ),
        (
            "hi",
            "मशीन लर्निंग (Machine Learning is a part of Artificial Intelligence) में डेटा से सीखा जाता है।",
        ),
        (
            "th",
            "ภาษา Python ใช้คำสั่ง print และโปรแกรม Visual Studio Code เขียนโดย Microsoft Corporation",
        ),
        (
            "th",
            'หนังสือ 《三国演义》 และ "Romance of the Three Kingdoms by Luo Guanzhong" เป็นเรื่องเดียวกัน',
        ),
        (
            "zh",
            '他的论文题为 "Attention Is All You Need and Nothing Else Besides"，作者来自 Google Brain。',
        ),
        (
            "zh",
            "安装方法：`pip install torch`，然后运行 `python -m train`。详见 https://example.com/how-to-install-it-on-your-machine",
        ),
        (
            "id",
            "Lagu “I Will Always Love You” dinyanyikan oleh Whitney Houston dalam film The Bodyguard pada tahun 1992.",
        ),
        (
            "id",
            'Rumusnya $\\text{the sum of all of the numbers is equal to ten}$, lihat juga artikel "How to add many numbers at once".',
        ),
        (
            "id",
            "Istilah machine learning, deep learning, dan natural language processing sering dipakai bersama-sama.",
        ),
    ],
)
def test_titles_names_terms_quotations_and_code_are_no_leak(code, text):
    assert wrong_language(f"{OWN[code]} {text} {OWN[code]}", code, list(OWN)) is None
    assert wrong_language(f"{OWN[code]} {text} {OWN[code]}", code, [code]) is None


def test_where_the_prompt_brings_a_foreign_sentence_the_answer_may_have_one():
    asked = f"Sahihisha sentensi hii ya Kiingereza na ueleze kosa lake kwa Kiswahili: {ENGLISH.replace('stores', 'store')}"
    answer = f"{OWN['sw']}\n{ENGLISH}"
    assert wrong_language(answer, "sw", ["sw"], asked) is None and wrong_language(
        answer, "sw", ["sw"], OWN["sw"]
    )
    assert wrong_language(
        answer, "sw", ["sw"], "Explain in Swahili how a farmer of the valley keeps his maize."
    ), "not the user's tongue"
    assert wrong_language(f"{ENGLISH} {ENGLISH}", "sw", ["sw"], asked), (
        "an answer in English is none"
    )


# the first article of the declaration of human rights, in languages unknown to the classifier
UNKNOWN = {
    "wo": "Doomi aadama yépp danuy juddu, yam ci tawfeex ci sag ak sañ-sañ. Nekk na it ku xam dëgg te ànd na ak xelam, "
    "te war naa jëflante ak nawleen, te teg ko ci wàllu mbokk.",
    "tn": "Batho botlhe ba tsetswe ba gololosegile le gona ba lekalekana ka seriti le ditshwanelo. Ba abetswe go akanya "
    "le maikutlo, mme ba tshwanetse go direlana ka mowa wa bokaulengwe.",
    "ny": "Anthu onse amabadwa aufulu ndiponso ofanana mu ulemu ndi ufulu wawo. Iwowa ndi wodalitsidwa ndi mphamvu "
    "zoganiza ndi chikumbumtima ndipo achitirane wina ndi mnzake mwaubale.",
    "ceb": "Ang tanang katawhan gipakatawo nga may kagawasan ug managsama sa kabililhon. Sila gigasahan sa salabutan ug "
    "tanlag ug mag-ilhanay isip managsoon sa usa ug usa diha sa diwa sa ospiritu.",
    "tw": "Wɔawo adasamma nyinaa sɛ nnipa a wɔwɔ ahofadi. Wɔn nyinaa wɔ nidi ne kyɛfa koro. Wɔwɔ adwene ne ahonim, na "
    "ɛsɛ sɛ obiara bu ne yɔnko sɛ ne nua.",
}


@pytest.mark.parametrize("code", UNKNOWN)
def test_in_a_language_that_the_classifier_does_not_know_what_is_surely_another_is_found(code):
    own = UNKNOWN[code]
    for languages in ([code], [code, "sw", "fr", "en"]):
        assert wrong_language(f"{own} Maïs, World Bank, Nelson Mandela.", code, languages) is None
    english = f"{ENGLISH} {ANSWERS['en']}"
    for answer in (english, OWN["zh"], f"{own} {own} {ENGLISH}", f"{own} {own} {ANSWERS['zh']}"):
        assert wrong_language(answer, code, [code]), answer
    assert wrong_language(f"{own} {own} {OWN['sw']}", code, [code, "sw"])
    assert (
        not can_identify(code)
        and f"languages: {code}" in f"languages: {by_script_only([code, 'sw'])}"
    )
    assert by_script_only(["sw", "th", "dv", "zh-Hant"]) is None


def test_reasoning_is_in_english_or_the_language_of_the_answer():

    def check(reasoning, code, languages, prompt=""):
        return language.wrong_reasoning_language(Text(reasoning), code, languages, prompt)

    for reasoning in (
        OWN["sw"],
        f"{ENGLISH} {ENGLISH}",
        f"{OWN['sw']} {ENGLISH} {ENGLISH} {ENGLISH}",
        "",
        "12 + 3 = 15",
    ):
        assert check(reasoning, "sw", ["sw", "zh"]) is None
    assert (check(OWN["zh"], "sw", ["sw"]) or "").startswith("script: 100 % Han")
    assert check(
        f"{ENGLISH} {ENGLISH} 等等，农民在雨季开始时种玉米，四个月以后收割。", "sw", ["sw", "zh"]
    )
    assert check(OWN["id"], "sw", ["sw", "id"])
    assert (
        check(
            f"{ENGLISH} The text says 农民在雨季开始时种玉米.",
            "sw",
            ["sw"],
            "Tafsiri: 农民在雨季开始时种玉米。",
        )
        is None
    )
    assert check(OWN["zh"], "zh", ["zh"]) is None and check(ENGLISH, "hi", ["hi"]) is None


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
    assert (
        wrong_language(f"{ANSWERS['sw']} {ANSWERS['sw']} She sells many mangoes.", "sw", ["sw"])
        is None
    ), "too short to be sure"


def test_what_cannot_be_judged_is_kept():
    for text in ("42", "x = 5", "", "👍", "$$\\frac{1}{2}$$", "OK!", "`print(1)`"):
        assert wrong_language(text, "sw", ["sw"]) is None


def test_code_formulas_and_addresses_are_not_read_as_english():
    code = "```python\nfor item in range(10):\n    print('the number is', item)\n```"
    formula = "$\\text{the total number of apples} = 3 \\times 4$"
    for extra in (code, formula, "https://en.wikipedia.org/wiki/Some_long_english_title_here"):
        assert wrong_language(f"{ANSWERS['hi']} {extra} {extra} {extra}", "hi", ["hi"]) is None


def test_a_language_unknown_to_the_classifier_has_the_script_gate_only():
    assert not can_identify("wo") and can_identify("sw")
    assert (
        wrong_language("Xale yi dañuy jàng téere yi ci ekool bi bés bu nekk.", "wo", ["wo", "fr"])
        is None
    )
    assert wrong_language(ANSWERS["zh"], "wo", ["wo"])
    assert wrong_language(ANSWERS["en"], "ti", ["ti"])


def test_japanese_and_chinese_are_told_apart_by_kana():
    assert wrong_language("彼女は毎日市場で残りのマンゴーを売ります。", "ja", ["ja"]) is None
    assert wrong_language("彼女は毎日市場で残りのマンゴーを売ります。", "zh", ["zh"])
    assert identify(Text(ANSWERS["zh"]), "ja", ["ja"])[0] == "zh"


CODES = {
    "swh_Latn": "sw",
    "zho_Hans": "zh",
    "hin_Deva": "hi",
    "ind_Latn": "id",
    "hau_Latn": "ha",
    "yor_Latn": "yo",
    "vie_Latn": "vi",
    "amh_Ethi": "am",
    "eng_Latn": "en",
    "fra_Latn": "fr",
    "npi_Deva": "ne",
    "ben_Beng": "bn",
    "mya_Mymr": "my",
}


@pytest.mark.skipif(
    not SIB200.is_dir(), reason="SIB-200 is not beside the checkout (../shared/data/sib200)"
)
def test_on_real_sentences_the_right_language_stays_and_others_go():
    texts = {}
    for name, code in CODES.items():
        lines = (SIB200 / f"{name}_dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
        texts[code] = [line.split("\t")[2] for line in lines]
    for wanted, mine in texts.items():
        kept = sum(wrong_language(text, wanted, list(texts)) is None for text in mine)
        assert kept >= 0.99 * len(mine), wanted
        assert [
            wrong_language(" ".join(mine[i : i + 9]), wanted, list(texts)) for i in range(0, 90, 9)
        ] == [None] * 10
        for other, theirs in texts.items():
            if other != wanted:
                passed = [
                    text for text in theirs[:6] if wrong_language(text, wanted, list(texts)) is None
                ]
                assert not passed, f"{other} passed as {wanted}: {passed[:2]}"
            if other in ("en", "zh") and other != wanted:
                leaked = [" ".join([*mine[i : i + 8], theirs[i]]) for i in range(0, 80, 8)]
                found = sum(wrong_language(text, wanted, [wanted]) is not None for text in leaked)
                assert found >= (10 if other == "zh" else 8), f"{other} in {wanted}"
