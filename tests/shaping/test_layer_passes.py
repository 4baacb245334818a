"""Layers run one by one compute what the model without them computes."""

import pytest
import torch
import transformers
from conftest import tiny_qwen3
from cutting_helpers import calibration, with_layers
from families import BY_NAME, model_of, tokenizer_of

from distill.errors import MismatchError
from distill.shaping.calibration import hidden_states
from distill.shaping.layer_passes import LayerPasses

LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
FAMILIES = {
    "qwen3": {},
    "qwen3.5": LINEAR,
    "gpt-oss": {},
    "deepseek-r1": {},
    "ernie4.5-moe": {},
    "minimax-m2": {},
}


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_leaving_a_layer_out_is_the_model_without_it(name):
    family = BY_NAME[name]
    changes = {"num_hidden_layers": 4, **FAMILIES[name]}
    model = model_of(family, tokenizer_of(family), **changes)
    if name == "qwen3.5":  # the language model of what is published
        model = transformers.Qwen3_5ForCausalLM(model.config.text_config).eval()
    (batch,) = calibration().batches("cpu")
    passes, left = LayerPasses(model, batch), [0, 1, 2, 3]
    for removed in (2, 0):
        for place in range(len(left)):
            rest = [*left[:place], *left[place + 1 :]]
            if name == "qwen3.5" and not {1, 3} & set(rest):
                continue  # it needs a layer of full attention
            if name == "deepseek-r1" and 0 not in rest:
                continue  # nor can its config say that no layer is dense
            expected = hidden_states(with_layers(model, rest), batch)
            actual = passes.without(place)[batch.mask_BT.bool()]
            assert torch.allclose(actual, expected[batch.mask_BT.bool()], atol=1e-5)
        passes.remove(removed)
        del left[removed]


def test_a_model_that_is_more_than_its_layers_is_refused():
    model = tiny_qwen3()
    (batch,) = calibration().batches("cpu")
    model.base_model.norm.register_forward_hook(lambda _, __, output: output + torch.rand(1))
    with pytest.raises(MismatchError, match=r"do not run one by one.*layers_by=block_influence"):
        LayerPasses(model, batch)
