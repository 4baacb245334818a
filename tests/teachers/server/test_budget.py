"""The usage_log: what all runs and jobs of a run folder have budget, told by their logs."""

import json
from dataclasses import replace

import pytest
from log_helpers import read_row_logs
from run_helpers import QUICKSTART

from distill import generate
from distill.core.jsonl import RowLog
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.errors import Stopped
from distill.recipe import load_recipe
from distill.recipe.sections import Generate
from distill.teachers.server import budget
from distill.teachers.server.budget import FREE, AnswerUsage, Budget, Prices, Usage, UsageLog

OPTIONS = Generate(prompts="p.jsonl", price_prompt=1.0, price_answer=2.0)
PRICES, JUDGES = Prices(1.0, 2.0), Prices(0.0, 10.0)
USED = AnswerUsage(2, 100, 50, 900, 0.5, 1.0, 2.5, "served")


def usage_log(folder):
    return UsageLog(
        {folder / "raw": PRICES, folder / "raw_prompts": PRICES, folder / "judged": JUDGES}
    )


def row(**more):
    return {
        "key": "k",
        "teacher": "t",
        "token_ids": [1, 2, 3],
        "finish_reason": "stop",
        "server_model": None,
        **more,
    }


def write(folder, *rows):
    with RowLog(folder) as log:
        for r in rows:
            log.append(r)
    return log.path


def test_every_log_of_the_stage_counts_as_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "LOOK_SECONDS", 0.0)
    log = usage_log(tmp_path)
    assert log.total() == Usage()
    write(tmp_path / "raw", row(server=USED.row()))
    other = write(tmp_path / "raw_prompts", row(server=USED.row()), row(server=USED.row()))
    assert log.total() == Usage(6, 300, 150, 2700, 1.5)
    with open(other, "ab") as f:
        f.write(b'{"key": "half an ans')  # somebody is writing it
        f.flush()
        assert log.total() == Usage(6, 300, 150, 2700, 1.5)
    mine = write(tmp_path / "raw", row(server=USED.row()))
    log.leave_out(mine)
    assert log.total().requests == 6, "this process knows itself what it spends"


def test_rows_of_each_kind_are_counted_for_what_they_say(tmp_path):
    write(
        tmp_path / "raw",
        row(),
        row(server={k: v for k, v in USED.row().items() if k != "cost"}),
    )
    found = usage_log(tmp_path).total()  # one of this machine; one without prices
    assert (found.requests, found.prompt_tokens, found.answer_tokens, found.num_bytes) == (
        2,
        100,
        50,
        900,
    )
    assert found.cost == pytest.approx(200e-6)
    write(
        tmp_path / "judged",
        row(server={"requests": 1, "prompt_tokens": 9, "answer_tokens": 1, "bytes": 5}),
    )
    assert usage_log(tmp_path).total().cost == pytest.approx(200e-6 + 10e-6), (
        "the judge by its own prices"
    )


@pytest.mark.parametrize("field", ["requests", "prompt_tokens", "answer_tokens", "bytes", "cost"])
def test_a_number_below_0_in_a_log_gives_nothing_back(field, tmp_path):
    """Earlier versions wrote down what a server made up."""
    write(tmp_path / "raw", row(server=USED.row()), row(server=USED.row() | {field: -(10**9)}))
    found = usage_log(tmp_path).total()
    assert found.requests >= 2 and found.prompt_tokens >= 100 and found.answer_tokens >= 50
    assert found.num_bytes >= 900 and found.cost >= 0.5


def test_what_others_have_spent_is_spent(tmp_path):
    write(tmp_path / "raw", row(server=USED.row()))
    options = OPTIONS.model_copy(update={"max_tokens": 200})
    budget = Budget(options, usage_log(tmp_path), own=Usage(1, 10, 10))
    assert budget.limit_reached(Usage(1, 10, 20)) is None
    assert (
        budget.limit_reached(Usage(1, 10, 21))
        == "max_tokens (170 of 200, and one more answer may take 31)"
    )


def test_a_limit_holds_for_the_run_folder_and_rows_say_what_they_took(proxy, tmp_path):
    """Two runs under one limit spend it once; a person who raises it goes on."""

    def run(most):
        recipe = load_recipe(
            QUICKSTART,
            [
                f"run_folder={tmp_path}",
                f"teacher.server={proxy.url}",
                "generate.num_prompts=40",
                "generate.max_new_tokens=24",
                "generate.sampling_temperature=0",
                "generate.concurrency=3",
                "generate.price_prompt=1",
                "generate.price_answer=2",
                f"generate.max_tokens={most}",
            ],
        )
        with pytest.raises(Stopped, match=r"generate\.max_tokens"):
            generate.run(recipe, RunFolder.of(recipe), Processes())
        return read_row_logs(tmp_path / "generate/raw")[0]

    rows = run(1000)
    num = len(rows)
    assert (
        sum(r["server"]["prompt_tokens"] + r["server"]["answer_tokens"] for r in rows) <= 1000
        and num > 3
    )
    assert len(run(1000)) <= num + 1, (
        "the second run has what is left: its first request to know the server is paid for as well"
    )
    assert num + 3 < len(run(2000)) and len({r["key"] for r in rows}) == len(rows)
    for r in rows:
        usage = r["server"]
        assert (
            usage["requests"] == 1
            and usage["answer_tokens"] >= len(r["token_ids"]) - 1 > 0
            and usage["bytes"] > 100
        )
        assert usage["cost"] == pytest.approx(
            (usage["prompt_tokens"] + 2 * usage["answer_tokens"]) / 1e6, abs=1e-8
        )
        assert 0 < usage["start"] <= usage["end"] and json.dumps(usage)


def test_every_limit_is_named_when_it_is_reached():
    budget = Budget(
        Generate(prompts="p.jsonl"), own=Usage(10, 2_000_000, 1_000_000, 5_000_000, 3.0)
    )

    def reached(**limits):
        limits = Generate(prompts="p.jsonl", price_prompt=0.5, price_answer=2.0, **limits)
        return replace(budget, limits=limits).limit_reached(one_more)

    one_more = budget.need(100, 1000, Prices(0.5, 2.0))
    assert one_more == Usage(1, 100, 1000, 500_000, 0.00205)
    assert reached() is None
    for name, limit in [
        ("max_requests", 10),
        ("max_tokens", 3_000_000),
        ("max_cost", 3.0),
        ("max_megabytes", 5.0),
    ]:
        assert (reached(**{name: limit}) or "").startswith(f"{name} (")
        assert reached(**{name: limit + 1}) is None or name == "max_tokens"
    budget.started -= 7200
    assert (reached(max_hours=2) or "").startswith("max_hours")


def test_one_more_must_fit_beside_those_in_flight():
    budget = Budget(Generate(prompts="p.jsonl", max_tokens=1000), own=Usage(2, 100, 300))
    need = budget.need(50, 200, FREE)
    assert budget.fits(need)
    budget.in_flight.add(need)
    assert budget.fits(need), "100 + 300 + 250 + 250"
    budget.in_flight.add(need)
    assert not budget.fits(need) and budget.limit_reached(need) is None, (
        "it may when those are back"
    )
    assert (
        budget.limit_reached(Usage(1, 50, 600))
        == "max_tokens (400 of 1000, and one more answer may take 650)"
    )


def test_an_answer_takes_no_negative_time_where_the_clock_is_set_back(monkeypatch):
    usage = AnswerUsage()
    usage.begin()
    monkeypatch.setattr("time.time", lambda: 1.0)
    usage.begin()  # a second try
    usage.finish()
    assert usage.start > 1e9 and 0 <= usage.end - usage.start < 60
