"""What stands in a run folder is read with care: a file that somebody broke is named, never guessed at."""

import errno
import fcntl
import os

import pytest
from run_helpers import QUICKSTART

from distill.core.run_folder import RunFolder
from distill.errors import DataError
from distill.pipeline import needs
from distill.recipe import load_recipe


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_a_broken_note_of_a_stage_is_named(tmp_path, name, text):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    (folder.stage("generate") / name).write_text(text)
    with pytest.raises(
        DataError, match=rf"generate/{name}: broken.*delete it and run the same command"
    ):
        folder.changes("generate", section={}, inputs={}, seed=0)


def test_what_a_stage_was_begun_with_is_compared_field_by_field(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    folder.start("generate", section={"a": 1, "b": {"c": 2}}, inputs={"teacher": "x"}, seed=1)
    assert (
        folder.changes("generate", section={"a": 1, "b": {"c": 2}}, inputs={"teacher": "x"}, seed=1)
        == []
    )
    found = folder.changes(
        "generate", section={"a": 1, "b": {"c": 3}}, inputs={"teacher": "y"}, seed=1
    )
    assert len(found) == 2 and "b.c" in found[0] and "`teacher` has changed" in found[1]


def test_another_name_of_the_model_on_its_server_is_another_recipe_and_the_old_one_stays_good(
    tmp_path,
):
    """A stage from before that was written down goes by the recipe.yaml beside it."""

    def wanted(name):
        return needs(
            "generate",
            load_recipe(QUICKSTART, ["teacher.server=http://h:1", f"teacher.server_model={name}"]),
            folder,
        )

    def changes(name):
        return folder.changes(
            "generate", section=wanted(name).section, inputs=wanted(name).inputs, seed=0
        )

    folder, recipe = (
        RunFolder(tmp_path),
        load_recipe(QUICKSTART, ["teacher.server=http://h:1", "teacher.server_model=a"]),
    )
    folder.stage("generate").mkdir()
    for before in (True, False):
        section = wanted("a").section
        if before:
            del section["teacher"]["server_model"]
        folder.start("generate", section=section, inputs=wanted("a").inputs, seed=0)
        folder.write_recipe(recipe)
        assert changes("a") == [] and changes("b") == ["teacher.server_model was 'a', is now 'b'"]
        assert changes("null") == ["teacher.server_model was 'a', is now None"]


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
