"""What several teachers may spend: each its own, and all together what the recipe allows."""

import pytest
from run_helpers import QUICKSTART

from distill.core.jsonl import RowLog
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.server.budget import Usage

SERVERS = (
    "{name: a, model: m/a, server: 'http://h:1', server_gives: text, languages: [en, zh], "
    "price_answer: 100, max_cost: 0.01}, "
    "{name: b, model: m/b, server: 'http://h:2', server_gives: text}"
)
NEXT = Usage(1, 0, 1, 0, 0.0)


def teachers_of(folder, *more):
    recipe = load_recipe(
        QUICKSTART,
        [
            "teacher=null",
            f"teachers=[{SERVERS}]",
            f"student={{method: base, model: {QUICKSTART.parent}/quickstart/teacher}}",
            "capture.signal=none",
            "train.soft_weight=0",
            "train.hard_weight=1",
            f"run_folder={folder}",
            *more,
        ],
    )
    return [connect(view) for view in recipe.views]


def answered(folder, model, num_tokens, **server):
    with RowLog(folder / "generate/raw") as log:
        used = {"requests": 1, "prompt_tokens": 0, "answer_tokens": num_tokens, "bytes": 9}
        log.append({"key": "k", "teacher": model, "server_model": None, "server": used | server})


def test_each_has_its_own_limit_and_the_others_use_counts_to_it_nothing(tmp_path):
    answered(tmp_path, "m/b", 10_000)
    a, b = teachers_of(tmp_path)
    assert a.budget.limit_reached(NEXT) is None and b.budget.limit_reached(NEXT) is None
    answered(tmp_path, "m/a", 99)
    assert teachers_of(tmp_path)[0].budget.limit_reached(NEXT) is None
    answered(tmp_path, "m/a", 1)
    a, b = teachers_of(tmp_path)
    assert a.budget.limit_reached(NEXT) == "a: max_cost (0.0100 of 0.01)"
    assert b.budget.limit_reached(NEXT) is None


def test_the_recipes_limit_is_of_all_together_each_at_its_own_price(tmp_path):
    more = ("generate.max_cost=0.02", "generate.price_answer=1")
    answered(tmp_path, "m/a", 90)  # 0.009
    answered(tmp_path, "m/b", 10_000)  # 0.01
    for teacher in teachers_of(tmp_path, *more):
        assert teacher.budget.limit_reached(NEXT) is None
        assert teacher.budget.usage_log.total().cost == pytest.approx(0.019)
    answered(tmp_path, "m/b", 1_000)
    for teacher in teachers_of(tmp_path, *more):
        assert teacher.budget.limit_reached(NEXT).startswith("max_cost (0.0200 of 0.02")


def test_what_is_in_flight_counts_to_both(tmp_path):
    a, _ = teachers_of(tmp_path, "generate.max_requests=2")
    a.budget.in_flight = Usage(0, 0, 0, 0, 0.0095)
    assert not a.budget.fits(Usage(1, 0, 10, 0, 0.001))
    assert a.budget.fits(Usage(1, 0, 1, 0, 0.0001))
