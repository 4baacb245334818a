"""The pictures of benchmarks: every model and difference, small multiples by language."""

import re

from report_helpers import finished_benchmark, read_results

from distill.reporting.benchmark_pictures import benchmark_pictures
from distill.reporting.table import model_rows


def drawn(manifests, *languages):
    results = read_results(manifests)
    return benchmark_pictures(finished_benchmark(results, languages), model_rows(results))


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_every_model_and_every_difference_is_drawn(manifests):
    together, by_language = drawn(manifests, "en", "sw")
    assert list(together.pictures) == ["Belebele", "Belebele: differences"]
    assert {"teacher", "control", "student", "q8_0"} <= {*texts(together.pictures["Belebele"])}
    changes = texts(together.pictures["Belebele: differences"])
    assert {"student − teacher", "q8_0 − student"} <= {*changes}
    assert list(by_language.pictures) == ["en", "sw"] and by_language.are_small


def test_one_language_needs_no_small_pictures(manifests):
    (together,) = drawn(manifests, "en")
    assert list(together.pictures) == ["Belebele", "Belebele: differences"]


def test_every_picture_has_its_figures_in_words(manifests):
    for group in drawn(manifests, "en", "sw"):
        for svg in group.pictures.values():
            assert re.search(r'aria-label="[^"]*\d', svg)
