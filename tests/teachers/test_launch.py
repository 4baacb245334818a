"""Several processes and a teacher that one of them spreads over all GPUs."""

import pytest
import torch
from run_helpers import QUICKSTART

from distill import pipeline
from distill.core.processes import Processes
from distill.errors import MismatchError
from distill.recipe import load_recipe
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
