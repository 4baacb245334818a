"""What stands in a run folder is read with care: a file that somebody broke is named, never guessed at."""

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from result_helpers import generate_result
from run_helpers import QUICKSTART

from distill import generate
from distill.core.results import GenerateResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput, differences
from distill.errors import DataError, MismatchError
from distill.recipe import load_recipe

PACKAGE = Path(generate.__file__).parent
NO_NOTES = [
    *(b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe\x00", b"\x00" * 500, b"7", b'"text"'),
    *(b"[" * 100_000, b'{"section": ' * 5000, b'{"seed": ' + b"9" * 5000 + b"}", b"\x89PNG\r\n"),
    b'{"section": [], "inputs": {}, "seed": 0}',
    b'{"section": {}, "inputs": {}, "seed": true}',
    b'{"section": {}, "inputs": {}, "seed": 0, "colour": 1}',
]


@pytest.mark.parametrize("data", NO_NOTES, ids=range(len(NO_NOTES)))
@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_a_broken_note_of_a_stage_is_named(tmp_path, name, data):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    (folder.stage("generate") / name).write_bytes(data)
    with pytest.raises(
        DataError, match=rf"generate/{name}: broken.*delete it and run `distill generate RECIPE`"
    ) as raised:
        folder.changes("generate", Fingerprint())
    assert len(str(raised.value)) < 500


def finished_note(tmp_path):
    """Return the manifest of a stage that finished with one file."""
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir(parents=True)
    made = folder.stage("generate") / "kept.jsonl"
    made.write_text("x")
    folder.finish("generate", Fingerprint(), StageOutput(generate_result(), [made]), started=0.0)
    return folder, folder.stage("generate") / "manifest.json"


MANIFEST_FIELDS = [
    "stage",
    "section",
    "inputs",
    "seed",
    "result",
    "files",
    "seconds",
    "finished",
    "machine",
]


@pytest.mark.parametrize("name", [*MANIFEST_FIELDS, "bytes", "num_kept"])
def test_a_renamed_key_of_a_manifest_is_told(tmp_path, name):
    folder, path = finished_note(tmp_path)
    content = path.read_text()
    for checksum in ("sha256", "no_checksum"):  # as it is, and as an older version wrote it
        lines = content.replace(f'"{name}":', f'"{name}_":').splitlines()
        if checksum == "no_checksum":
            lines[-3:] = [lines[-3].removesuffix(","), "}"]
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=r"manifest\.json: broken \("):
            folder.recorded_files("generate")
            folder.manifest("generate", GenerateResult)


VALUES = ["null", '"x"', "[1]", '{"a": "b"}', "1e999", "true"]
RIGHT_TYPES = {
    *(("stage", '"x"'), ("finished", '"x"'), ("machine", '"x"'), ("seconds", "1e999")),
    *(("section", '{"a": "b"}'), ("inputs", '{"a": "b"}'), ("result", '{"a": "b"}')),
}
WRONG_TYPES = [(n, v) for n in MANIFEST_FIELDS for v in VALUES if (n, v) not in RIGHT_TYPES]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_in_a_manifest_without_checksum_is_told(tmp_path, name, value):
    folder, path = finished_note(tmp_path)
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content | {name: json.loads(value)}))
    with pytest.raises(DataError, match=r"manifest\.json: broken \("):
        folder.recorded_files("generate")
        folder.manifest("generate", GenerateResult)


def test_a_digit_of_a_result_that_changed_is_told(tmp_path):
    folder, path = finished_note(tmp_path)
    path.write_text(path.read_text().replace('"num_kept": 1', '"num_kept": 9'))
    with pytest.raises(DataError, match="its content does not match its checksum"):
        folder.manifest("generate", GenerateResult)


def test_a_manifest_of_an_older_version_and_one_saved_with_a_byte_order_mark_are_read(tmp_path):
    folder, path = finished_note(tmp_path)
    whole = folder.manifest("generate", GenerateResult)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert folder.manifest("generate", GenerateResult) == whole
    content = json.loads(path.read_bytes().decode("utf-8-sig"))
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert folder.manifest("generate", GenerateResult) == whole


@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_a_folder_in_the_place_of_a_note_is_told(tmp_path, name):
    (tmp_path / "generate" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(Is a directory\)"):
        RunFolder(tmp_path).changes("generate", Fingerprint())


def test_what_a_stage_was_begun_with_is_compared_field_by_field(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    begun = Fingerprint({"a": 1, "b": {"c": 2}}, {"teacher": "x"}, seed=1)
    folder.start("generate", begun)
    assert folder.changes("generate", begun) == []
    changes = folder.changes("generate", Fingerprint({"a": 1, "b": {"c": 3}}, {"teacher": "y"}, 1))
    assert len(changes) == 2 and "b.c" in changes[0] and "`teacher` has changed" in changes[1]


def test_a_field_that_an_older_section_lacks_is_told_by_the_value_to_set_back():
    old = Fingerprint({"student": {"method": "layers"}})
    new = Fingerprint({"student": {"method": "layers", "layers_by": "last"}})
    assert differences(old, new) == ["student.layers_by was 'even', is now 'last'"]


def test_another_name_of_the_model_on_its_server_is_another_recipe(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()

    def wanted(name):
        served = ["teacher.server=http://h:1", f"teacher.server_model={name}"]
        return generate.STAGE.fingerprint(load_recipe(QUICKSTART, served))

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
    assert found.keys() <= {"replies.py", "budget.py"}, found


def test_a_result_of_another_shape_is_named_with_its_field(tmp_path):
    folder = RunFolder(tmp_path)
    folder.stage("generate").mkdir()
    folder.finish("generate", Fingerprint(), StageOutput(generate_result(), []), started=0.0)
    assert folder.require("generate", GenerateResult).result.prompts_by_tries == {1: 1}
    path = folder.stage("generate") / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content).replace('"num_kept"', '"kept"'))
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


@pytest.mark.parametrize("place", ["/proc/run", "/proc/1/run", "/dev/null/run"])
def test_a_run_folder_that_cannot_be_made_is_told(place):
    with pytest.raises(MismatchError, match=r"run_folder: .*set run_folder=PATH"):
        RunFolder(Path(place)).lock()


def test_a_shared_stage_is_read_where_it_was_made_and_never_made_elsewhere(tmp_path):
    made, path = finished_note(tmp_path / "run")
    folder = RunFolder(tmp_path / "other", shared={"generate": made})
    assert folder.stage("generate") == path.parent and folder.stage("train").parent == folder.path
    recipe = load_recipe(QUICKSTART)
    assert folder.digest("generate", recipe) == made.digest("generate", recipe)
    assert folder.changes("generate", Fingerprint(seed=1)) == ["seed was 0, is now 1"]
    for forbidden in (
        lambda: folder.start("generate", Fingerprint()),
        lambda: folder.set_aside("generate", keep_files=True),
    ):
        with pytest.raises(AssertionError):
            forbidden()
    assert path.is_file()


@pytest.mark.parametrize("made", [(), ("precision.json", "precision-south.json")])
def test_a_stage_that_made_nothing_has_not_begun_and_its_notes_are_chosen_anew(tmp_path, made):
    folder = RunFolder(tmp_path)
    folder.start("capture", Fingerprint(seed=1))
    for name in made:
        (folder.stage("capture") / name).write_text("{}")
    folder.forget_start("capture")
    assert not folder.began("capture") and not list(folder.stage("capture").iterdir())


@pytest.mark.parametrize("made", ["raw/a.jsonl", "checkpoints/1", "kept.jsonl"])
def test_a_stage_that_made_something_has_begun(tmp_path, made):
    folder = RunFolder(tmp_path)
    folder.start("generate", Fingerprint(seed=1))
    path, note = folder.stage("generate") / made, folder.stage("generate") / "precision.json"
    path.parent.mkdir(exist_ok=True)
    for file in (path, note):
        file.write_text("{}")
    folder.forget_start("generate")
    assert folder.began("generate") and path.is_file() and note.is_file()
