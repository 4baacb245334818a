"""The text that a student is cut by."""

import pytest
import torch
from conftest import tiny_qwen3
from cutting_helpers import Tokens, calibration, sample
from run_helpers import QUICKSTART

from distill.errors import DataError
from distill.models.head import head_of
from distill.models.score import score
from distill.recipe import load_recipe
from distill.shaping.calibration import NUM_SEQUENCES, Calibration, mean_nll

RECIPE = load_recipe(QUICKSTART, ["languages=[en, sw]"])


def test_the_samples_are_the_same_whatever_their_order_and_even_over_the_languages():
    samples = [sample(f"a{i}", "en", answer=5 + i) for i in range(60)]
    samples += [sample(f"b{i}", "sw", answer=90 + i) for i in range(15)]
    chosen = Calibration.of(RECIPE, samples, Tokens())
    assert chosen == Calibration.of(RECIPE, samples[::-1], Tokens())
    assert len(chosen.sequences) == NUM_SEQUENCES
    assert sum(s.num_answer_tokens >= 90 for s in chosen.sequences) == 15, "all of the rarer one"
    firsts = [s.num_answer_tokens >= 90 for s in chosen.first(8).sequences]
    assert firsts == [False, True] * 4


def test_a_long_sample_is_read_around_the_beginning_of_its_answer():
    (window,) = Calibration.of(RECIPE, [sample("a", prompt=1000, answer=500)], Tokens()).sequences
    assert (len(window.ids), window.answer_start) == (256, 128)
    assert window.ids[128] == 3 + 1000


def test_without_samples_nothing_is_cut():
    with pytest.raises(DataError, match=r"generate kept no sample.*student\.layers_by=even"):
        Calibration.of(RECIPE, [], Tokens())


def test_the_nll_is_that_of_the_answers_tokens():
    model, text = tiny_qwen3(), calibration()
    scored = score(model, head_of(model), text.sequences, batch_tokens=10, pad_id=0, vocab_size=300)
    logp = torch.cat([logp for _, logp, _ in scored])
    assert len(logp) == text.num_answer_tokens
    assert mean_nll(model, text) == pytest.approx(-logp.mean().item(), abs=1e-6)
