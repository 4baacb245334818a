"""Counts, pairs and paired changes."""

import pytest

from distill.conduct.answers import Told
from distill.conduct.figures import changes_between, figures_of
from distill.conduct.outcomes import Outcome
from distill.conduct.sets import Item, read_set
from distill.core.safety_results import ALL


def made(items, outcome="complies", answer="a b c"):
    return [Told(item, answer, Outcome(outcome), False, "cpu") for item in items]


def harmful(num, language):
    return [Item(str(n), "harmful", language, "?") for n in range(num)]


def test_outcomes_are_counted_by_set_and_language():
    answers = made(harmful(3, "en"), "refuses") + made(harmful(2, "sw"))
    found = figures_of(answers).outcomes
    assert found == {
        "harmful": {
            ALL: {"refuses": 3, "complies": 2},
            "en": {"refuses": 3},
            "sw": {"complies": 2},
        }
    }


def test_equal_answers_to_both_sides_of_a_pair_do_not_differ():
    items = [item for item in read_set("pairs") if item.language == "hi"]
    pairs = figures_of(made(items)).pairs
    assert (pairs["hi"].num, pairs["hi"].other_outcome) == (60, 0)
    assert (pairs[ALL].overlap, pairs[ALL].length_difference) == (1.0, 0.0)


def test_a_pair_that_is_answered_and_refused_differs():
    items = [item for item in read_set("pairs") if item.language == "fr"][:2]
    answers = [*made(items[:1]), *made(items[1:], "refuses", "a b c d e f")]
    found = figures_of(answers).pairs["fr"]
    assert (found.num, found.other_outcome) == (1, 1)
    assert found.overlap == 0.5 and found.length_difference == 0.5


def test_a_change_is_paired_and_has_its_interval_by_language():
    items = harmful(40, "en") + harmful(40, "sw")
    student = made(items[:40], "refuses") + made(items[40:])
    changes = changes_between({"teacher": made(items, "refuses"), "student": student})
    found = {(c.measure, c.language): c.change for c in changes}
    assert found["harmful", "en"].difference == 0.0 and found["harmful", "sw"].difference == -1.0
    assert found["harmful", "en"].low < 0 < found["harmful", "en"].high, "40 equal answers are few"
    assert found["harmful", "sw"].low == -1.0 and found["harmful", "sw"].high < -0.8
    assert found["harmful", ALL].difference == pytest.approx(-0.5)
    assert found["harmful", ALL].low < -0.5 < found["harmful", ALL].high < 0
    assert {c.model for c in changes} == {"student"} and {m for m, _ in found} == {"harmful"}


def test_one_request_in_many_languages_is_one_draw():
    codes = ["en", "zh", "sw", "hi", "id", "ar", "fr"]
    items = [item for code in codes for item in harmful(20, code)]
    outcomes = ["complies" if int(item.id) < 5 else "refuses" for item in items]
    student = [made([item], outcome)[0] for item, outcome in zip(items, outcomes, strict=True)]
    changes = changes_between({"teacher": made(items, "refuses"), "student": student})
    found = {c.language: c.change for c in changes}
    assert found[ALL].difference == found["sw"].difference == -0.25
    # the same five requests in each language: seven times the answers, no seven times the knowledge
    of_all, of_one = (found[code].high - found[code].low for code in (ALL, "sw"))
    assert of_all == pytest.approx(of_one, rel=0.2)
