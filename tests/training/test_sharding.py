"""A student that no rank holds whole learns what one process would learn; its checkpoints survive a kill.

Two and four ranks on CPUs (gloo). No GPU and no NCCL is tried here.
"""

import json
import shutil
import signal
from pathlib import Path

import pytest
import sharding_helpers as helpers
import step_helpers
import torch
from pydantic import ValidationError
from run_helpers import QUICKSTART
from safetensors import safe_open
from sharding_helpers import CASES, EVERY, KILLED_AT, NUM_STEPS

from distill.core.processes import Processes
from distill.errors import DataError, MismatchError
from distill.recipe import load_recipe
from distill.recipe.sections import Train
from distill.training import checkpoints
from distill.training.checkpoints import WholeCheckpoints
from distill.training.placing import check_ranks
from distill.training.sharded_checkpoints import ShardedCheckpoints
from distill.training.sharding import ranks_a_node

# of losses, gradient norms and weights; what is wrong shows at 1e-3 and more
EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}
# Muon works out its direction in float32; passes in bfloat16 also gather the norms' weights in it
ROUGHER = {"muon": 1e-6, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks found, of which one was killed in the end."""
    folder = tmp_path_factory.mktemp("sharded")
    step_helpers.signal(folder / "signals")
    for name in ("unbroken", "killed", "ddp"):
        (folder / name).mkdir()
        (folder / name / "signals").symlink_to(folder / "signals")
    first, second = helpers.ranks(helpers.check_two, 2, folder)
    assert second.wait(240) == -signal.SIGKILL, first.result(30).stderr[-3000:]
    assert first.wait(20) != 0, "the other cannot go on alone"
    return folder


def tolerance(name: str) -> float:
    return ROUGHER.get(name, EXACT[CASES[name][1]])


def assert_as_one_process(folder: Path, name: str, how: str, num: int) -> None:
    one = helpers.steps_of(helpers.run_of(folder, name, Processes()))
    found = [torch.load(folder / f"{name}-{how}-{rank}.pt") for rank in range(num)]
    within = tolerance(name)
    for rank in found:
        for row, expected in zip(rank["rows"], one["rows"], strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == pytest.approx(value, rel=within, abs=within), (name, key)
        assert rank["validation"] == pytest.approx(one["validation"], rel=within)
    weights = found[0]["weights"]
    assert weights.keys() == one["weights"].keys()
    for key, weight in one["weights"].items():
        assert weights[key].dtype == weight.dtype
        assert (weights[key] - weight).abs().max() <= within, (name, key)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_that_divide_a_student_train_it_as_one_process_does(two, name):
    assert_as_one_process(two, name, "full", 2)


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_its_share_of_what_is_trained(two, name):
    found = [torch.load(two / f"{name}-full-{rank}.pt") for rank in range(2)]
    whole = sum(weight.numel() for weight in found[0]["weights"].values())
    local = [rank["local"] for rank in found]
    assert sum(local) == whole
    assert max(local) < 0.7 * whole  # of three rows one rank has two


@pytest.mark.parametrize("name", ["tied", "untied", "odd rows"])
def test_nothing_of_the_whole_student_is_left_on_a_rank_that_has_its_share(two, name):
    """Rank 0 keeps the one that it has loaded, beside its share."""
    for rank in range(2):
        found = torch.load(two / f"{name}-full-{rank}.pt")
        share = found["local"] * CASES[name][1].itemsize
        assert 0.9 * share < found["held"] < 1.1 * share, rank


def test_the_steps_of_the_cases_move_the_weights(two):
    """Else any two trainings would agree."""
    start = helpers.run_of(two, "tied", Processes()).model
    weights = torch.load(two / "tied-full-0.pt")["weights"]
    assert all((weights[n] - p).abs().max() > 1e-5 for n, p in start.named_parameters())


def test_a_killed_rank_loses_nothing_and_a_damaged_checkpoint_is_passed_over(two):
    folder = two / "killed" / "checkpoints" / "student"
    steps = [f"step-{step:08d}" for step in (EVERY, 2 * EVERY)]
    assert 2 * EVERY < KILLED_AT < NUM_STEPS
    assert sorted(path.name for path in folder.glob("step-*")) == steps
    names = {path.suffix for path in (folder / steps[0]).iterdir()}
    assert names == {".safetensors", ".json", ""}, "nothing that runs code when it is read"
    shutil.copytree(two / "killed", two / "damaged", symlinks=True)
    part = next((two / "damaged/checkpoints/student" / steps[1]).glob("shard-00002-*"))
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)

    left = ["killed", "damaged", "ddp left"]
    results = [rank.result(120) for rank in helpers.ranks(helpers.go_on, 2, two, left)]
    assert [r.returncode for r in results] == [0, 0], results[0].stderr[-3000:]
    for name in left:
        unbroken = "ddp" if name == "ddp left" else "unbroken"
        expected = torch.load(two / unbroken / "trained.pt")
        weights = torch.load(two / name / "trained.pt")
        assert all(torch.equal(weights[key], value) for key, value in expected.items()), name
    said = results[0].stdout
    assert said.count(f"continues at step {2 * EVERY}") == 2, "one of them by DDP"
    assert f"continues at step {2 * EVERY}" in said and f"continues at step {EVERY}" in said
    assert f"{part.name} does not match its SHA-256); passed over" in said
    assert not results[1].stdout
    shutil.rmtree(two / "damaged")


def test_ranks_whose_clocks_differ_save_a_checkpoint_together(two):
    """Else one would wait in the save for another that goes on with the next step."""
    folder = two / "clocks"
    folder.mkdir()
    (folder / "signals").symlink_to(two / "signals")
    started = helpers.ranks(helpers.check_two_clocks, 2, folder)
    results = [rank.result(60) for rank in started]
    assert [r.returncode for r in results] == [0, 0], results[0].stderr[-3000:]
    saved = sorted((folder / "checkpoints" / "student").glob("step-*"))
    assert [path.name for path in saved] == ["step-00000001", "step-00000002"]


def whole_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the ranks wrote into a checkpoint, put together by hand."""
    parts: dict[str, list[torch.Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                parts.setdefault(name, []).append(file.get_tensor(name))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def test_four_ranks_on_two_nodes_do_as_well_and_go_on_from_what_two_saved(two):
    started = helpers.ranks(helpers.check_four, 4, two, LOCAL_WORLD_SIZE="2")
    results = [rank.result(240) for rank in started]
    assert [r.returncode for r in results] == [0] * 4, results[0].stderr[-3000:]
    for name in ("tied", "odd rows", "hidden states"):
        assert_as_one_process(two, name, "hybrid", 4)
    found, step, notes = torch.load(two / "four.pt")
    expected = whole_of(two / f"unbroken/checkpoints/student/step-{step:08d}")
    assert found.keys() == expected.keys() and len(expected) > 30
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    (note,) = notes
    assert "2 processes with train.shard full, here are 4 processes with train.shard hybrid" in note


def test_a_student_held_in_the_other_way_is_told_what_to_set(two):
    folder = two / "unbroken/checkpoints/student"
    with pytest.raises(DataError, match=r"go on with train.shard=full, or use --redo train"):
        WholeCheckpoints(folder, Processes()).load_newest({}, None, with_best=True)
    path = max(folder.glob("step-*"))
    content = json.loads((path / "state.json").read_text())
    whole = {**content, "shard": "none"}
    with pytest.raises(DataError, match=r"go on with train.shard=none"):
        checkpoints.require_saved_like(path, whole, is_sharded=True)
    checkpoints.require_saved_like(path, content, is_sharded=True)


def test_a_checkpoint_of_another_number_of_processes_is_told_of(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    trainable = dict(layer.named_parameters())
    WholeCheckpoints(tmp_path, Processes(num=2)).save(3, trainable, optimizer, {"best_step": None})
    for num, notes in ((2, 0), (1, 1)):
        saved = WholeCheckpoints(tmp_path, Processes(num=num)).load_newest(
            trainable, optimizer, with_best=False
        )
        assert saved is not None and len(saved.notes) == notes
    assert "of 2 processes with train.shard none, here are 1 process" in saved.notes[0]


def test_a_hybrid_checkpoint_of_nodes_of_another_size_is_told_of(tmp_path):
    def saver(hosts):
        nodes = Nodes(num=4)
        object.__setattr__(nodes, "hosts", tuple(hosts))
        return ShardedCheckpoints(tmp_path, nodes, "hybrid").saver

    (note,) = saver("aaaa").notes(saver("aabb").content())
    assert "hybrid, 2 on each node, here are 4 processes with train.shard hybrid, 4 on each" in note
    assert saver("aaaa").notes(saver("bbbb").content()) == []
    older = {"num_processes": 4, "shard": "hybrid"}
    assert saver("aaaa").notes(older) == []


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("shard", ["full", "hybrid"])
def test_8_bit_optimizers_of_a_divided_student_are_refused(shard, optimizer):
    with pytest.raises(ValidationError, match=f"shard: {shard} with optimizer: {optimizer}"):
        Train(shard=shard, optimizer=optimizer)
    assert (
        Train(shard="none", optimizer=optimizer).identity() == Train(optimizer=optimizer).identity()
    )


class Nodes(Processes):
    """Ranks on hosts of these names."""

    hosts: tuple[str, ...] = ()

    def gathered(self, value):
        return list(self.hosts)


@pytest.mark.parametrize(
    ("hosts", "size"),
    [("aabb", 2), ("aaaa", 4), ("abcd", 1), ("aab", None), ("abab", None), ("aaab", None)],
)
def test_hybrid_wants_as_many_ranks_on_each_node(hosts, size, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    nodes = Nodes(num=len(hosts))
    object.__setattr__(nodes, "hosts", tuple(hosts))
    if size is not None:
        assert ranks_a_node(nodes) == size
        return
    with pytest.raises(MismatchError, match=r"equally many on each, or set train.shard=full"):
        ranks_a_node(nodes)


def test_cpus_behind_nccl_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    recipe = load_recipe(QUICKSTART, ["train.shard=full", "train.device=cpu"])
    with pytest.raises(MismatchError, match=r"NCCL.*set train.device=cuda or train.shard=none"):
        check_ranks(recipe, Processes(num=2))
    for way_out in ("train.device=cuda", "train.shard=none"):
        check_ranks(load_recipe(QUICKSTART, ["train.shard=full", way_out]), Processes(num=2))
