"""The usage_log: what all runs and jobs of a run folder have budget, told by their logs."""

import json

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
from distill.teachers.server.budget import AnswerUsage, Budget, Prices, Usage, UsageLog

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
