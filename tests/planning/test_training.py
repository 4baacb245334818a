"""What the plan says of a student that is divided over ranks."""

from dataclasses import replace

import pytest
from run_helpers import QUICKSTART

from distill.core.run_folder import RunFolder
from distill.pipeline import STAGES
from distill.plan import make_plan
from distill.planning.costs import Workload
from distill.planning.machine import GB, Machine
from distill.planning.sizes import Size
from distill.planning.training import rank_bytes, sharding_told, training_bytes
from distill.recipe import load_recipe

GPU = Machine(
    cores=16,
    memory=2e11,
    disk_free=1e12,
    gpu="NVIDIA H200",
    gpu_memory=24e9,
    flops=1e14,
    bandwidth=3e12,
)
QWEN3_8B = Size(8_190_735_360, 36, 4096, 151_936, 1024, True)


def work(*overrides: str) -> Workload:
    recipe = load_recipe(QUICKSTART, ["train.gradient_checkpointing=true", *overrides])
    return replace(Workload.of(recipe, GPU), student=QWEN3_8B)


@pytest.mark.parametrize("more", [(), ("train.lora_rank=16", "train.optimizer=adamw")])
def test_what_a_rank_takes_falls_with_their_number_to_what_a_pass_needs(more):
    whole = training_bytes(work(*more))
    ranks = [rank_bytes(work("train.shard=full", *more), num) for num in (2, 4, 8, 1_000_000)]
    assert whole > ranks[0] > ranks[1] > ranks[2] > ranks[3] > 0
    states = QWEN3_8B.parameters * (4 + (0.02 if more else 1) * 12)
    assert ranks[0] - ranks[1] == pytest.approx(states / 4)


def test_the_plan_reckons_with_the_processes_of_the_recipe_and_says_others():
    one, eight = work("train.shard=full"), work("train.shard=full", "num_processes=8")
    assert training_bytes(one) == rank_bytes(one, 2)
    assert training_bytes(eight) == rank_bytes(eight, 8)
    told = sharding_told(eight)
    assert told is not None and "reckons with 8 (num_processes)" in told
    assert f"8 processes: {(0.75 * GB + rank_bytes(eight, 8)) / GB:.1f} GB" in told
    assert f"host's memory, {4 * QWEN3_8B.parameters / GB:.1f} GB" in told
    assert sharding_told(work()) is None
    hybrid = sharding_told(work("train.shard=hybrid"))
    assert hybrid is not None and "each process (of a node) takes" in hybrid


def test_plan_prints_it(tmp_path):
    recipe = load_recipe(QUICKSTART, ["train.shard=full", "num_processes=2"])
    planned = [stage for stage in STAGES if stage.name != "plan"]
    text = make_plan(recipe, RunFolder(tmp_path), planned).text
    assert "train.shard full: memory that each process takes in train" in text
