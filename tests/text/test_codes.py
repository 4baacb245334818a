"""Language codes as data sets write them: three letters, underscores, members of languages."""

import pytest

from distill.errors import RecipeError
from distill.text.codes import base_code
from distill.text.identification import by_script_only, can_identify
from distill.text.language import wrong_language
from distill.text.scripts import LANGUAGES, same_language, scripts_of
from distill.text.text import Text

# of FLORES, SIB-200 and Belebele
MEANT = {
    "eng_Latn": "en", "swh_Latn": "sw", "arb_Arab": "ar", "cmn_Hans": "zh", "zho_Hant": "zh",
    "pes_Arab": "fa", "zsm_Latn": "ms", "ekk_Latn": "et", "est_Latn": "et", "lvs_Latn": "lv",
    "npi_Deva": "ne", "ory_Orya": "or", "uzn_Latn": "uz", "khk_Cyrl": "mn", "azj_Latn": "az",
    "als_Latn": "sq", "plt_Latn": "mg", "ydd_Hebr": "yi", "kmr_Latn": "ku", "gaz_Latn": "om",
    "quy_Latn": "qu", "deu_Latn": "de", "ger": "de", "fre": "fr", "jpn_Jpan": "ja",
    "kor_Hang": "ko", "ary_Arab": "ary", "arz_Arab": "arz", "yue_Hant": "yue", "ars_Arab": "ar",
    "pt_BR": "pt", "zh-Hans": "zh", "EN": "en", "iw": "he", "fil": "fil",
}  # fmt: skip
ENGLISH = "The farmer then stores the dry maize in a barn that keeps out the rain."
FRENCH = "Le paysan garde ensuite le maïs sec dans une grange à l'abri de la pluie."
SWAHILI = "Mkulima huhifadhi mahindi makavu ghalani ili yasinyeshewe na mvua ya masika."
FILIPINO = "Iniimbak ng magsasaka ang tuyong mais sa kamalig upang hindi ito mabasa ng ulan."
NORWEGIAN = "Bonden lagrer deretter den tørre maisen i en låve som holder regnet ute."


@pytest.mark.parametrize(("code", "meant"), MEANT.items())
def test_a_code_of_a_data_set_is_the_language_that_we_know(code, meant):
    assert base_code(code) == meant and meant in LANGUAGES
    assert set(scripts_of(code)) <= set(LANGUAGES[meant])


@pytest.mark.parametrize("code", ["eng_Latn", "eng-Latn", "eng", "en-Latn", "en"])
def test_english_is_english_however_its_code_is_written(code):
    assert wrong_language(Text(ENGLISH), code, [code]) is None
    assert (wrong_language(Text(FRENCH), code, [code]) or "").startswith("language: looks like fr")
    assert wrong_language(Text(SWAHILI), "swh_Latn", ["swh_Latn", code]) is None
    assert wrong_language(Text(ENGLISH), "swh_Latn", ["swh_Latn", code]) is not None


@pytest.mark.parametrize(
    ("code", "text"), [("fil", FILIPINO), ("nb", NORWEGIAN), ("nob_Latn", NORWEGIAN)]
)
def test_a_language_that_the_classifier_knows_by_another_code_is_not_dropped(code, text):
    assert can_identify(code) and wrong_language(Text(text), code, [code]) is None


def test_a_language_in_letters_that_the_classifier_has_not_read_is_told():
    assert can_identify("hin_Deva") and not can_identify("hin_Latn")
    assert (by_script_only(["hin_Latn", "eng_Latn"]) or "").startswith("hin_Latn: no classifier")
    romanised = "Kisan sookhe makke ko khalihan mein rakhta hai taaki barish se bacha rahe."
    assert wrong_language(Text(romanised), "hin_Latn", ["hin_Latn"]) is None


@pytest.mark.parametrize("code", ["kea", "english", "x" * 500, "", "_"])
def test_the_way_out_of_an_unknown_code_is_one(code):
    with pytest.raises(RecipeError) as caught:
        scripts_of(code)
    message = str(caught.value)
    assert len(message) < 300
    if len(code) == 3:
        advised = message.rpartition(" ")[2]
        assert advised == "kea-Latn" and scripts_of(advised) == ("Latin",)
    assert scripts_of("swh") == ("Latin",)  # the codes that it names


@pytest.mark.parametrize(
    ("code", "languages", "found"),
    [
        ("eng_Latn", ["sw", "en"], "en"),
        ("en", ["eng_Latn"], "eng_Latn"),
        ("zho_Hans", ["zh"], "zh"),
        ("zho_Hans", ["zh-Hant", "zh-Hans"], "zh-Hans"),
        ("zho_Hant", ["zh-Hans"], None),
        ("hin_Latn", ["hi"], None),
        ("pt-BR", ["pt"], "pt"),
        ("pt-PT", ["pt-BR"], None),
        ("pt", ["pt-BR"], None),
        ("sr", ["sr-Latn"], None),
        ("srp_Latn", ["sr"], "sr"),
        ("fra_Latn", ["en", "sw"], None),
        ("english", ["en"], None),
        ("arz_Arab", ["ar"], None),
    ],
)
def test_a_code_is_found_among_the_recipes_languages(code, languages, found):
    assert same_language(code, tuple(languages)) == found
