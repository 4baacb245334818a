"""The section `generate`: limits and numbers that contradict each other are refused."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe


def test_a_limit_of_cost_without_prices_is_refused():
    assert "max_cost 20 without prices stops nothing" in problem("generate.max_cost=20")
    load_recipe(QUICKSTART, ["generate.max_cost=20", "generate.price_answer=1.2"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generate.judge_server=http://h"], "judge_server and judge_model belong together"),
        (
            ["generate.judge_server=http://h", "generate.judge_model=m"],
            "judge_server without judge_min_score judges nothing",
        ),
        (["generate.task=python_tests"], "set run_code to sandboxed to allow that"),
        (
            ["generate.max_tries=1", "generate.samples_per_prompt=2"],
            "max_tries 1 is less than samples_per_prompt 2: raise it",
        ),
        (["generate.keep_per_prompt=2"], "keep_per_prompt 2 is more than samples_per_prompt 1"),
        (
            ["generate.max_tries=3", "generate.sampling_temperature=0"],
            "would draw the same answer again: raise the temperature",
        ),
    ],
)
def test_numbers_and_names_that_contradict_each_other_are_refused(overrides, message):
    assert message in problem(*overrides)
