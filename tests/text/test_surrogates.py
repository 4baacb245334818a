"""Half a character becomes U+FFFD; what is whole stays."""

from distill.text.surrogates import without_lone_surrogates


def test_a_lone_surrogate_is_replaced_and_a_pair_is_joined():
    assert without_lone_surrogates("say \ud83d now") == "say \ufffd now"
    assert without_lone_surrogates("\ud83d\ude00") == "\U0001f600"


def test_texts_anywhere_in_json_are_repaired_and_all_else_stays():
    value = {"a\udc00": ["x\ud83d", 3, None], "b": {"c": "नमस्ते 🎉"}}
    assert without_lone_surrogates(value) == {
        "a\ufffd": ["x\ufffd", 3, None],
        "b": {"c": "नमस्ते 🎉"},
    }
