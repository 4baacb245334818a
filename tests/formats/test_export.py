"""What files are made from: training samples, even over the languages."""

from format_helpers import sample

from distill.formats.export import even_over_languages


def test_languages_take_turns() -> None:
    rows = [
        sample(n, language, [1], [2])
        for n, language in enumerate(["en", "en", "en", "sw", "en", "zh", "sw"])
    ]
    assert [s.language for s in even_over_languages(rows, 5)] == [
        "en",
        "sw",
        "zh",
        "en",
        "sw",
    ]
    assert len(even_over_languages(rows, 100)) == 7
