"""A narrower feed-forward: the neurons that do least go, and what is left computes as before."""

import copy

import pytest
import torch
import transformers
from conftest import tiny_qwen3
from cutting_helpers import calibration
from families import BY_NAME, model_of, tokenizer_of

from distill.errors import MismatchError
from distill.models import load
from distill.shaping.feed_forward import keep_strongest, strengths

CPU = load.Placement("cpu", "float32")
IDS = torch.arange(3, 20)[None]


def phi3():
    """A family whose gate and up are one matrix."""
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return transformers.Phi3ForCausalLM(config).eval()


def of_family(name):
    return model_of(BY_NAME[name], tokenizer_of(BY_NAME[name]))


MODELS = {
    "qwen3": tiny_qwen3,
    "phi3": phi3,
    "llama": lambda: of_family("llama"),
    "qwen2.5": lambda: of_family("qwen2.5"),
    "ernie4.5": lambda: of_family("ernie4.5"),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def silence(model, layer, neuron):
    """Let a neuron hand on zero, whatever it reads."""
    block = model.model.layers[layer].mlp
    fused = getattr(block, "gate_up_proj", None)
    with torch.no_grad():
        if fused is None:
            block.up_proj.weight[neuron] = 0
        else:
            fused.weight[len(fused.weight) // 2 + neuron] = 0


@each_model
def test_all_neurons_kept_change_no_bit(make):
    model = make()
    whole = copy.deepcopy(model)
    keep_strongest(model, 128, calibration())
    assert torch.equal(model(IDS).logits, whole(IDS).logits)


@each_model
def test_a_neuron_that_is_always_zero_goes_first_and_is_not_missed(make):
    model = make()
    silence(model, 0, 5)
    silence(model, 1, 77)
    whole, found = copy.deepcopy(model), strengths(model, calibration())
    assert found[0][5] == found[1][77] == 0 < found[0][77]
    keep_strongest(model, 127, calibration())
    assert torch.allclose(model(IDS).logits, whole(IDS).logits, atol=1e-5)
    down = whole.model.layers[1].mlp.down_proj.weight
    left = torch.cat([down[:, :77], down[:, 78:]], 1)
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, left)


@each_model
def test_a_narrower_model_is_saved_and_loaded_as_it_is(make, tmp_path):
    model = make()
    keep_strongest(model, 96, calibration())
    assert model.config.intermediate_size == 96
    model.save_pretrained(tmp_path)
    assert torch.equal(load.load_model(str(tmp_path), CPU)(IDS).logits, model(IDS).logits)


def test_strength_is_minitrons_formula():
    """Of each sample alone: batches and what they are filled up with change nothing."""
    model, text = tiny_qwen3(), calibration(9)
    seen = []
    projection = model.model.layers[1].mlp.down_proj
    hook = projection.register_forward_pre_hook(lambda _, values: seen.append(values[0][0]))
    for sequence in text.sequences:
        model(torch.tensor(sequence.ids)[None])
    hook.remove()
    squares = sum(activations.detach().abs().mean(0) ** 2 for activations in seen)
    assert torch.allclose(strengths(model, text)[1], squares.sqrt(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen3-moe", r"mixture of experts.*student\.num_experts"),
        ("gpt-oss", r"mixture of experts"),
        ("deepseek-r1", r"mixture of experts"),
    ],
)
def test_what_has_no_dense_feed_forward_is_refused(name, message):
    with pytest.raises(MismatchError, match=message):
        keep_strongest(of_family(name), 96, calibration())


def test_a_feed_forward_of_another_kind_is_refused():
    config = transformers.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4)
    with pytest.raises(MismatchError, match=r"no one intermediate_size.*ffn_width=null"):
        keep_strongest(transformers.GPT2LMHeadModel(config), 96, calibration())


def test_more_neurons_than_there_are_are_refused():
    with pytest.raises(MismatchError, match=r"ffn_width 256 is more than the 128 neurons"):
        keep_strongest(tiny_qwen3(), 256, calibration())
