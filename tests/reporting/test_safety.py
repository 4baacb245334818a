"""The table, the sentences and the picture of what the stage `safety` found."""

import re

import pytest
from report_helpers import read_results

from distill.conduct.answers import Told
from distill.conduct.figures import changes_between, figures_of
from distill.conduct.outcomes import Outcome
from distill.conduct.sets import Item, read_set
from distill.core.safety_results import ALL, GatesResult, JudgeAgreement, SafetyResult
from distill.reporting.model_card import model_card
from distill.reporting.page import page
from distill.reporting.safety import (
    HEADINGS,
    gate_sentences,
    limit,
    safety_lines,
    safety_sentences,
)
from distill.reporting.safety_picture import changes_picture
from distill.reporting.table import model_rows

ITEMS = [Item(str(n), "harmful", code, "?") for code in ("en", "sw") for n in range(20)]
ITEMS += [item for item in read_set("pairs", 3) if item.language == "en"]


def made(outcome: str) -> list[Told]:
    return [
        Told(item, "a b", Outcome(outcome if item.set == "harmful" else "complies"), False, "cpu")
        for item in ITEMS
    ]


@pytest.fixture
def result() -> SafetyResult:
    answers = {"teacher": made("refuses"), "student": made("refuses"), "q4_0": made("complies")}
    return SafetyResult(
        models={name: figures_of(told) for name, told in answers.items()},
        changes=changes_between(answers),
        num_requests=len(ITEMS),
        unwritten=["ha"],
        judge=JudgeAgreement(46, 40, 2),
    )


def test_the_table_has_a_line_a_language_and_model(result):
    lines = safety_lines(result)
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert [line[:2] for line in lines[:4]] == [
        [ALL, "teacher"],
        [ALL, "student"],
        [ALL, "q4_0"],
        ["en", "teacher"],
    ]
    assert [line[2] for line in lines[:3]] == ["", "teacher", "student"]
    assert lines[0][3].startswith("100 % ["), "the teacher is compared with nobody"
    assert lines[1][3] == "100 %, +0 [-13, +13]"
    assert lines[2][3] == "0 %, -100 [-100, -74]*", "no zero in the interval"
    assert lines[0][4] == "–", "nothing harmless was asked"
    assert len(lines) == 9


def test_the_sentences_tell_clear_changes_and_how_far_the_lists_go(result):
    told = " ".join(safety_sentences(result))
    assert "q4_0 against student: refusals of harmful requests -100 [-100, -74] points." in told
    assert "student against teacher" not in told, "nothing changed there"
    assert "The judge says what the phrase lists say of 40 of 46" in told
    assert "not written in ha" in told


def test_gates_are_told_with_what_they_could_not_judge():
    assert gate_sentences(None) == []
    assert gate_sentences(GatesResult()) == ["No file failed a gate of the recipe."]
    told = gate_sentences(GatesResult({"q4_0": "in sw it refuses 0%"}, ["in hi: only 3 requests"]))
    assert told == [
        "q4_0 failed: in sw it refuses 0%.",
        "Where too little was asked no gate judged: in hi: only 3 requests.",
    ]


def test_a_run_that_was_not_asked_says_that_nothing_is_known(result):
    assert "not measured" in limit(None)
    assert "not measured" not in limit(result)


def test_the_picture_is_bare_svg_and_the_same_every_time(result):
    svg = changes_picture(result.changes)
    assert svg.startswith("<svg") and "<script" not in svg and "http://purl" not in svg
    assert svg == changes_picture(result.changes)
    assert "refusals of harmful requests" in svg and "q4_0 − student" in svg


def test_page_and_card_hold_the_table_and_the_failed_file(result, recipe, manifests):
    from dataclasses import replace

    found = replace(read_results(manifests), safety=result)
    rows = model_rows(found)
    html = page(recipe(), found, rows, "KD beat it.", {}, [], [])
    card = model_card(recipe(), found, rows, "KD beat it.")
    assert "<h2>Refusals and bias</h2>" in html and "<td>sw</td><td>q4_0</td>" in html
    table = [line for line in card.splitlines() if line.startswith("|") and "q4_0" in line]
    assert table and table[0].count("|") == len(HEADINGS) + 1
    head = next(i for i, line in enumerate(card.splitlines()) if "refuses harmful" in line)
    assert re.fullmatch(r"\|(---\|)+", card.splitlines()[head + 1])
    plain = page(recipe(), read_results(manifests), rows, "KD beat it.", {}, [], [])
    assert "Refusals and bias" not in plain and "bias were not measured" in plain
