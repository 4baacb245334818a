"""With what the student answers: the faster is measured, and what stops the run decides nothing."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core import shutdown
from distill.errors import DataError, MissingError, Stopped
from distill.models.load import Placement
from distill.on_policy import student_as


@pytest.fixture
def answered_with(monkeypatch, tmp_path):
    """Return the choice where the student's file is measured by the function that is given."""
    placement = Placement("cpu", "float32")
    work: Any = SimpleNamespace(
        options=SimpleNamespace(student_as="auto"), stage=tmp_path, placement=placement
    )
    its_weights: Any = "its weights"
    its_file: Any = "its file"

    def choose(measured):
        monkeypatch.setattr(student_as, "write_student", lambda *_: None)
        speed = lambda _, student, __: measured() if student == its_file else 10.0  # noqa: E731
        monkeypatch.setattr(student_as, "_tokens_per_second", speed)
        return student_as.answered_with(work, its_weights, its_file, [])

    return choose


def test_the_faster_is_taken_and_stays(answered_with, tmp_path):
    assert answered_with(lambda: 11.0) == "gguf"
    assert answered_with(lambda: 9.0) == "gguf"
    (tmp_path / "student_as.json").unlink()
    assert answered_with(lambda: 9.0) == "weights"


def test_what_llama_cpp_cannot_run_answers_with_its_weights(answered_with, capsys):
    def fails():
        raise MissingError("no such architecture")

    assert answered_with(fails) == "weights"
    assert "llama.cpp cannot run it (no such architecture)" in capsys.readouterr().out


def stop_signal():
    signal.raise_signal(signal.SIGINT)


def damaged_input():
    shutdown.fail(DataError("kept.jsonl: damaged"))


@pytest.mark.parametrize(("happens", "error"), [(stop_signal, Stopped), (damaged_input, DataError)])
def test_what_stops_the_run_meanwhile_stops_it_and_chooses_nothing(
    answered_with, tmp_path, happens, error
):
    def measured():
        happens()
        shutdown.check()

    with shutdown.listening(), pytest.raises(error):
        answered_with(measured)
    assert not list(tmp_path.iterdir())
