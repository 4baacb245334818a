"""What is told of rows and languages that nobody here knows."""

from collections import Counter

from distill.data.other_languages import by_kind, commonest, unknown_note


def test_unknown_codes_are_named_and_known_ones_counted():
    others = Counter({"fra_Latn": 2, "English": 3, "und": 1})
    assert by_kind(others) == {"other_language": 2, "unknown_language": 4}
    note = unknown_note(others)
    assert note == "4 rows are left out, whose languages nobody knows: 'English' (3), 'und' (1)"
    assert unknown_note(Counter({"fra_Latn": 2})) is None


def test_many_codes_are_told_shortly():
    text = commonest(Counter({f"{n}" * 500: 1 for n in range(1000)}))
    assert len(text) < 600 and text.endswith(", ...")
