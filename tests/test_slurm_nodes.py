"""A training that divides the student over two nodes of a real Slurm, preempted: it ends in the bits of one never stopped."""

import json
import shutil
import sys

from run_helpers import sha, small
from sharding_helpers import ranks
from slurm_helpers import NEEDS_SLURM, SCRIPT, cluster, field, until

from distill.__main__ import main
from distill.core.jsonl import read_jsonl

pytestmark = NEEDS_SLURM
NUM_STEPS = 100
DIVIDED = [
    "train.shard=full",
    "train.control=false",
    f"train.max_steps={NUM_STEPS}",
    "train.epochs=100",
    "train.device=cpu",
]


def words(folder):
    return [str(a) for a in small(folder, *DIVIDED)]


def train_as_rank(folder):
    return main(["train", *words(folder)])


def steps_in(folder):
    path = folder / "train" / "student.metrics.jsonl"
    return sum("loss" in row for _, row in read_jsonl(path)) if path.exists() else 0


def weights_of(folder):
    return {p.name: sha(p) for p in (folder / "train" / "student").glob("*.safetensors")}


def test_a_divided_training_goes_on_after_it_was_preempted(finished, tmp_path):
    folders = [tmp_path / name for name in ("preempted", "unbroken")]
    for folder in folders:
        shutil.copytree(finished, folder)
        for later in ("train", "quantize", "evaluate", "report"):
            shutil.rmtree(folder / later)
    with cluster(("node1", "node2")) as slurm:
        log = tmp_path / "job.log"
        job = slurm(
            "sbatch",
            "--parsable",
            "--nodes=2",
            "--ntasks=2",
            "--ntasks-per-node=1",
            "--exclusive",
            f"--output={log}",
            f"--export=ALL,PYTHON={sys.executable},ACCELERATE_USE_CPU=true",
            str(SCRIPT),
            "train",
            *words(folders[0]),
        )
        until(lambda: steps_in(folders[0]) >= 5, 180, "a few steps")
        slurm("sbatch", "--partition=high", "--nodes=1", "--output=/dev/null", "--wrap", "sleep 1")
        until(lambda: not slurm("squeue", "-h"), 240, "the queue to be empty")
        told = slurm("scontrol", "show", "job", job)
        assert field(told, "JobState") == "COMPLETED", log.read_text()
        assert field(told, "NodeList") == "node[1-2]"
        assert int(field(told, "Restarts")) == 1, log.read_text()
    assert "stopped by SIGUSR1" in log.read_text() and "continues at step" in log.read_text()

    for rank in ranks(train_as_rank, 2, folders[1]):
        assert rank.wait() == 0
    assert weights_of(folders[0]) == weights_of(folders[1]) != {}
    manifest = json.loads((folders[0] / "train/manifest.json").read_text())
    assert manifest["result"]["roles"]["student"]["num_steps"] == NUM_STEPS
