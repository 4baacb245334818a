"""scripts/measure_seeds.py: a seed trained anew from a run's answers and signals, and the table over seeds."""

import json

import pytest
from run_helpers import QUICKSTART, SMALL, script


@pytest.fixture(scope="module")
def measure_seeds():
    return script("measure_seeds")


def test_the_runs_own_seed_gives_its_own_figures_and_is_not_trained_twice(
    measure_seeds, finished, tmp_path, capsys
):
    out = tmp_path / "seeds.jsonl"
    asked = [str(QUICKSTART), str(finished), "--out", str(out), "--seeds", "1", "--more", "3"]
    measure_seeds["main"]([*asked, *SMALL])
    (line,) = map(json.loads, out.read_text().splitlines())
    assert list(line["roles"]) == ["student", "control"]
    for role, measured in line["roles"].items():
        own = json.loads((finished / "evaluate" / f"{role}.json").read_text())
        assert measured["exact_match"] == own["exact_match"]
        assert measured["nll"] == pytest.approx(own["nll"], abs=1e-4)
        assert len(measured["right"]) == len(own["examples"]) + 3
    written = out.read_bytes()
    measure_seeds["main"]([*asked, *SMALL])
    assert out.read_bytes() == written and "| student | 1 |" in capsys.readouterr().out


def test_a_seed_whose_recipe_has_rounds_is_measured_before_and_after_them(
    measure_seeds, finished, tmp_path
):
    out = tmp_path / "seeds.jsonl"
    asked = [str(QUICKSTART), str(finished), "--out", str(out), "--seeds", "1", *SMALL]
    measure_seeds["main"]([*asked, "rounds.num_rounds=1", "rounds.prompts_per_round=8"])
    (line,) = map(json.loads, out.read_text().splitlines())
    assert list(line["roles"]) == ["student", "control", "rounds"]
    rounds = line["roles"]["rounds"]
    assert [made["validation"] is not None for made in rounds["rounds"]] == [True, True]
    assert rounds["num_tokens"] > 0 and rounds["seconds"] > 0
    kept_first = rounds["best"] == 0
    assert (rounds["nll"] == line["roles"]["student"]["nll"]) == kept_first


def test_the_table_has_mean_and_deviation_over_the_seeds_of_a_setting(measure_seeds):
    def line(setting, seed, exact_match):
        figures = {"exact_match": exact_match, "more": None, "nll": 0.25, "seconds": 9.0}
        return {"setting": setting, "seed": seed, "roles": {"student": figures}}

    lines = [line("", 1, 0.5), line("train.epochs=9", 1, 0.9), line("", 2, 0.6)]
    assert measure_seeds["summary"](lines).splitlines()[2:] == [
        "| as it is | student | 2 | 55.0 ± 7.1 | - | 0.2500 ± 0.0000 | 9 ± 0 |",
        "| train.epochs=9 | student | 1 | 90.0 | - | 0.2500 | 9 |",
    ]
