"""What comes after training, by two ranks of one launch: as one process makes it, bit for bit, killed and continued."""

import json
import shutil
import signal
import time
from dataclasses import dataclass

import pytest
from benchmark_helpers import FRUIT, FRUIT_ROWS, SUMS, SUMS_ROWS, write
from log_helpers import read_row_logs
from run_helpers import QUICKSTART, call_distill, run_forked, sha, small
from sharding_helpers import ranks

from distill import quantize
from distill.core.processes import Processes
from distill.core.rank_times import idle_share, read_times
from distill.core.watch import ENDED
from distill.formats.export import Export
from distill.pipeline import RunFolder
from distill.recipe import load_recipe

ASKED = "evaluate.safety={num_requests: 2, max_new_tokens: 4}"
AFTER = "quantize,evaluate,benchmark,safety"
MEASURED = ("tokens_per_second", "prefill_speed", "decode_speed", "peak_memory")


def two_ranks(words):
    return ranks(call_distill, 2, ["run", *map(str, words), "--stages", AFTER])


@dataclass(frozen=True)
class Shared:
    """A run of two ranks, one of which was killed: what they said, and what was there then."""

    folder: object
    words: list
    killed: list
    there: dict
    said: list


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    uses = [write(place, FRUIT, FRUIT_ROWS, "en", "sw"), write(place, SUMS, SUMS_ROWS, "en")]
    folder = place / "run"
    shutil.copytree(finished, folder)
    for stage in ("quantize", "evaluate", "report"):
        shutil.rmtree(folder / stage)
    words = small(folder, f"evaluate.benchmarks={json.dumps(uses)}", ASKED)
    both = two_ranks(words)
    end = time.monotonic() + 240
    while time.monotonic() < end and not (folder / "evaluate/control.json").exists():
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    killed = [both[0].result(timeout=60)]
    there = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}
    said = [rank.result() for rank in two_ranks(words)]
    return Shared(folder, words, killed, there, said)


def test_a_rank_that_is_killed_ends_the_other_and_what_was_done_is_not_done_again(shared):
    (other,) = shared.killed
    assert other.returncode == ENDED, other.stderr[-2000:]
    assert "rank 1 on " in other.stderr and "run the same command to continue" in other.stderr
    assert [rank.returncode for rank in shared.said] == [0, 0], shared.said[0].stderr[-3000:]
    assert "quantize: already done" in shared.said[0].stdout
    evaluated = [p for p in shared.there if p.match("evaluate/*") and p.name != "started.json"]
    assert {"teacher_answers.jsonl", "teacher.json", "control.json"} <= {p.name for p in evaluated}
    assert all(path.stat().st_mtime_ns == shared.there[path] for path in evaluated)
    keys = [row["key"] for row in read_row_logs(shared.folder / "generate/held_out")[0]]
    assert len(keys) == len(set(keys)) >= 5, "the teacher was asked once"
    assert not list(shared.folder.glob("quantize/*.npy"))


def test_files_and_their_checks_are_those_of_one_process(shared, finished):
    for name in ("w16a16/model.safetensors", "q8_0.gguf", "f16.gguf", "Modelfile"):
        assert sha(shared.folder / "quantize" / name) == sha(finished / "quantize" / name)
    for name in ("w16a16", "q8_0", "f16"):
        assert content(shared.folder, "quantize", name) == content(finished, "quantize", name)


def test_every_model_is_evaluated_as_by_one_process(shared, finished):
    answers = "evaluate/teacher_answers.jsonl"
    assert sha(shared.folder / answers) == sha(finished / answers)
    for name in ("teacher", "control", "student", "w16a16", "q8_0", "f16"):
        assert content(shared.folder, "evaluate", name) == content(finished, "evaluate", name)
    mine, theirs = (content(f, "evaluate", "manifest") for f in (shared.folder, finished))
    assert mine["result"] == theirs["result"]


def content(folder, stage, name):
    """What a file says, without what was measured and the checksum over it."""
    values = json.loads((folder / stage / f"{name}.json").read_text())
    del values["sha256"]
    return without_measured(values)


def without_measured(value):
    if isinstance(value, dict):
        return {k: without_measured(v) for k, v in value.items() if k not in MEASURED}
    return value


def test_benchmarks_and_safety_are_asked_as_by_one_process(shared, finished, tmp_path):
    """The teacher's requests of safety are several blocks, which two ranks divide."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    words = [*shared.words[:-3], f"run_folder={folder}", *shared.words[-2:]]
    alone = run_forked(*words, "--stages", "benchmark,safety")
    assert alone.returncode == 0, alone.stderr[-2000:]
    made = [p for s in ("benchmark", "safety") for p in (folder / s).rglob("*") if p.is_file()]
    names = {p.relative_to(folder) for p in made if p.name not in ("manifest.json", "started.json")}
    assert len(names) > 20
    assert {n for n in names if sha(folder / n) != sha(shared.folder / n)} == set()


def test_the_time_of_the_ranks_is_written_and_told(shared):
    times = read_times(shared.folder)
    assert [stage.stage for stage in times] == AFTER.split(",")
    assert all(len(stage.ranks) == 2 for stage in times)
    assert 0 <= idle_share(times) < 1
    assert "evaluate: 2 processes, idle" in shared.said[0].stdout


def test_a_rank_for_whose_file_memory_has_no_room_waits_and_that_is_said(
    finished, monkeypatch, capsys
):
    recipe = load_recipe(QUICKSTART, [str(word) for word in small(finished)[1:]])
    export = Export.of(recipe, RunFolder(finished))
    formats = [quantize_format("q8_0"), quantize_format("f16")]
    need = max(quantize._bytes_to_make(export, format) for format in formats)
    for free, has_room in ((1.9 * need, False), (2.1 * need, True)):
        monkeypatch.setattr(quantize, "available_bytes", lambda free=free: free)
        second = Processes(local_rank=1)
        assert quantize._has_room(export, formats, second) is has_room
        assert quantize._has_room(export, formats, Processes()), "the first of a machine writes"
        assert ("processes write files, the others wait" in capsys.readouterr().out) != has_room


def quantize_format(name):
    from distill.formats import FORMATS

    return FORMATS[name]
