"""The recipe itself: its name, its files, and what decides a stage's result."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.errors import MissingError
from distill.recipe import load_recipe


def test_a_name_cannot_leave_the_runs_folder():
    assert "name: '../x'" in problem("name=../x")


def test_a_missing_model_folder_is_named():
    recipe = load_recipe(QUICKSTART, ["teacher.model=./not/here"])
    with pytest.raises(MissingError, match=r"no config\.json in .*not/here"):
        recipe.model_location(recipe.teacher.model)


def test_fields_about_the_machine_do_not_make_a_stage_stale():
    slow = load_recipe(QUICKSTART, ["train.checkpoint_minutes=1", "train.micro_batch_tokens=512"])
    assert slow.train.identity() == load_recipe(QUICKSTART).train.identity()
    other = load_recipe(QUICKSTART, ["train.learning_rate=1" + "e-5"])
    assert other.train.identity() != slow.train.identity()


def test_a_field_that_came_later_does_not_make_older_run_folders_stale():
    """Where it is as before it was there, in the section and in the whole recipe."""
    once, often = load_recipe(QUICKSTART), load_recipe(QUICKSTART, ["train.repeats=3"])
    assert "repeats" not in once.train.identity() and "repeats" not in once.identity()["train"]
    assert often.train.identity() == {**once.train.identity(), "repeats": 3}
    assert often.identity()["train"]["repeats"] == 3
    assert "checkpoint_minutes" in once.identity()["train"], "what a machine does is planned for"
