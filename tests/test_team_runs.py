"""Runs whose teacher two ranks hold together: what comes of it is what one process makes."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from benchmark_helpers import FRUIT, FRUIT_ROWS, SUMS, SUMS_ROWS, write
from log_helpers import read_row_logs
from run_helpers import QUICKSTART, call_distill, made_once, run_forked, sha, small
from safetensors.torch import load_file, save_file
from sharding_helpers import ranks

from distill.core.jsonl import read_jsonl
from distill import pipeline
from distill.core.watch import ENDED
from distill.recipe import load_recipe
from distill.signals.store import SignalStore

TEACHER = QUICKSTART.parent / "quickstart/teacher"
PARTS = "teacher.tensor_parallel=2"
ASKS = ["generate", "capture"]


def save_teacher(folder):
    """The quickstart's teacher with each of its three key/value heads written twice, so that two ranks can share them."""
    shutil.copytree(TEACHER, folder)
    config = json.loads((folder / "config.json").read_text())
    heads, width = config["num_key_value_heads"], config["head_dim"]
    config["num_key_value_heads"] = config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            each = weight.view(heads, width, -1).repeat_interleave(2, dim=0)
            weights[name] = each.reshape(2 * heads * width, -1).contiguous()
    save_file(weights, file, {"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teams")
    save_teacher(folder / "teacher")
    return folder


def words_of(place, name, *more):
    """A short run, in which every answer is a batch or two."""
    given = [
        f"teacher.model={place / 'teacher'}",
        "generate.num_prompts=24",
        "teacher.batch_tokens=700",
    ]
    return small(place / name, *given, *more)


def launched(num, words, stages):
    return ranks(call_distill, num, ["run", *map(str, words), "--stages", ",".join(stages)])


def ended(started):
    results = [one.result(240) for one in started]
    assert [r.returncode for r in results] == [0] * len(results), "".join(
        r.stderr[-2500:] for r in results
    )
    return results


@pytest.fixture(scope="module")
def alone(place):
    """Answers and signals of one process."""
    file, *more = words_of(place, "alone")
    pipeline.run(load_recipe(file, list(map(str, more))), stages=ASKS)
    return place / "alone"


def stored(folder):
    (shards,) = (folder / "capture/signals").iterdir()
    return SignalStore(shards)


def assert_same(folder, expected):
    """The same samples, and the same draws: these follow from seeds, but one between two ids may fall to the other."""
    assert sha(folder / "generate/kept.jsonl") == sha(expected / "generate/kept.jsonl")
    mine, theirs = stored(folder), stored(expected)
    assert set(mine.keys()) == set(theirs.keys()) and len(mine) > 10
    same = [drawn(mine.read(key)) == drawn(theirs.read(key)) for key in mine.keys()]
    assert sum(same) >= len(same) - 1


def drawn(record):
    return [list(map(int, values)) for values in (record.ids, record.counts)]


def test_two_ranks_that_hold_the_teacher_make_what_one_process_makes(place, alone):
    results = ended(launched(2, words_of(place, "two", PARTS), ASKS))
    assert "teacher: its weights are divided over 2 processes (tensor parallel" in results[0].stdout
    assert results[1].stdout == "", "the leader tells"
    assert_same(place / "two", alone)
    rows, torn = read_row_logs(place / "two/generate/raw")
    assert not torn and len(list((place / "two/generate/raw").iterdir())) == 1
