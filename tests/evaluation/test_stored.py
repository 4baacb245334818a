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


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "1", "\ufeff{}", json.dumps(WHOLE)[:-9], json.dumps(WHOLE | {"x": 1})],
)
def test_broken_figures_are_refused_by_name(tmp_path: Path, text: str):
    path = tmp_path / "q4_0.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"q4_0\.json: broken .*delete it and run `distill eval"):
        read(path)
