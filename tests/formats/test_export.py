"""What files are made from: training samples, even over the languages."""

from distill.data.samples import Sample
from distill.formats.export import even_over_languages


def sample(number: int, language: str, prompt_ids: list[int], answer_ids: list[int]) -> Sample:
    key = f"{number:064x}"
    return Sample(key, key, "?", language, None, "!", prompt_ids, answer_ids)


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
