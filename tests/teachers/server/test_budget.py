"""The ledger: what all runs and jobs of a run folder have spent, told by their logs."""

import json

import pytest
from run_helpers import QUICKSTART

from distill import generate
from distill.core.jsonl import RowLog, read_row_logs
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.errors import Stopped
from distill.recipe import load_recipe
from distill.recipe.sections import Generate
from distill.teachers.server import budget
from distill.teachers.server.budget import Amount, Ledger, Spent, Took

OPTIONS = Generate(
    prompts="p.jsonl",
    price_prompt=1.0,
    price_answer=2.0,
    judge_price_answer=10.0,
    judge_price_prompt=0.0,
)
TOOK = Took(2, 100, 50, 900, 0.5, 1.0, 2.5, "served")


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
    ledger = Ledger(tmp_path, OPTIONS)
    assert ledger.total() == Amount()
    write(tmp_path / "raw", row(server=TOOK.row()))
    other = write(tmp_path / "raw_prompts", row(server=TOOK.row()), row(server=TOOK.row()))
    assert ledger.total() == Amount(6, 300, 150, 2700, 1.5)
    with open(other, "ab") as f:
        f.write(b'{"key": "half an ans')  # somebody is writing it
        f.flush()
        assert ledger.total() == Amount(6, 300, 150, 2700, 1.5)
    mine = write(tmp_path / "raw", row(server=TOOK.row()))
    ledger.leave_out(mine)
    assert ledger.total().requests == 6, "this process knows itself what it spends"


def test_rows_of_each_kind_are_counted_for_what_they_say(tmp_path):
    write(
        tmp_path / "raw",
        row(),
        row(server={k: v for k, v in TOOK.row().items() if k != "cost"}),
    )
    found = Ledger(tmp_path, OPTIONS).total()  # one of this machine; one without prices
    assert (found.requests, found.prompt_tokens, found.answer_tokens, found.num_bytes) == (
        2,
        100,
        50,
        900,
    )
    assert found.cost == pytest.approx(200e-6)
    write(
        tmp_path / "judged",
        row(
            teacher="judge/big",
            server={"requests": 1, "prompt_tokens": 9, "answer_tokens": 1, "bytes": 5},
        ),
    )
    assert Ledger(tmp_path, OPTIONS).total().cost == pytest.approx(200e-6 + 10e-6), (
        "the judge by its own prices"
    )


def test_what_others_have_spent_is_spent(tmp_path):
    write(tmp_path / "raw", row(server=TOOK.row()))
    options = OPTIONS.model_copy(update={"max_tokens": 200})
    spent = Spent(Ledger(tmp_path, options), mine=Amount(1, 10, 10))
    assert spent.full(options, Amount(1, 10, 20)) is None
    assert (
        spent.full(options, Amount(1, 10, 21))
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
        took = r["server"]
        assert (
            took["requests"] == 1
            and took["answer_tokens"] >= len(r["token_ids"]) - 1 > 0
            and took["bytes"] > 100
        )
        assert took["cost"] == pytest.approx(
            (took["prompt_tokens"] + 2 * took["answer_tokens"]) / 1e6, abs=1e-8
        )
        assert 0 < took["start"] <= took["end"] and json.dumps(took)
