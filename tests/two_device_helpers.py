"""A model over two devices that hold no numbers, but say on which of them the inputs of an operation lie.

torch's fake tensors on a backend of Python alone: an operation on tensors of both devices is an error, as between two GPUs. For a
process of its own: torch knows the backend from then on.
"""

from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import Qwen3Config, Qwen3ForCausalLM

from distill.losses.head import Head
from distill.models import spread
from distill.models.score import answer_hidden_states, logit_chunks
from distill.models.sequences import TokenSequence
from distill.models.slots import Rolling

PARTS = {
    "model.embed_tokens": "two:0",
    "model.rotary_emb": "two:0",
    "model.layers.0": "two:0",
    "model.layers.1": "two:1",
    "model.norm": "two:1",
}


def spread_model(*, tied: bool):
    """A random model whose second layer lies on the other device, with accelerate's hooks."""
    options: dict[str, Any] = {"attn_implementation": "eager"}
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=tied,
        **options,
    )
    model: Any = Qwen3ForCausalLM(config).eval()
    parts = {**PARTS, "lm_head": "two:0" if tied else "two:1"}
    for name, device in parts.items():
        for module in model.get_submodule(name).modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                module._parameters[key] = torch.nn.Parameter(parameter.detach().to(device), False)
            for key, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[key] = buffer.to(device)
    attach_align_device_hook_on_blocks(
        model,
        execution_device={n: torch.device(d) for n, d in {"": "two:0", **parts}.items()},
        offload=dict.fromkeys(parts, False),
        skip_keys=model._skip_keys_device_placement,
    )
    model.hf_device_map = parts
    return model


class IndicesLieThere(TorchDispatchMode):
    """Refuse what fake tensors let pass: an index that lies on the other device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index" in str(func) and len(args) > 1 and isinstance(args[1], list | tuple):
            for index in args[1]:
                assert index is None or index.device in (args[0].device, torch.device("cpu")), func
        return func(*args, **(kwargs or {}))


def tensor_of(data, device=None, made=torch.tensor, **options):
    """What torch.tensor does; the backend cannot be given numbers of the host's but by a copy."""
    made_here = made(data, **options)
    return made_here if device is None else made_here.to(device)


def check(*, tied: bool) -> None:
    model = spread_model(tied=tied)
    assert spread.is_spread(model)
    spread.bring_to_head(model)
    head = Head(spread.head_weight(model), None, 1.0, None)
    sequences = [TokenSequence([1, 2, 3, 4], 2), TokenSequence([1, 2, 3], 1)]
    states = answer_hidden_states(model, sequences, 0)
    where = {str(one.device) for one in states}
    assert where == {str(head.weight.device)} == {"two:0" if tied else "two:1"}, where
    for _, logits_NV in logit_chunks(head, torch.cat(states)):
        assert logits_NV.shape[1] == 50

    rolling = Rolling(
        model,
        [[1, 2], [3]],
        num_slots=2,
        max_new_tokens=3,
        stop_ids=[],
        pad_id=0,
        known_lengths={},
    )
    for layer, device in zip(rolling.layers, ("two:0", "two:1"), strict=True):
        read = torch.zeros(2, 1, 2, 16).to(device)
        layer.place(0, read, read, [2, 1])
        layer.move(1, 0, 1)
    with torch.inference_mode():
        logits_NV = rolling._step_of_rows([5, 6], [2, 1])
    assert str(logits_NV.device) == "two:0", logits_NV.device
    assert [str(layer.keys.device) for layer in rolling.layers] == ["two:0", "two:1"]


def check_both() -> None:
    """Check a model with a head of its own, and one that is tied."""
    torch.set_num_threads(1)  # a child has none of its parent's threads
    _setup_privateuseone_for_python_backend("two")
    torch.tensor = tensor_of
    with FakeTensorMode(allow_non_fake_inputs=True), IndicesLieThere():
        for is_tied in (False, True):
            check(tied=is_tied)
