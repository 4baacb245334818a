"""generate --estimate: a few answers are asked first, once; what they tell of the rest, through each kind of teacher."""

import json

import numpy as np
import pytest
from log_helpers import read_row_logs
from run_helpers import QUICKSTART
from server_helpers import TEACHER

from distill import generate
from distill.__main__ import main, read
from distill.core.jsonl import write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.formats.gguf.write import write_gguf
from distill.pilot import estimate, probe
from distill.pilot.pilot_sample import Measured, in_random_order
from distill.recipe import load_recipe
from distill.recipe.sections import Generate
from distill.teachers.server.budget import Usage

FEW = [
    "generate.num_prompts=40",
    "generate.max_new_tokens=48",
    "generate.sampling_temperature=1.5",
    "evaluate.num_examples=5",
]


def recipe_of(folder, *more):
    return load_recipe(QUICKSTART, [*FEW, f"run_folder={folder}", *more])


def reckon(folder, num, *more):
    recipe = recipe_of(folder, *more)
    ((_, found),) = estimate.estimates(recipe, RunFolder.of(recipe), num, Processes())
    return found, estimate.text(recipe, found)


def logged(folder):
    rows = read_row_logs(folder / "generate/raw")[0]
    assert len({row["key"] for row in rows}) == len(rows), "nothing is asked twice"
    return rows


def test_a_few_are_asked_once_and_generate_asks_the_rest(tmp_path, monkeypatch):
    found, said = reckon(tmp_path, 8)
    assert (
        len(logged(tmp_path)) == 8 == sum(found.languages.values())
        and max(found.languages.values()) <= 2
    )
    assert (
        f"{found.num_wanted} answers wanted, 8 of them on disk" in said
        and "answer tokens/s, measured on 8 answers" in said
    )

    with monkeypatch.context() as patch:
        patch.setattr(
            "distill.models.load.load_model",
            lambda *_, **__: pytest.fail("a second estimate asks nothing"),
        )
        again, same = reckon(tmp_path, 8)
        assert (again.lengths, again.measured, same) == (found.lengths, found.measured, said)
        reckon(tmp_path, 3)
        assert len(logged(tmp_path)) == 8, "fewer are among those"
    reckon(tmp_path, 12)
    assert len(logged(tmp_path)) == 12, "and more are those and four others"
    assert (
        not (tmp_path / "generate/manifest.json").exists()
        and not (tmp_path / "generate/kept.jsonl").exists()
    )

    before = {row["key"] for row in logged(tmp_path)}
    recipe = recipe_of(tmp_path)
    result = generate.run(recipe, RunFolder.of(recipe), Processes()).result
    rest = [row for row in logged(tmp_path) if row["key"] not in before]
    assert len(rest) + 12 == result.num_asked == found.num_wanted == found.usage["requests"][1] + 8
    done, said = reckon(tmp_path, 8)
    assert (
        done.lengths == found.lengths
        and all(not need.any() for need in done.usage.values())
        and "requests       0\n" in said
    )
    low, _, high = found.usage["answer tokens"]
    assert low < sum(len(row["token_ids"]) for row in logged(tmp_path)[8:]) < high


def test_a_probe_has_asked_them_already_and_keeps_its_verdicts(tmp_path):
    verdicts = probe.probe(recipe_of(tmp_path), RunFolder(tmp_path), 2, Processes())
    assert len(verdicts) == 5 and len(logged(tmp_path)) == 10
    found, _ = reckon(tmp_path, 10)
    assert (
        len(logged(tmp_path)) == 10
        and found.measured is not None
        and found.measured.num_answers == 10
    )
    assert json.loads((tmp_path / "generate/probe.json").read_text()).keys() == {
        "sha256",
        "groups",
        "taken",
        "verdicts",
    }


def test_a_gguf_teacher_is_asked_too_and_answers_of_a_run_need_no_time(tmp_path):
    write_gguf(TEACHER, tmp_path / "t.gguf", "f16", metadata={})
    found, said = reckon(tmp_path, 4, f"teacher.gguf={tmp_path / 't.gguf'}")
    assert (
        len(logged(tmp_path)) == 4
        and found.usage["hours"][1] > 0
        and "megabytes" not in said
        and "cost" not in said
    )
    (tmp_path / "generate/probe.json").unlink()
    found, said = reckon(tmp_path, 4, f"teacher.gguf={tmp_path / 't.gguf'}")
    assert found.measured is None and "hours" not in found.usage and "time is not measured" in said


def test_through_a_server_money_megabytes_and_the_limits_are_told(proxy, tmp_path, capsys):
    server = [f"teacher.server={proxy.url}", "generate.concurrency=3"]
    _, said = reckon(tmp_path, 6, *server)
    assert "set generate.price_prompt and generate.price_answer" in said and "stop it" not in said
    asked = [a for a in proxy.asked if a.get("n_predict", 0) > 2]
    prices = ["generate.price_prompt=1000", "generate.price_answer=4000"]
    limits = [
        "generate.max_requests=20",
        "generate.max_tokens=100000",
        "generate.max_megabytes=0.001",
        "generate.max_hours=9",
    ]
    found, said = reckon(tmp_path, 6, *server, *prices, *limits)
    assert (
        len(asked) == 6 == len(logged(tmp_path))
        and len([a for a in proxy.asked if a.get("n_predict", 0) > 2]) == 6
    )
    needs, taken = found.usage, found.measured
    assert taken is not None
    assert (
        1 <= taken.at_once <= 3
        and f"at most {taken.at_once} requests at once; generate.concurrency allows 3" in said
    )
    assert (taken.billed_prompt_tokens, taken.billed_answer_tokens) == pytest.approx(
        (taken.prompt_tokens, taken.answer_tokens), abs=6
    )
    assert taken.num_bytes > sum(len(json.dumps(a)) for a in asked)
    np.testing.assert_allclose(
        needs["cost"], (needs["prompt tokens"] + 4 * needs["answer tokens"]) / 1000
    )
    assert "generate.max_requests 20 would stop it before the end, after about" in said
    assert (
        "generate.max_tokens 100,000 is enough" in said
        and "generate.max_megabytes 0.001 would stop it" in said
    )
    assert "generate.max_hours 9.0 is enough" in said and "set generate.price" not in said

    command = [
        "generate",
        str(QUICKSTART),
        *FEW,
        f"run_folder={tmp_path}",
        *server,
        "--estimate",
        "6",
    ]
    assert main(command) == 0 and "told from 6 answers" in capsys.readouterr().out
    assert (
        main([*command, "--redo", "generate"]) == 2
        and "without --shard and --redo" in capsys.readouterr().err
    )
    assert len(logged(tmp_path)) == 6


def options_of(**more):
    return Generate.model_validate({"prompts": "p.jsonl", **more})


def test_what_is_billed_is_what_the_server_counts():
    """Hidden reasoning of a paid model is in its own count alone; a server that counts nothing is taken at the tokenizer's."""
    options, sure = options_of(price_answer=10.0), np.ones(3)
    taken = Measured(8, 80, 100, 50.0, 4, 18_000, 88, 700)
    needs = estimate.projected_usage(
        options, 1000 * sure, 10_000 * sure, np.array([9_000.0, 10_000.0, 12_000.0]), taken
    )
    assert needs["prompt tokens"][1] == 11_000 and list(needs["answer tokens"]) == [
        63_000,
        70_000,
        84_000,
    ]
    assert list(needs["cost"]) == [0.63, 0.70, 0.84] and needs["tokens"][1] == 81_000
    assert needs["megabytes"][1] == 2.0 and needs["hours"][1] == 5000 / 3600
    silent = estimate.projected_usage(
        options, sure, sure, sure, Measured(8, 80, 100, 50.0, 4, 18_000)
    )
    assert silent["tokens"][1] == 2 and estimate.projected_usage(
        options, sure, sure, sure, None
    ).keys().isdisjoint({"hours", "megabytes"})


def test_further_draws_and_written_prompts_are_counted_at_most():
    once = options_of(samples_per_prompt=2)
    assert list(estimate.further(once, 100, 0, 3, 8)) == [0, 0, 0] and list(
        estimate.further(once, 100, 10, 3, 8)
    ) == [30, 30, 30]
    tries = options_of(max_tries=5)
    low, mean, high = estimate.further(tries, 100, 0, 6, 8)
    assert mean == 100 and 0 < low < mean < high < 400, (
        "a quarter of the prompts is drawn four more times"
    )


def test_each_language_has_its_share_and_more_are_those_and_others():
    prompts = [
        Prompt(({"role": "user", "content": str(n)},), "sw" if n % 4 == 0 else "en")
        for n in range(80)
    ]
    eight = estimate.spread(prompts, 8)
    assert [sum(p.language == code for p in eight) for code in ("sw", "en")] == [2, 6]
    assert {p.id for p in eight} < {p.id for p in estimate.spread(prompts, 20)} and estimate.spread(
        prompts, 99
    ) == prompts
    assert eight == [p for p in prompts if p in eight], "in the order in which they are given"
    lot = in_random_order(prompts)["sw"]
    assert {p.id for p in eight if p.language == "sw"} == {p.id for p in lot[:2]} and lot != sorted(
        lot, key=prompts.index
    )


def test_the_command_takes_a_number_or_none():
    assert read(["generate", "r.yaml", "--estimate"]).estimate == 8 == estimate.NUM_PROMPTS
    assert read(["generate", "r.yaml", "--estimate", "20", "seed=3"]).overrides == ["seed=3"]
    assert read(["generate", "r.yaml"]).estimate is None


def test_where_all_prompts_are_written_by_the_teacher_there_is_nothing_to_tell_from(tmp_path):
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": "How many?", "language": "en"}])
    more = [
        "generate.prompts=[{expand: magpie, num: 4}]",
        f"evaluate.prompts={tmp_path / 'held_out.jsonl'}",
        "generate.task=null",
    ]
    with pytest.raises(DataError, match="before the teacher has written some"):
        reckon(tmp_path, 8, *more)


def test_the_estimate_says_what_will_be_too_much_long_reasoning():
    warning = "too much long reasoning, if all are like these: 2 of 4 samples"
    found = estimate.Estimate(
        10_000, 0, 0, [2000.0] * 4, {"en": 4}, {}, {}, None, Usage(), False, warning
    )
    assert f"warning: {warning}" in estimate.text(load_recipe(QUICKSTART), found)


def test_rounds_are_counted():
    lengths = [30.0, 50.0]
    found = estimate.Estimate(
        2000, 0, 0, lengths, {"en": 2}, {}, {}, None, Usage(), False, mean_prompt_tokens=60.0
    )
    overrides = ["rounds.num_rounds=3", "train.repeats=2", "generate.samples_per_prompt=2"]
    told = estimate.text(load_recipe(QUICKSTART, [*overrides, "train.validation_share=0.1"]), found)
    # 900 of 1,000 prompts are learnt; 6 rounds x 900 answers x 100 tokens
    assert (
        "up to 6 rounds" in told and "about 900 answers" in told and "540 thousand tokens" in told
    )
    few = [*overrides, "rounds.prompts_per_round=100", "rounds.answers_per_prompt=3"]
    assert "about 300 answers" in estimate.text(load_recipe(QUICKSTART, few), found)
