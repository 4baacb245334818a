"""Which layers stay, by each criterion."""

import signal

import pytest
import torch
from conftest import tiny_qwen3
from cutting_helpers import calibration, with_layers

from distill.core import shutdown
from distill.errors import Stopped
from distill.shaping.calibration import mean_nll
from distill.shaping.layer_choice import block_influences, chosen_layers, least_nll

CRITERIA = ["even", "last", "block_influence", "nll"]


def model_of_six():
    """A model whose layers do something, and not all the same."""
    model = tiny_qwen3(layers=6)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight *= 3 + number % 4
            layer.self_attn.o_proj.weight *= 2 + 3 * (number % 3)
    return model


@pytest.mark.parametrize("by", CRITERIA)
def test_all_layers_kept_change_no_bit(by):
    model, text = model_of_six(), calibration()
    kept = chosen_layers(model, 1.0, by, text)
    assert kept == list(range(6))
    ids = torch.arange(3, 20)[None]
    assert torch.equal(with_layers(model, kept)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("by", CRITERIA)
def test_so_many_layers_stay_as_the_share_says_in_their_order(by):
    kept = chosen_layers(model_of_six(), 0.5, by, calibration())
    assert len(kept) == 3 and kept == sorted(kept)
    assert kept == {"even": [0, 2, 5], "last": [0, 1, 2]}.get(by, kept)


def test_a_layer_that_changes_nothing_goes_first():
    model, text = model_of_six(), calibration()
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.zero_()
        model.model.layers[3].self_attn.o_proj.weight.zero_()
    influences = block_influences(model, text)
    assert influences[3] == pytest.approx(0, abs=1e-6)
    assert min(influences[:3] + influences[4:]) > 1e-3
    before = mean_nll(model, text)
    for by in ("block_influence", "nll"):
        kept = chosen_layers(model, 5 / 6, by, text)
        if by == "block_influence":
            assert kept == [0, 1, 2, 4, 5]
        assert mean_nll(with_layers(model, kept), text) <= before + 1e-6


def test_influences_are_means_over_the_tokens_alone():
    """Batches and what they are filled up with change nothing."""
    model, text = model_of_six(), calibration(9)
    alone = [block_influences(model, calibration(9).first(0 + n)) for n in (1, 9)]
    (ids,) = [torch.tensor(s.ids)[None] for s in text.first(1).sequences]
    states = model.model(ids, output_hidden_states=True).hidden_states
    cosine = torch.nn.functional.cosine_similarity(states[1], states[2], dim=-1)
    assert alone[0][1] == pytest.approx(1 - cosine.mean().item(), abs=1e-6)
    assert alone[0] != alone[1]


def test_a_search_of_many_minutes_ends_at_a_signal():
    with shutdown.listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            least_nll(model_of_six(), calibration(), 2)
    with shutdown.listening():
        assert not shutdown.requested()  # it is forgotten when work begins anew


def test_the_greedy_search_finds_what_trying_everything_finds():
    model, text = model_of_six(), calibration()
    left = list(range(6))
    while len(left) > 2:
        rests = [[*left[:i], *left[i + 1 :]] for i in range(len(left))]
        left = min(rests, key=lambda rest: mean_nll(with_layers(model, rest), text))
        assert least_nll(model, text, len(left)) == left
