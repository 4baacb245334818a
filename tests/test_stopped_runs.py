"""Whole runs that are killed at many points, stopped, damaged or without room on the disk."""

import os
import resource
import shutil
import signal
import time

import pytest
from log_helpers import read_row_logs
from run_helpers import (
    Forked,
    call_distill,
    environment,
    free_port,
    killed_when,
    run_forked,
    sha,
    signal_when,
    small,
    start_forked,
)
from sharding_helpers import ranks

from distill.core.stored_json import read_json, write_json
from distill.core.watch import ENDED


def outcome(folder):
    """What must not depend on interruptions."""
    files = [
        "train/student/model.safetensors",
        "train/control/model.safetensors",
        "generate/kept.jsonl",
        "initialize/student/model.safetensors",
        "quantize/q8_0.gguf",
    ]
    return {name: sha(folder / name) for name in files}


KILLS = [
    ("generate", lambda f: len(read_row_logs(f / "generate/raw")[0]) >= 1),
    ("generate", lambda f: len(read_row_logs(f / "generate/raw")[0]) >= 25),
    ("generate", lambda f: (f / "generate/kept.jsonl").exists()),
    ("capture", lambda f: (f / "capture/started.json").exists()),
    ("capture", lambda f: len(list(f.glob("capture/signals/*/*.shard"))) >= 2),
    ("initialize", lambda f: (f / "initialize/started.json").exists()),
    ("initialize", lambda f: (f / "initialize/.student.tmp").exists()),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 1),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 5),
    ("train", lambda f: (f / "train/.student.tmp").exists() or (f / "train/student").exists()),
    ("train", lambda f: lines(f / "train/control.metrics.jsonl") >= 3),
    ("quantize", lambda f: (f / "quantize/started.json").exists()),
    ("quantize", lambda f: (f / "quantize/q8_0.json").exists()),
    ("evaluate", lambda f: (f / "evaluate/teacher_answers.jsonl").exists()),
    ("evaluate", lambda f: (f / "evaluate/control.json").exists()),
    ("report", lambda f: (f / "report/started.json").exists()),
]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_in_every_stage_the_run_ends_with_the_same_weights(finished, tmp_path):
    folder = tmp_path / "run"
    statuses = []
    for stage, ready in KILLS:
        status = killed_when(small(folder), lambda ready=ready: ready(folder))
        statuses.append((stage, status))
    killed = {stage for stage, status in statuses if status == -signal.SIGKILL}
    assert {"generate", "capture", "train", "quantize", "evaluate"} <= killed, (
        f"too fast to be killed: {statuses}"
    )
    result = run_forked(*small(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert outcome(folder) == outcome(finished)
    keys = [row["key"] for row in read_row_logs(folder / "generate/raw")[0]]
    assert len(keys) == len(set(keys)), "no answer was paid for twice"


def test_ctrl_c_and_sigterm_stop_cleanly_and_say_how_to_go_on(tmp_path, finished):
    folder = tmp_path / "run"
    at_train = lambda: lines(folder / "train/student.metrics.jsonl") >= 2  # noqa: E731
    assert signal_when(start_forked(*small(folder)), at_train, signal.SIGINT) == 130
    assert list((folder / "train/checkpoints/student").glob("step-*")), (
        "a signal makes a checkpoint"
    )
    at_control = lambda: lines(folder / "train/control.metrics.jsonl") >= 2  # noqa: E731
    assert signal_when(start_forked(*small(folder)), at_control, signal.SIGTERM) == 130
    # what takes longest of the rest is not looked at here
    for name in ("w16a16", "w16a16.json"):
        copied = shutil.copytree if name == "w16a16" else shutil.copy2
        copied(finished / "quantize" / name, folder / "quantize" / name)
    assert run_forked(*small(folder)).returncode == 0
    assert outcome(folder) == outcome(finished)


def test_a_damaged_shard_is_named_and_captured_anew(copy):
    shard = sorted(copy.glob("capture/signals/*/*.shard"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    result = run_forked(*small(copy), "--redo", "capture", "--stages", "capture")
    assert result.returncode == 0, result.stderr[-2000:]
    assert shard.name in result.stdout and "broken" in result.stdout


def test_a_damaged_shard_is_never_trained_on(copy):
    shard = sorted(copy.glob("capture/signals/*/*.shard"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    shutil.rmtree(copy / "train")
    result = run_forked(*small(copy), word="train")
    assert result.returncode == 2 and shard.name in result.stderr and "capture" in result.stderr


def test_a_loss_that_is_not_finite_stops_before_the_step(copy):
    from safetensors.numpy import load_file, save_file

    shutil.rmtree(copy / "train")
    student = copy / "initialize/student/model.safetensors"
    tensors = load_file(student)
    tensors["model.norm.weight"][:] = 1e38  # finite, and what it makes is not
    save_file(tensors, student, metadata={"format": "pt"})
    manifest = copy / "initialize/manifest.json"  # as if it had been made so
    content = read_json(manifest, "")
    content["files"]["student/model.safetensors"]["sha256"] = sha(student)
    write_json(manifest, content)
    result = run_forked(*small(copy), word="train")
    assert (
        result.returncode == 2
        and "not finite" in result.stderr
        and "learning_rate" in result.stderr
    )
    assert not (copy / "train/student").exists()


def distill_in_files_of_20_kb(words):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    return call_distill(words)


def test_a_full_disk_is_one_line_and_the_run_continues_after(tmp_path):
    folder = tmp_path / "run"
    words = ["run", *map(str, small(folder)), "--stages", "plan,generate"]
    result = Forked(distill_in_files_of_20_kb, words, variables=environment()).result()
    assert result.returncode == 2, result.stderr[-2000:]
    last = result.stderr.strip().splitlines()[-1]
    assert (
        "is full; free space and run the same command to continue" in last and str(folder) in last
    )
    assert run_forked(*small(folder), "--stages", "plan,generate").returncode == 0


KILLS_OF_A_RANK = [
    (0, lambda f: len(list(f.glob("generate/raw/*.jsonl"))) == 2),
    (1, lambda f: list(f.glob("capture/signals/*/*.shard"))),
    (0, lambda f: lines(f / "train/student.metrics.jsonl") >= 3),
    (1, lambda f: lines(f / "train/control.metrics.jsonl") >= 3),
    (1, lambda f: (f / "quantize/started.json").exists()),
    (0, lambda f: (f / "evaluate/teacher_answers.jsonl").exists()),
]


def test_whichever_rank_is_killed_the_other_ends_and_the_same_command_continues(tmp_path):
    folder = tmp_path / "run"
    words = small(folder, "processes.patience=2")
    for rank, ready in KILLS_OF_A_RANK:
        both = two_ranks(words)
        assert wait_for(lambda ready=ready: ready(folder))
        both[rank].send_signal(signal.SIGKILL)
        began = time.monotonic()
        other = both[1 - rank].result(timeout=60)
        assert time.monotonic() - began < 10
        assert other.returncode == ENDED, other.stderr
        assert f"rank {rank} on " in other.stderr
        assert "run the same command to continue" in other.stderr
    assert [rank.result().returncode for rank in two_ranks(words)] == [0, 0]
    keys = [row["key"] for row in read_row_logs(folder / "generate/raw")[0]]
    assert len(keys) == len(set(keys)), "no answer was paid for twice"
    unbroken = shutil.copytree(folder, tmp_path / "unbroken", symlinks=True)
    shutil.rmtree(unbroken / "train")
    anew = two_ranks(small(unbroken, "processes.patience=2"), word="train")
    assert [rank.result().returncode for rank in anew] == [0, 0]
    for role in ("student", "control"):
        weights = f"train/{role}/model.safetensors"
        assert sha(folder / weights) == sha(unbroken / weights)


def distill_with_a_full_disk_of_rank_0(words):
    if os.environ["RANK"] == "0":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    return call_distill(words)


@pytest.mark.parametrize(
    ("distill", "more", "why"),
    [
        (call_distill, "languages=[xx]", "'xx'"),
        (distill_with_a_full_disk_of_rank_0, "seed=1", "is full"),
    ],
)
def test_what_rank_0_alone_refuses_ends_all_with_its_status(tmp_path, distill, more, why):
    """The same command would end there again: no queue shall put the job back for it."""
    words = map(str, small(tmp_path / "run", more))
    first, other = (rank.result(60) for rank in ranks(distill, 2, ["plan", *words]))
    assert (first.returncode, other.returncode) == (2, 2), other.stderr
    assert why in first.stderr and "rank 0" not in first.stderr
    assert "rank 0 cannot go on and has said why" in other.stderr
    assert "run the same command" not in other.stderr


def two_ranks(words, word="run"):
    """Start two ranks, as Slurm does."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        start_forked(*words, word=word, RANK=str(rank), LOCAL_RANK=str(rank), **meeting)
        for rank in range(2)
    ]


def wait_for(condition):
    end = time.monotonic() + 120
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return condition()
