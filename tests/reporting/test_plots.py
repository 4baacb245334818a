"""The pictures: SVG that is the same every time, with every model in it."""

import json
import re

import pytest
from report_helpers import finished_examples, read_results

from distill.reporting import plots
from distill.reporting.table import model_rows

MODELS = ("teacher", "control", "student", "w16a16", "q8_0")


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


@pytest.fixture
def rows(manifests):
    return model_rows(read_results(manifests))


@pytest.fixture
def train(tmp_path):
    for role in ("student", "control"):
        metrics = [{"step": 7, "loss": 5.0}, {"step": 14, "validation_loss": 4.0}]
        lines = "".join(json.dumps(row) + "\n" for row in metrics)
        (tmp_path / f"{role}.metrics.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_a_picture_is_bare_svg_and_the_same_every_time(rows):
    svg = plots.speed(rows)
    assert svg.startswith("<svg") and "<metadata>" not in svg and svg == plots.speed(rows)


def test_bars_name_every_model(rows):
    assert set(MODELS) <= set(texts(plots.quality(rows)))
    assert "80.0" in texts(plots.quality(rows))
    assert "q8_0 (llama.cpp)" in texts(plots.speed(rows))


def test_without_a_task_bars_are_nll_of_those_that_have_one(manifests):
    for name, figures in manifests["evaluate"].result["models"].items():
        figures.update(exact_match=None, nll=None if name == "teacher" else figures["nll"])
    shown = texts(plots.quality(model_rows(read_results(manifests))))
    assert "3.9800" in shown and "teacher" not in shown


def test_bars_of_different_tokenizers_are_nll_a_byte_of_all(manifests):
    result = manifests["evaluate"].result
    result["tokenizers_differ"] = True
    for figures in result["models"].values():
        figures.update(exact_match=None, nll_per_byte=figures["nll"] / 4)
    shown = texts(plots.quality(model_rows(read_results(manifests))))
    assert {*MODELS, "0.99500", "0.03750", "NLL, nats a byte (less is better)"} <= set(shown)
    assert "3.9800" not in shown


def test_size_against_quality_shows_what_lies_on_disk(rows):
    shown = texts(plots.size_against_quality(rows))
    assert {"control", "student", "w16a16", "q8_0"} <= set(shown) and "teacher" not in shown
    assert {"0.5", "1", "2"} <= set(shown), "ticks in MB"


def test_a_file_that_failed_is_a_cross(manifests):
    assert "cross" not in plots.size_against_quality(model_rows(read_results(manifests)))
    manifests["quantize"].result["formats"]["q8_0"] |= {"failed": "too far"}
    svg = plots.size_against_quality(model_rows(read_results(manifests)))
    assert svg.count('class="cross other"') == 2


def test_loss_curves_ring_the_step_that_was_kept(train, manifests):
    svg = plots.loss_curves(train, read_results(manifests).train)
    assert {"student", "control"} <= set(texts(svg))
    assert svg.count('class="ring ') == 2


def test_there_is_a_picture_a_language_and_a_change_a_model(train, manifests):
    results = read_results(manifests)
    groups = plots.pictures_of(train, results, model_rows(results), finished_examples(results))
    pictures = {group.heading: group.pictures for group in groups}
    first = pictures["Quality, size and speed"]
    changes = texts(first["Each model minus the teacher"])
    assert {"control", "student", "w16a16", "q8_0", "difference, points of exact match"} <= {
        *changes
    }
    assert "teacher" not in changes
    small = pictures["Quality against size by language"]
    assert list(small) == ["sw", "en"] and all("teacher: " in svg for svg in small.values())
    assert list(pictures["What each step changed, by language"]) == ["sw", "en"]
    assert {"wrong_answer", "truncated", "6"} <= {
        *texts(pictures["What was dropped"]["Answers by reason"])
    }


def test_no_picture_is_drawn_of_what_was_not_measured(train, manifests):
    manifests["generate"].result["dropped_by_reason"] = {}
    results = read_results(manifests)
    groups = plots.pictures_of(train, results, model_rows(results), {})
    assert [group.heading for group in groups] == ["Quality, size and speed"]
    assert "Each model minus the teacher" not in groups[0].pictures


def test_every_picture_has_its_figures_in_words(train, manifests):
    results = read_results(manifests)
    groups = plots.pictures_of(train, results, model_rows(results), finished_examples(results))
    for svg in [svg for group in groups for svg in group.pictures.values()]:
        label = re.match(r'<svg viewBox="[^"]+" role="img" aria-label="([^"]+)">', svg)
        assert label and re.search(r"\d", label[1]), svg[:200]
    assert "student 40.0" in groups[0].pictures["Student, control and teacher"]
