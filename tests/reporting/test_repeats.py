"""What the report tells of the repeats of a training."""

import json
import re
from copy import deepcopy

import pytest
from report_helpers import read_results

from distill.reporting import plots
from distill.reporting.model_card import model_card
from distill.reporting.page import page
from distill.reporting.repeats import figures_text, repeats_table
from distill.reporting.table import model_rows, table_text


def add_repeats(manifests, *, roles=("student", "control")):
    """Two more repeats: the student 10 points better each time, the control the same."""
    evaluated, trained = manifests["evaluate"].result, manifests["train"].result
    evaluated["repeats"], trained["repeats"] = [], []
    for number in (1, 2):
        models = {role: deepcopy(evaluated["models"][role]) for role in roles}
        models["student"]["exact_match"] += 0.1 * number
        models["student"]["nll"] -= 0.01 * number
        evaluated["repeats"].append(models)
        trained["repeats"].append({role: trained["roles"][role] for role in roles})


def test_each_repeat_has_a_line_and_below_are_mean_and_spread(manifests):
    add_repeats(manifests)
    headings, lines = repeats_table(read_results(manifests))
    assert headings == [
        "repeat",
        "student: exact match %",
        "control: exact match %",
        "difference: exact match %",
        "student: NLL",
        "control: NLL",
        "difference: NLL",
    ]
    assert lines == [
        ["1", "40.0", "30.0", "+10.0", "3.9800", "3.9900", "-0.0100"],
        ["2", "50.0", "30.0", "+20.0", "3.9700", "3.9900", "-0.0200"],
        ["3", "60.0", "30.0", "+30.0", "3.9600", "3.9900", "-0.0300"],
        ["mean", "50.0", "30.0", "+20.0", "3.9700", "3.9900", "-0.0200"],
        ["standard deviation", "10.0", "0.0", "10.0", "0.0100", "0.0000", "0.0100"],
    ]


def test_below_the_text_table_is_a_line_a_model_and_the_table_is_of_the_first(manifests):
    add_repeats(manifests)
    results = read_results(manifests)
    rows = model_rows(results)
    assert figures_text(results, rows) == table_text(rows) + (
        "\n\nmean ± standard deviation of 3 repeats of the training (the rows above and all files are "
        "of the first):\n"
        "  student: exact match % 50.0 ± 10.0, NLL 3.9700 ± 0.0100\n"
        "  control: exact match % 30.0 ± 0.0, NLL 3.9900 ± 0.0000"
    )
    assert [row.model for row in rows] == ["teacher", "control", "student", "w16a16", "q8_0"]


def test_without_repeats_all_is_as_before(recipe, manifests):
    results = read_results(manifests)
    rows = model_rows(results)
    assert repeats_table(results)[1] == [] and figures_text(results, rows) == table_text(rows)
    text = page(recipe(), results, rows, "KD.", [], [], [], [])
    assert "own noise</h2>" not in text and "It was trained once: how far another seed" in text


def test_without_control_or_task_less_is_told(manifests):
    del manifests["evaluate"].result["models"]["control"]
    del manifests["train"].result["roles"]["control"]
    add_repeats(manifests, roles=("student",))
    models = [*manifests["evaluate"].result["repeats"], manifests["evaluate"].result["models"]]
    for figures in (of_model for by_name in models for of_model in by_name.values()):
        figures["exact_match"] = None
    headings, lines = repeats_table(read_results(manifests))
    assert headings == ["repeat", "student: NLL"] and lines[-2] == ["mean", "3.9700"]


def test_students_of_other_tokens_are_told_by_the_byte_too(manifests):
    add_repeats(manifests)
    manifests["evaluate"].result["tokenizers_differ"] = True
    assert "student: NLL/byte" not in repeats_table(read_results(manifests))[0], "not measured"
    repeats = manifests["evaluate"].result["repeats"]
    for models in (*repeats, manifests["evaluate"].result["models"]):
        for role in ("student", "control"):
            models[role]["nll_per_byte"] = 0.5
    headings, lines = repeats_table(read_results(manifests))
    assert headings[-3:] == ["student: NLL/byte", "control: NLL/byte", "difference: NLL/byte"]
    assert lines[0][-3:] == ["0.50000", "0.50000", "+0.00000"]


def test_page_and_card_say_that_the_first_is_in_use(recipe, manifests):
    add_repeats(manifests)
    results = read_results(manifests)
    rows = model_rows(results)
    text = page(recipe(), results, rows, "KD.", [], [], [], [])
    assert "own noise</h2>" in text and "<td>standard deviation</td><td>10.0</td>" in text
    assert "of the first repeat, which was not chosen" in text and "trained once" not in text
    card = model_card(recipe(), results, rows, "KD.")
    assert "It was repeated 3 times, each with another seed; the files are of the first" in card
    assert "  student: exact match % 50.0 ± 10.0" in card


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_loss_curves_of_other_repeats_are_thin(tmp_path, manifests, num_repeats):
    if num_repeats > 1:
        add_repeats(manifests)
    for place in ("", "repeat-2/", "repeat-3/"):
        for role in ("student", "control"):
            path = tmp_path / f"{place}{role}.metrics.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"step": 14, "validation_loss": 4.0}) + "\n")
    svg = plots.loss_curves(tmp_path, read_results(manifests).train)
    assert len(re.findall(r'class="curve \w+ thin"', svg)) == (4 if num_repeats == 3 else 0)
    assert ("thin: other repeats" in svg) == (num_repeats == 3)
    assert len(re.findall(r">(student|control)<", svg)) == 2, "each once in the legend"
