"""Figures of a run that was stopped are taken up where they are whole, and had anew where they are not."""

import json
from pathlib import Path

import pytest

from distill import evaluate

WHOLE = {
    "runtime": "llama.cpp",
    "nll": 1.0,
    "refused": 0,
    "cut_answers": 0,
    "generated_tokens": 1,
    "tokens_per_second": 1.0,
    "examples": [],
}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "1", "\ufeff{}", json.dumps(WHOLE)[:-9], json.dumps(WHOLE | {"x": 1})],
)
def test_broken_figures_are_removed_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    whole, broken = tmp_path / "student.json", tmp_path / "q4_0.json"
    whole.write_text(json.dumps(WHOLE))
    broken.write_text(text)
    evaluate._remove_broken([whole, broken, tmp_path / "absent.json"])
    assert whole.is_file() and not broken.is_file()
    assert "q4_0.json: damaged; evaluated again" in capsys.readouterr().out
