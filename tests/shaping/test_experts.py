"""Fewer experts: those that add least go, and what is left computes as before."""

import copy

import pytest
import torch
from conftest import tiny_qwen3
from cutting_helpers import calibration
from families import BY_NAME, model_of, tokenizer_of

from distill.errors import MismatchError
from distill.models import load
from distill.shaping.experts import contributions, keep_busiest

CPU = load.Placement("cpu", "float32")
IDS = torch.arange(3, 20)[None]
FAMILIES = [
    "qwen3-moe",
    "ernie4.5-moe",
    "deepseek-r1",
    "kimi-k2",
    "glm4.5",
    "gpt-oss",
    "minimax-m2",
]
each_family = pytest.mark.parametrize("name", FAMILIES)


def of_family(name):
    return model_of(BY_NAME[name], tokenizer_of(BY_NAME[name]))


@each_family
def test_all_experts_kept_change_no_bit(name):
    model = of_family(name)
    whole = copy.deepcopy(model)
    keep_busiest(model, 8, calibration())
    assert torch.equal(model(IDS).logits, whole(IDS).logits)


@each_family
def test_with_fewer_experts_it_is_saved_and_loaded_as_it_is(name, tmp_path):
    model = of_family(name)
    keep_busiest(model, 4, calibration())
    assert model.config.num_experts_per_tok == 2
    assert model.num_parameters() < of_family(name).num_parameters()
    model.save_pretrained(tmp_path)
    assert torch.equal(load.load_model(str(tmp_path), CPU)(IDS).logits, model(IDS).logits)


def test_an_expert_that_adds_nothing_goes_first():
    model = of_family("qwen3-moe")
    text = calibration()
    found = contributions(model, text)
    idle = [int(shares.argmin()) for shares in found]
    for layer, expert in zip(model.model.layers, idle, strict=True):
        layer.mlp.experts.down_proj.data[expert] = 0  # what it adds is nothing, however often
    found = contributions(model, text)
    assert [shares[expert] for shares, expert in zip(found, idle, strict=True)] == [0, 0]
    keep_busiest(model, 7, text)
    for layer, expert in zip(model.model.layers, idle, strict=True):
        assert (layer.mlp.experts.down_proj.abs().sum((1, 2)) > 0).all(), expert


def test_an_experts_share_is_its_frequency_times_the_norm_of_its_output():
    model, text = of_family("qwen3-moe"), calibration(9)
    block, expected = model.model.layers[0].mlp, torch.zeros(8).double()
    seen = []
    hook = block.register_forward_pre_hook(lambda _, values: seen.append(values[0][0]))
    for sequence in text.sequences:
        model(torch.tensor(sequence.ids)[None])
    hook.remove()
    for hidden_TH in seen:
        for hidden_H, chosen in zip(hidden_TH, block.gate(hidden_TH)[2].tolist(), strict=True):
            for expert in chosen:
                gate, up = (block.experts.gate_up_proj[expert] @ hidden_H).chunk(2)
                output = block.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)
                expected[expert] += output.norm().item()
    assert torch.allclose(contributions(model, text)[0], expected, rtol=1e-4)


def test_no_token_goes_to_more_experts_than_there_are():
    model = of_family("qwen3-moe")
    keep_busiest(model, 1, calibration())
    assert model.config.num_experts_per_tok == 1
    assert torch.isfinite(model(IDS).logits).all()


@pytest.mark.parametrize(
    ("make", "num", "message"),
    [
        (tiny_qwen3, 4, r"it has no experts: .*num_experts=null.*student\.ffn_width"),
        (lambda: of_family("qwen3-moe"), 9, r"num_experts 9 is more than the 8"),
        (lambda: of_family("deepseek-r1"), 5, r"2 groups.*set a multiple of 2, 4 or more"),
        (lambda: of_family("deepseek-r1"), 2, r"2 groups.*set a multiple of 2, 4 or more"),
    ],
)
def test_what_cannot_be_cut_so_is_refused_with_what_can(make, num, message):
    with pytest.raises(MismatchError, match=message):
        keep_busiest(make(), num, calibration())
