"""A decoder that has lost layers is the same when it is read from its folder."""

import pytest
import torch
import transformers
from conftest import tiny_qwen3

from distill.errors import MismatchError
from distill.models import load
from distill.shaping.layers import keep_layers


def smollm3():
    """A random SmolLM3 of eight layers: every fourth attends without RoPE."""
    torch.manual_seed(0)
    config = transformers.SmolLM3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.SmolLM3ForCausalLM(config).eval()


@pytest.mark.parametrize("kept", [[0, 3, 5, 7], [3, 7], [0, 1, 2], [3]])
@torch.no_grad()
def test_layers_without_rope_stay_those_when_others_are_gone(tmp_path, kept):
    model, ids = smollm3(), torch.arange(3, 33)[None]
    before = [layer.self_attn.use_rope for layer in model.model.layers]
    keep_layers(model, kept)
    assert [layer.self_attn.use_rope for layer in model.model.layers] == [before[i] for i in kept]
    model.save_pretrained(tmp_path)
    again = load.load_model(str(tmp_path), load.Placement("cpu", "float32"))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_a_layer_that_the_config_would_make_otherwise_is_refused():
    model = tiny_qwen3(layers=4)
    model.model.layers[1].self_attn.scaling = 0.5
    with pytest.raises(
        MismatchError, match=r"layers \[0, 1\] cannot be told .*scaling is \{0: 0.25,"
    ):
        keep_layers(model, [0, 1])
    model = tiny_qwen3(layers=4)
    for layer in model.model.layers:  # the same in all: no setting of a layer
        layer.self_attn.scaling = 0.5
    keep_layers(model, [0, 1])
