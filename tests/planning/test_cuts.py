"""What a plan says of a student that is cut out of a bigger model."""

import pytest
from run_helpers import QUICKSTART

from distill.planning.costs import Workload
from distill.planning.cuts import choice_seconds, deep_cut
from distill.planning.machine import Machine
from distill.recipe import load_recipe

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
MACHINE = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)


def recipe_with(**student):
    words = ", ".join(f"{name}: {value}" for name, value in student.items())
    return load_recipe(QUICKSTART, [f"student={{model: {TEACHER}, {words}}}"])


@pytest.mark.parametrize(
    ("share", "num_layers", "named"),
    [(0.5, 30, "keeps 15 of 30 layers"), (0.66, 28, "0.68 keeps 19"), (0.5, 4, "0.75 keeps 3")],
)
def test_a_cut_of_more_than_a_third_is_warned_of(share, num_layers, named):
    recipe = recipe_with(method="layers", layer_share=share)
    warning = deep_cut(recipe, num_layers)
    assert warning and named in warning and "student.vocabulary" in warning
    least = float(warning.partition("training. ")[2].split()[0])
    assert deep_cut(recipe_with(method="layers", layer_share=least), num_layers) is None


@pytest.mark.parametrize("student", [{"method": "base"}, {"method": "layers", "layer_share": 0.7}])
def test_a_smaller_cut_is_none_to_warn_of(student):
    assert deep_cut(recipe_with(**student), 30) is None


def test_choosing_layers_takes_time_where_the_model_is_read():
    seconds = {
        by: choice_seconds(Workload.of(recipe_with(method="layers", layers_by=by), MACHINE))
        for by in ("even", "last", "block_influence", "nll")
    }
    assert seconds["even"] == seconds["last"] == 0 < seconds["block_influence"] < seconds["nll"]
