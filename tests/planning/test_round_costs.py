"""What the plan says of rounds: what they ask for, how long their parts take, and their share of the run."""

import re

import pytest
from run_helpers import QUICKSTART

from distill.pipeline import PLANNED
from distill.plan import stage_costs
from distill.planning.costs import Workload
from distill.planning.machine import GB, Machine
from distill.planning.round_costs import rounds_demand, rounds_seconds, rounds_warning
from distill.recipe import load_recipe

GPU = Machine(16, 64 * GB, 1e12, "RTX 3090", 24 * GB, 4.5e13, 9.4e11, num_gpus=8)
CPU = Machine(8, 64 * GB, 1e12, None, 0.0, 1e11)
ROUNDS = ["rounds.num_rounds=3", "rounds.prompts_per_round=100", "generate.num_prompts=1000"]


def work(*overrides, machine=GPU):
    return Workload.of(load_recipe(QUICKSTART, [*ROUNDS, *overrides]), machine)


def test_answers_samples_and_validations_are_those_of_all_rounds_and_repeats():
    demand = rounds_demand(work("rounds.answers_per_prompt=2", "rounds.num_validated=7"))
    assert (demand.rounds, demand.answers, demand.samples) == (3, 600, 600 / 0.5)
    assert (demand.validations, demand.validated) == (4, 7), "the student before any round, too"
    repeated = rounds_demand(work("train.repeats=2", "train.validation_share=0.1"))
    assert (repeated.rounds, repeated.answers) == (6, 600)
    assert repeated.validations == 8
    few = work("rounds.prompts_per_round=null", "train.validation_share=0.1")
    asked = few.demand.num_answers
    assert rounds_demand(few).validated == pytest.approx(0.1 * asked)
    assert rounds_demand(few).answers == pytest.approx(3 * 0.9 * asked)


def test_validation_takes_longer_the_more_prompts_and_rounds_it_has():
    at = {n: rounds_seconds(work(f"rounds.num_validated={n}")).validating for n in (20, 40)}
    assert 0 < at[20] < at[40]
    more = rounds_seconds(work("rounds.num_validated=20", "rounds.num_rounds=7")).validating
    assert more == pytest.approx(2 * at[20])


@pytest.mark.parametrize("machine", [GPU, CPU], ids=["gpus", "cpu"])
@pytest.mark.parametrize("num", [1, 4, 8])
def test_their_share_of_the_run_is_that_of_as_many_processes_as_it_has(machine, num):
    made = work(f"num_processes={num}", machine=machine)
    costs = {name: cost.seconds for name, cost in stage_costs(made, PLANNED).items()}
    seconds = rounds_seconds(made).divided(num if machine is GPU else 1)
    assert seconds.in_all == pytest.approx(costs["rounds"])
    told = rounds_warning(made, sum(costs.values())) or ""
    rest = sum(costs.values()) - costs["rounds"]
    (percent,) = re.findall(r"\+(\d+)% of the time without rounds", told)
    assert int(percent) == pytest.approx(100 * costs["rounds"] / rest, abs=0.51)


def test_processes_divide_all_but_the_validation():
    seconds = rounds_seconds(work())
    of_four = seconds.divided(4)
    assert of_four.in_all == pytest.approx(
        (seconds.in_all - seconds.validating) / 4 + seconds.validating
    )


def test_a_recipe_without_rounds_has_nothing_to_be_told():
    assert rounds_warning(work("rounds=null"), 100.0) is None
