"""A student with fewer tokens, layers and neurons, trained by LoRA: killed in every stage, and in use."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from run_helpers import QUICKSTART, killed_when, made_once, run_forked, sha, small

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
STUDENT = {
    "method": "layers",
    "model": str(TEACHER),
    "layer_share": 0.67,
    "layers_by": "nll",
    "ffn_width": 256,
    "vocabulary": {"size": 896, "max_fertility_loss": None},
}
TRIMMED = [
    f"student={json.dumps(STUDENT)}",
    "train.lora_rank=4",
    "train.optimizer=adamw",
    "train.control=false",
    "quantize.formats=[q8_0]",
    "quantize.num_sequences=4",
]
MEASURED = ("tokens_per_second", "prefill_speed", "decode_speed", "peak_memory")  # by a clock


def started(folder: Path, finished: Path) -> Path:
    """Begin a run folder with the answers of another run: they do not depend on the student."""
    shutil.copytree(finished / "generate", folder / "generate")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, finished):
    """A run that was never interrupted. Do not change it."""

    def make(folder: Path) -> None:
        result = run_forked(*small(started(folder, finished), *TRIMMED))
        assert result.returncode == 0, result.stderr[-3000:]
        assert "generate: already done" in result.stdout

    return made_once(tmp_path_factory, "trimmed", make)


@pytest.fixture
def trimmed(whole, tmp_path):
    """A copy of it that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def outcome(folder):
    """What must not depend on interruptions: every file that is used, and the report's figures."""
    files = [
        *folder.glob("trim/tokenizer/*"),
        *(folder / "trim" / name for name in ("parent_ids.json", "kept.jsonl")),
        *folder.glob("initialize/student/*"),
        *(p for p in folder.glob("train/*/*") if p.name != "training.json"),
        folder / "quantize" / "q8_0.gguf",
    ]
    table = json.loads((folder / "report/manifest.json").read_text())["result"]["table"]
    rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in table]
    return {str(path.relative_to(folder)): sha(path) for path in files}, rows


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


KILLS = [
    ("trim", lambda f: (f / "trim/tokenizer/tokenizer.json").exists()),
    ("capture", lambda f: list(f.glob("capture/signals/*/split.json"))),
    ("capture", lambda f: len(list(f.glob("capture/signals/*/*.shard"))) >= 2),
    ("initialize", lambda f: (f / "initialize/.student.tmp").exists()),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 3),
    ("train", lambda f: (f / "train/.student.tmp").exists() or (f / "train/student").exists()),
]


def test_killed_in_every_stage_it_ends_in_the_same_bits(whole, finished, tmp_path):
    folder = started(tmp_path / "run", finished)
    statuses = []
    for stage, ready in KILLS:
        status = killed_when(small(folder, *TRIMMED), lambda ready=ready: ready(folder))
        statuses.append((stage, status))
    killed = {stage for stage, status in statuses if status == -signal.SIGKILL}
    assert killed == {"trim", "capture", "initialize", "train"}, f"too fast: {statuses}"
    result = run_forked(*small(folder, *TRIMMED))
    assert result.returncode == 0, result.stderr[-3000:]
    assert outcome(folder) == outcome(whole)
