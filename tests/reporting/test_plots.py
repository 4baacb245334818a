"""The pictures: SVG that is the same every time, with every model in it."""

import json
import re

import pytest
from report_helpers import read_results

from distill.reporting import plots
from distill.reporting.table import model_rows

MODELS = ("teacher", "control", "student", "w16a16", "q8_0")


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


@pytest.fixture
def rows(manifests):
    return model_rows(read_results(manifests))


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
    assert "3.980" in shown and "teacher" not in shown


def test_bars_of_different_tokenizers_are_nll_a_byte_of_all(manifests):
    result = manifests["evaluate"].result
    result["tokenizers_differ"] = True
    for figures in result["models"].values():
        figures.update(exact_match=None, nll_per_byte=figures["nll"] / 4)
    shown = texts(plots.quality(model_rows(read_results(manifests))))
    assert {*MODELS, "0.995", "0.037", "NLL, nats a byte (less is better)"} <= set(shown)
    assert "3.980" not in shown


def test_size_against_quality_shows_what_lies_on_disk(rows):
    shown = texts(plots.size_against_quality(rows))
    assert {"control", "student", "w16a16", "q8_0"} <= set(shown) and "teacher" not in shown
    assert {"0.5", "1", "2"} <= set(shown), "ticks in MB"


def test_labels_of_models_that_lie_close_stand_apart():
    models = [
        plots.SizedModel(name, size, nll, failed=False)
        for name, size, nll in (("a", 1000, 1.0), ("b", 1010, 1.001), ("c", 9000, 2.0))
    ]
    (a, height_a), (b, height_b), (c, height_c) = plots._label_heights(models)
    assert (a.name, b.name, c.name) == ("a", "b", "c")
    assert abs(height_a - height_b) >= plots.LABEL_HEIGHT - 1 and height_c == -3


def test_loss_curves_ring_the_step_that_was_kept(tmp_path, manifests):
    for role in ("student", "control"):
        metrics = [{"step": 7, "loss": 5.0}, {"step": 14, "validation_loss": 4.0}]
        lines = "".join(json.dumps(row) + "\n" for row in metrics)
        (tmp_path / f"{role}.metrics.jsonl").write_text(lines, encoding="utf-8")
    shown = texts(plots.loss_curves(tmp_path, read_results(manifests).train))
    assert {"student", "control"} <= set(shown)
