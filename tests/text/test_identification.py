"""The language of a sentence: by its script, then by the classifier."""

from distill.text import identification
from distill.text.identification import SentenceIdentifier, by_script_only, can_identify, identify
from distill.text.text import Text

ENGLISH = Text("The farmer then stores the dry maize in a barn that keeps out the rain.")


def test_japanese_and_chinese_are_told_apart_by_kana():
    chinese = Text("她每天在市场上卖掉剩下的芒果，一共赚了十八先令。")
    assert identify(chinese, "ja", ["ja"]).code == "zh"
    assert (
        identify(Text("彼女は毎日市場で残りのマンゴーを売ります。"), "zh", ["zh", "ja"]).code
        == "ja"
    )


def test_a_short_sentence_is_not_judged_and_its_length_is_told():
    assert identify(Text("她在市场。"), "sw", ["sw"]) == ("zh", 12)
    assert identify(Text("Sasa!"), "sw", ["sw"]) == (None, 4)


def test_what_the_classifier_does_not_know_is_said():
    assert can_identify("sw") and can_identify("dv") and not can_identify("wo")
    assert by_script_only(["sw", "th", "dv", "zh-Hant"]) is None
    assert (by_script_only(["wo", "sw"]) or "").startswith("wo: no classifier here knows it, so")


def test_the_open_choice_finds_a_language_that_is_no_candidate():
    identifier = SentenceIdentifier("en", ["en", "sw"])
    french = Text("Le paysan garde ensuite le maïs sec dans une grange à l'abri de la pluie.")
    assert identifier.surely_other(french) == "fr" and identifier.surely_other(ENGLISH) is None


def test_a_sentence_that_comes_twice_is_identified_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        identification, "identify", lambda *given: calls.append(given) or identify(*given)
    )
    identifier = SentenceIdentifier("hi", ["hi", "en"])
    assert identifier.identify(ENGLISH) == identifier.identify(ENGLISH) == ("en", 56)
    assert len(calls) == 1
