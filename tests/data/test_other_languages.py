"""What is told of rows and languages that nobody here knows."""

from collections import Counter

from distill.data.other_languages import by_kind, commonest, notes


def test_unknown_codes_are_named_and_known_ones_counted():
    kinds = by_kind(Counter({"fra_Latn": 2, "English": 3, "und": 1}))
    assert kinds == {"other_language": 2, "unknown_language: 'English' (3), 'und' (1)": 4}
    told = list(notes(["en", "wo"], kinds))
    assert told[0].startswith("languages: wo: no classifier here knows it")
    assert told[1:] == ["4 rows were left out, unknown_language: 'English' (3), 'und' (1)"]
    assert not list(notes(["en"], Counter({"other_language": 2})))


def test_many_codes_are_told_shortly():
    text = commonest(Counter({f"{n}" * 500: 1 for n in range(1000)}))
    assert len(text) < 600 and text.endswith(", ...")
