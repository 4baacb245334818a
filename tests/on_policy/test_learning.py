"""How the student of a round learns: which of train's options it has, and at which learning rate."""

import pytest
from run_helpers import QUICKSTART

from distill.on_policy.learning import LEARNING_RATE_SHARE, options_of
from distill.recipe import load_recipe


def peaks(*overrides: str) -> list[float]:
    recipe = load_recipe(QUICKSTART, ["rounds.num_rounds=4", *overrides])
    return [options_of(recipe, number).learning_rate for number in range(1, 5)]


def test_every_round_has_the_same_peak_unless_it_is_to_fall():
    own = load_recipe(QUICKSTART).train.learning_rate
    assert peaks() == [LEARNING_RATE_SHARE * own] * 4
    assert peaks("rounds.learning_rate=6e-4") == [6e-4] * 4
    falling = peaks("rounds.learning_rate=6e-4", "rounds.learning_rate_decay=inverse")
    assert falling == pytest.approx([6e-4, 4e-4, 3e-4, 2.4e-4])


def test_a_recipe_without_decay_is_the_one_that_it_was_before_there_was_any():
    options = load_recipe(QUICKSTART, ["rounds.num_rounds=2"]).rounds
    assert options is not None
    assert "learning_rate_decay" not in options.for_one_round()
    falling = options.model_copy(update={"learning_rate_decay": "inverse"})
    assert falling.for_one_round()["learning_rate_decay"] == "inverse"
