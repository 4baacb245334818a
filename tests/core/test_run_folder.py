"""What stands in a run folder is read with care: a file that somebody broke is named, never guessed at."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from result_helpers import generate_result
from run_helpers import QUICKSTART

from distill import generate
from distill.core.results import GenerateResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.errors import DataError
from distill.recipe import load_recipe

PACKAGE = Path(generate.__file__).parent


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_a_broken_note_of_a_stage_is_named(tmp_path, name, text):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    (folder.stage("generate") / name).write_text(text)
    with pytest.raises(
        DataError, match=rf"generate/{name}: broken.*delete it and run the same command"
    ):
        folder.changes("generate", Fingerprint())


def test_what_a_stage_was_begun_with_is_compared_field_by_field(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    begun = Fingerprint({"a": 1, "b": {"c": 2}}, {"teacher": "x"}, seed=1)
    folder.start("generate", begun)
    assert folder.changes("generate", begun) == []
    changes = folder.changes("generate", Fingerprint({"a": 1, "b": {"c": 3}}, {"teacher": "y"}, 1))
    assert len(changes) == 2 and "b.c" in changes[0] and "`teacher` has changed" in changes[1]


def test_another_name_of_the_model_on_its_server_is_another_recipe(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()

    def wanted(name):
        served = ["teacher.server=http://h:1", f"teacher.server_model={name}"]
        return generate.fingerprint(load_recipe(QUICKSTART, served))

    folder.start("generate", wanted("a"))
    assert folder.changes("generate", wanted("a")) == []
    assert folder.changes("generate", wanted("b")) == ["teacher.server_model was 'a', is now 'b'"]
    assert folder.changes("generate", wanted("null")) == [
        "teacher.server_model was 'a', is now None"
    ]


def test_a_clock_that_is_set_back_makes_no_negative_seconds(tmp_path, monkeypatch):
    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: next(times))
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    output = StageOutput(generate_result(), [])
    manifest = folder.finish("generate", Fingerprint(), output, started=time.monotonic())
    assert 0 <= manifest.seconds < 60


def test_durations_are_not_taken_from_the_clock_on_the_wall():
    """It goes back and forth; what is compared with another machine's clock is named here."""
    found = {
        path.name: path.read_text().count("time.time()")
        for path in sorted(PACKAGE.rglob("*.py"))
        if "time.time()" in path.read_text()
    }
    # a date that a server sent, and when an answer was asked for, which its log keeps
    assert found.keys() <= {"replies.py", "client.py"}, found


def test_a_result_of_another_shape_is_named_with_its_field(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    folder.finish("generate", Fingerprint(), StageOutput(generate_result(), []), started=0.0)
    assert folder.require("generate", GenerateResult).result.prompts_by_tries == {1: 1}
    path = folder.stage("generate") / "manifest.json"
    path.write_text(path.read_text().replace('"num_kept"', '"kept"'))
    with pytest.raises(
        DataError, match=r"manifest\.json: broken \(result\.num_kept: field required"
    ):
        folder.manifest("generate", GenerateResult)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on_and_said(number, tmp_path, monkeypatch, capsys):
    def flock(fd, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)  # as Lustre without -o flock answers
    folder = RunFolder(tmp_path)
    folder.lock()
    folder.unlock()
    said = capsys.readouterr().err
    assert str(tmp_path) in said and "no locks" in said and "run_folder=PATH" in said
