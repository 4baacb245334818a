"""Scores and differences of rows: a question is one draw, and what was never answered is counted."""

from dataclasses import asdict
from pathlib import Path

import pytest

from distill.benchmarks.scores import differences_of, scores_of, with_all_languages
from distill.core.benchmark_results import BenchmarkScore
from distill.core.intervals import wilson
from distill.core.stored_json import as_type

NUM = 20


def rows(right: set[int], num: int = NUM) -> list[dict]:
    """Rows of `num` questions; by the byte the first is right as well."""
    return [
        {"number": i, "right": i in right, "right_by_byte": i in right or i == 0, "cut": False}
        for i in range(num)
    ]


def score(language: str, found: list[dict]) -> BenchmarkScore:
    return scores_of("fruit", language, {"student": found})[0]


def difference(here: list[dict], there: list[dict]):
    (found,) = differences_of("fruit", "en", {"student": here, "q8_0": there})
    return found.accuracy


def test_a_score_in_one_language_has_wilsons_interval():
    found = score("en", rows({3, 4, 5}))
    assert (found.accuracy, found.interval) == (3 / NUM, wilson(3, NUM))
    assert (found.by_byte, found.interval_by_byte) == (4 / NUM, wilson(4, NUM))


def test_translations_of_a_question_make_no_interval_narrower():
    own, others = rows({3, 4, 5}), rows({3, 4})
    of_language = {code: {"student": own, "q8_0": others} for code in ("en", "sw", "zh")}
    together = with_all_languages(of_language)["all"]
    one, all_three = score("en", own), score("all", together["student"])
    assert all_three.num == 3 * NUM
    assert all_three.accuracy == pytest.approx(one.accuracy)
    assert all_three.interval == pytest.approx(one.interval)
    assert all_three.interval_by_byte == pytest.approx(one.interval_by_byte)
    found, expected = difference(together["student"], together["q8_0"]), difference(own, others)
    assert found.difference == pytest.approx(expected.difference)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("right", [set(), {1, 2}, set(range(NUM))])
def test_where_nothing_changed_the_difference_has_an_interval(right):
    found = difference(rows(right), rows(right))
    assert found.low < found.difference == 0 < found.high


def test_a_difference_is_that_of_the_scores_where_languages_have_other_numbers_of_rows():
    here = [*rows({0, 1, 2}, 3), *rows(set(), 9)]
    there = [*rows(set(), 3), *rows(set(), 9)]
    found = difference(there, here)
    expected = score("all", here).accuracy - score("all", there).accuracy
    assert found.difference == pytest.approx(expected)
    assert found.low <= found.difference <= found.high


def test_a_number_that_was_never_answered_is_counted():
    answers = ["It is 7.", "", " \n", "I do not know."]
    found = score(
        "en",
        [
            {"number": i, "answer": answer, "right": i == 0, "cut": False}
            for i, answer in enumerate(answers)
        ],
    )
    assert (found.num_unanswered, found.accuracy) == (2, 0.25)
    assert score("en", rows({1})).num_unanswered == 0


def test_a_score_that_was_written_before_such_were_counted_is_read():
    values = asdict(score("en", rows({1})))
    del values["num_unanswered"]
    assert as_type(values, BenchmarkScore, Path("manifest.json"), "delete it").num_unanswered == 0
