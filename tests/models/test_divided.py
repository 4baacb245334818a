"""A model in parts on two gloo ranks: the same as on one within rounding, and nobody waits for ever."""

import pytest
import torch
from sharding_helpers import ranks
from team_helpers import CASES, hold_models, loaded, measured, save_models


# of logits and states of size 1; float64: what rounds in them are tables of float32 in the models
TOLERANCE = {"float32": 2e-6, "float64": 1e-6}
NUMBERS = ("states", "log-probs", "choices")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The folder in which two ranks left what they found."""
    folder = tmp_path_factory.mktemp("held")
    save_models(folder)
    started = ranks(hold_models, 2, folder)
    results = [one.result(120) for one in started]
    assert [r.returncode for r in results] == [0, 0], (
        results[0].stderr[-3000:] + results[1].stderr[-3000:]
    )
    return folder


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_in_parts_a_model_says_what_it_says_whole(held, name, dtype):
    whole = measured(loaded(held / name, dtype))
    parts = torch.load(held / f"{name}-{dtype}-parts.pt")
    for what in NUMBERS:
        print(name, dtype, what, float((parts[what] - whole[what]).abs().max()))
        assert (parts[what] - whole[what]).abs().max() <= TOLERANCE[dtype], what
    assert parts["sampled"] == whole["sampled"] and len(whole["sampled"]) == 4
    assert parts["greedy"] == whole["greedy"]
    assert whole["told"] is None and parts["told"].startswith(
        "its weights are divided over 2 processes (tensor parallel"
    )
    assert ("of 8 experts each holds 4" in parts["told"]) == (
        name in ("qwen3-moe", "deepseek-v3.1")
    )


def test_what_a_callback_raises_ends_the_work_on_all_ranks_and_the_next_goes_on(held):
    were_raised, answers = torch.load(held / "broken.pt")
    assert were_raised == [True, True]
    assert answers == torch.load(held / "tied-float32-parts.pt")["sampled"]
    assert (held / "stopped.txt").read_text() == "stopped by SIGTERM"
