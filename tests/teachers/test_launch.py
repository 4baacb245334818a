"""Several processes and a teacher that one of them spreads over all GPUs, or that several hold together."""

from dataclasses import dataclass

import pytest
import torch
from run_helpers import QUICKSTART

from distill import pipeline
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.core.teams import in_teams
from distill.errors import MismatchError, RecipeError
from distill.pilot import probe
from distill.race import shape
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.launch import check_teachers_processes

ASKS = ["generate", "capture", "rounds", "evaluate", "benchmark", "safety"]


def recipe_of(*more):
    return load_recipe(QUICKSTART, ["teacher.device=auto", *more])


def test_several_are_refused_before_anything_is_asked_where_each_would_take_all_gpus(monkeypatch):
    spread = recipe_of("teacher.device_map=auto")
    check_teachers_processes(spread, Processes(num=4))  # no GPU here: each has the whole
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    stages = {stage.name: stage for stage in pipeline.STAGES}
    for name in ASKS:
        with pytest.raises(MismatchError, match="4 processes, each of which would take all GPUs"):
            stages[name].check_launch(spread, Processes(num=4))
        stages[name].check_launch(spread, Processes())
        stages[name].check_launch(recipe_of(), Processes(num=4))
    for name in ("initialize", "train"):
        stages[name].check_launch(spread, Processes(num=4))


@dataclass(frozen=True)
class Launched(Processes):
    """Processes without the others: what these would tell of their nodes."""

    nodes: str = ""

    def gathered(self, value):
        return list(self.nodes) or [value] * self.num


PARTS = "teacher.tensor_parallel=3"


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launched(), "there are 1: .*--num_processes 3 "),
        (Launched(num=4), "there are 4: .*--num_processes 6 "),
        (
            Launched(num=6, nodes="aabbbb"),
            r"processes 0 to 2 .* several nodes.*multiple of 3 on each",
        ),
        (Launched(num=3, nodes="aab"), "several nodes"),
    ],
)
def test_a_launch_that_cannot_hold_the_teacher_together_is_refused(launch, message):
    held = recipe_of(PARTS)
    stages = {stage.name: stage for stage in pipeline.STAGES}
    for name in ASKS:
        with pytest.raises(MismatchError, match=message):
            stages[name].check_launch(held, launch)
        stages[name].check_launch(held, Launched(num=6, nodes="aaabbb"))
        stages[name].check_launch(recipe_of("teacher.tensor_parallel=1"), launch)
    for name in ("initialize", "train"):
        stages[name].check_launch(held, launch)


def test_heads_that_so_many_cannot_share_and_gpus_that_cannot_talk_are_refused(monkeypatch):
    with pytest.raises(
        MismatchError, match=r"6 attention heads and 3 key/value heads.* set it to 3"
    ):
        check_teachers_processes(recipe_of("teacher.tensor_parallel=4"), Launched(num=4))
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    on_cpu = recipe_of(PARTS, "teacher.device=cpu")
    with pytest.raises(MismatchError, match=r"NCCL.*set teacher.device=cuda, or"):
        check_teachers_processes(on_cpu, Launched(num=3))
    check_teachers_processes(recipe_of(PARTS, "teacher.device=cuda"), Launched(num=3))


def test_a_teacher_on_a_server_or_in_a_file_is_held_by_nobody(tmp_path):
    served = recipe_of(
        "teacher.server=http://h:1",
        "teacher.tensor_parallel=2",
        "capture.signal=none",
        "train.soft_weight=0",
        "train.hard_weight=1",
    )
    assert served.team_size == 1 and recipe_of(PARTS).team_size == 3
    check_teachers_processes(served, Launched(num=3))


def test_commands_of_one_process_say_so_and_nobody_loads_the_whole(tmp_path):
    held = recipe_of(PARTS, f"run_folder={tmp_path / 'run'}", "student.budget_mb=500")
    with pytest.raises(RecipeError, match=r"shape races by one process: set it to null"):
        shape.run(held)
    with pytest.raises(MismatchError, match="there are 1: start them with"):
        probe.run(held, num=1)
    with pytest.raises(MismatchError, match="one process asks it here; set it to null"):
        connect(held, RunFolder(tmp_path)).load()


def test_processes_that_no_team_divides_stay_as_they_are():
    for launch, size in ((Processes(num=4), 1), (Processes(num=5), 2), (Processes(), 2)):
        assert in_teams(launch, size) is launch
