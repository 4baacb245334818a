"""Figures of a model on disk are taken where they are whole, else refused with the way out."""

import json
from pathlib import Path

import pytest

from distill.errors import DataError
from distill.evaluation.stored import model_figures, read_figures, write_figures

WHOLE = {
    "runtime": "llama.cpp",
    "nll": 1.0,
    "refused": 0,
    "cut_answers": 0,
    "generated_tokens": 1,
    "tokens_per_second": 1.0,
    "examples": [],
}


def read(path: Path):
    return model_figures(path, read_figures(path))


def test_whole_figures_are_read_back(tmp_path: Path):
    write_figures(tmp_path / "student.json", WHOLE)
    assert read(tmp_path / "student.json").nll == 1.0


EXAMPLE = {
    "prompt": "a",
    "language": "en",
    "answer": "b",
    "num_tokens": 2,
    "nll": 1.5,
    "right": None,
}


def test_figures_of_a_version_that_counted_no_bytes_are_taken_without(tmp_path: Path):
    write_figures(tmp_path / "student.json", WHOLE | {"examples": [EXAMPLE]})
    figures = read(tmp_path / "student.json")
    assert figures.nll == 1.0 and figures.nll_per_byte is None and figures.unscored is None
    assert read_figures(tmp_path / "student.json")["examples"] == [EXAMPLE | {"num_bytes": None}]
    counted = WHOLE | {"nll_per_byte": 0.5, "examples": [EXAMPLE | {"num_bytes": 3}]}
    write_figures(tmp_path / "student.json", counted)
    assert read_figures(tmp_path / "student.json") == counted


def test_bytes_that_are_no_number_are_refused(tmp_path: Path):
    write_figures(tmp_path / "q4_0.json", WHOLE | {"examples": [EXAMPLE | {"num_bytes": "3"}]})
    with pytest.raises(DataError, match=r"q4_0\.json: broken \(examples\.0: num_bytes: str"):
        read_figures(tmp_path / "q4_0.json")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "1", "\ufeff{}", json.dumps(WHOLE)[:-9], json.dumps(WHOLE | {"x": 1})],
)
def test_broken_figures_are_refused_by_name(tmp_path: Path, text: str):
    path = tmp_path / "q4_0.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"q4_0\.json: broken .*delete it and run `distill eval"):
        read(path)
