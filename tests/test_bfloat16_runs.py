"""Whole runs on a CPU in bfloat16: as one that began on a machine where that was faster goes on here."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from log_helpers import read_row_logs
from run_helpers import killed_when, made_once, run_forked, sha, small

from distill.core.results import CaptureResult, GenerateResult, TrainResult
from distill.core.run_folder import RunFolder
from distill.core.stored_json import write_json
from distill.models.product_speed import multiplies_bfloat16
from distill.signals.store import SignalStore

# a processor without the instructions takes ten times as long for the same steps
SHORT = [
    "teacher.dtype=auto",
    "train.precision=auto",
    "generate.num_prompts=16",
    "generate.max_new_tokens=48",
    "train.max_steps=6",
    "train.batch_tokens=256",
    "train.micro_batch_tokens=256",
    "train.max_length=256",
]
UNTIL_TRAINED = ["--stages", "generate,capture,initialize,train"]
TOLD = "bfloat16: 1.8 times float32 where it began, measured"


def begun_in_bfloat16(folder: Path) -> None:
    """Leave what a machine that multiplies bfloat16 writes before it begins."""
    for stage in ("generate", "capture", "train"):
        write_json(folder / stage / "precision.json", {"dtype": "bfloat16", "speedup": 1.8})


def words(folder: Path, *more: str) -> list[object]:
    return small(folder, *SHORT, *more, *UNTIL_TRAINED)


def of_run(folder: Path) -> dict[str, str]:
    """Return what must not depend on interruptions."""
    signals = sorted(folder.glob("capture/signals/*"))
    assert len(signals) == 1, "one signal, of one type"
    assert SignalStore(signals[0]).header.fingerprints["teacher_dtype"] == "bfloat16"
    files = ["train/student/model.safetensors", "train/control/model.safetensors"]
    return {name: sha(folder / name) for name in [*files, "generate/kept.jsonl"]}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str, str]:
    def make(folder: Path) -> None:
        begun_in_bfloat16(folder)
        result = run_forked(*words(folder))
        assert result.returncode == 0, result.stderr[-3000:]
        said = {"stdout": result.stdout, "stderr": result.stderr}
        (folder / "said.json").write_text(json.dumps(said))

    folder = made_once(tmp_path_factory, "bfloat16", make)
    said = json.loads((folder / "said.json").read_text())
    return folder, said["stdout"], said["stderr"]


def test_each_stage_says_which_type_it_takes_and_that_this_machine_is_slow_with_it(unbroken):
    folder, stdout, stderr = unbroken
    assert stdout.count(f"  teacher: {TOLD}") >= 2 and f"  train: {TOLD}" in stdout
    assert "train student (cpu, bfloat16)" in stderr + stdout
    if not multiplies_bfloat16():
        assert (
            f"{folder / 'train/precision.json'}: this work began in bfloat16, for which" in stderr
        )
    run = RunFolder(folder)
    for stage, kind in (
        ("generate", GenerateResult),
        ("capture", CaptureResult),
        ("train", TrainResult),
    ):
        assert run.require(stage, kind).result.precision == TOLD


def test_killed_in_generation_capture_student_and_control_it_ends_with_the_same_bits(
    unbroken, tmp_path
):
    folder = tmp_path / "run"
    begun_in_bfloat16(folder)
    lines = lambda name: (  # noqa: E731
        (folder / name).read_bytes().count(b"\n") if (folder / name).exists() else 0
    )
    points = [
        lambda: len(read_row_logs(folder / "generate/raw")[0]) >= 2,
        lambda: (folder / "capture/started.json").exists(),
        lambda: lines("train/student.metrics.jsonl") >= 3,
        lambda: lines("train/control.metrics.jsonl") >= 3,
    ]
    statuses = [killed_when(words(folder), ready) for ready in points]
    assert statuses.count(-signal.SIGKILL) >= 3, f"too fast to be killed: {statuses}"
    result = run_forked(*words(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert of_run(folder) == of_run(unbroken[0])


def test_the_recipes_own_bfloat16_gives_the_same_bits_and_is_chosen_by_nobody(unbroken, tmp_path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", unbroken[0], folder], check=True)
    subprocess.run(["rm", "-r", folder / "train"], check=True)
    result = run_forked(*words(folder, "train.precision=bfloat16"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert of_run(folder) == of_run(unbroken[0])
    assert not (folder / "train/precision.json").exists()
    assert RunFolder(folder).require("train", TrainResult).result.precision is None


def test_a_finished_run_is_the_same_run_on_a_machine_that_would_choose_otherwise(unbroken):
    result = run_forked(*words(unbroken[0]))
    assert result.returncode == 0 and "everything is done" in result.stdout
