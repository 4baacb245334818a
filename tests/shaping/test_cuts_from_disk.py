"""A student cut layer by layer out of files is the one that is cut out of a model in memory."""

import pytest
import torch
import transformers
from cutting_helpers import student_of

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTURE = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
KINDS = {
    "Qwen3": {"intermediate_size": 512, "head_dim": 8},
    "Phi3": {"intermediate_size": 512},
    "Qwen3Moe": {"intermediate_size": 64, "head_dim": 8, "mlp_only_layers": [0], **MIXTURE},
}
LAYERS = [
    {"method": "base"},
    *(
        {"method": "layers", "layer_share": 0.5, "layers_by": by}
        for by in ("even", "last", "block_influence", "nll")
    ),
]


def source(folder, kind, *, is_tied):
    """Write a random model in bfloat16 to a folder."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(
        **SIZES, **KINDS[kind], tie_word_embeddings=is_tied
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_bit_for_bit(tmp_path, kind, is_tied):
    """Whichever layers, neurons or experts go, with all tokens and with some."""
    source(tmp_path, kind, is_tied=is_tied)
    narrower = {"num_experts": 4} if kind == "Qwen3Moe" else {"ffn_width": 256}
    cuts = [{**layers, **more} for layers in LAYERS for more in ({}, narrower)][1:]
    for number, student in enumerate(cuts):
        whole, parts = (
            student_of(
                tmp_path, student, is_trimmed=number % 2 == is_tied, layers_on_disk=layers_on_disk
            )
            for layers_on_disk in (False, True)
        )
        assert parts[:2] == whole[:2], student
        assert parts[2].config.to_dict() == whole[2].config.to_dict()
        expected, found = whole[2].state_dict(), parts[2].state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), student
        assert parts[2].num_parameters() == whole[2].num_parameters()
