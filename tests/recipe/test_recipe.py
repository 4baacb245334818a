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


def test_a_newer_field_counts_only_where_it_is_used():
    before = load_recipe(QUICKSTART).student.identity()
    assert "vocabulary" not in before, "a folder that was made before the field stays valid"
    trimmed = load_recipe(QUICKSTART, ["student.vocabulary={size: 512}"]).student.identity()
    assert trimmed == {**before, "vocabulary": trimmed["vocabulary"]}
    assert trimmed["vocabulary"]["size"] == 512
    once = load_recipe(QUICKSTART).train.identity()
    repeated = load_recipe(QUICKSTART, ["train.repeats=3"]).train.identity()
    assert "repeats" not in once and repeated == {**once, "repeats": 3}


def test_what_a_race_may_use_changes_nothing_that_a_run_makes():
    before = load_recipe(QUICKSTART).student.identity()
    for override in ("student.budget_mb=500", "student.parameters=1000000"):
        assert load_recipe(QUICKSTART, [override]).student.identity() == before
