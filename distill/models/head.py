"""The output projection of a model, and the arithmetic around it."""

from typing import Any

from distill.errors import MismatchError
from distill.losses.head import Head, softcapped
from distill.models.divided import together, whole
from distill.models.spread import head_weight


@together
def head_of(model: Any) -> Head:
    """Return the model's head and the numbers around it, whole also where it is divided.

    Raises MismatchError where logits cannot be rebuilt from it.
    """
    import torch

    layer, weight = model.get_output_embeddings(), whole(head_weight(model))
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    if getattr(config, "logits_scaling", None):
        scale = 1.0 / config.logits_scaling
    head = Head(
        weight,
        whole(getattr(layer, "bias", None)),
        scale,
        getattr(config, "final_logit_softcapping", None),
    )
    with torch.no_grad():  # a family with its own arithmetic is found here, not in the results
        ids = torch.arange(8, device=model.device)[None]
        hidden = model.base_model(input_ids=ids).last_hidden_state
        expected = model(input_ids=ids).logits.float().to(weight.device)
        rebuilt = logits(head, hidden).float()
    if (expected - rebuilt).abs().max() > 1e-2 * expected.abs().max().clamp(min=1.0):
        raise MismatchError(
            f"{type(model).__name__}: its logits are not head(hidden states); this family is not supported"
        )
    return head


def logits(head: Head, hidden: Any) -> Any:
    """Return the logits [..., V] of hidden states [..., H], in the hidden states' dtype."""
    import torch.nn.functional as F

    bias = None if head.bias is None else head.bias.to(hidden.dtype)
    linear = F.linear(hidden, head.weight.to(hidden.dtype), bias)
    scaled = linear if head.scale == 1 else linear * head.scale  # a copy as large as they are
    return softcapped(scaled, head.softcap)
