"""How strongly each input of a layer is used: sums of squares over calibration texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any


def input_square_sums(
    model: Any, layers: Mapping[str, Any], sequences: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return the sum over all tokens of each input's square, float64 [C], by the layer's name.

    `layers`: linear modules of `model`; `sequences`: token ids of the texts. Layers that no text
    passes through are left out.
    """
    import torch

    sums: dict[str, Any] = {}

    def add(name: str, _module: Any, inputs: tuple[Any, ...]) -> None:
        total_C = inputs[0].detach().double().square().flatten(0, -2).sum(0)
        sums[name] = sums[name] + total_C if name in sums else total_C

    hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for ids in sequences:  # one at a time: padding would be counted
                ids_1T = torch.tensor([list(ids)], device=model.device)
                model.base_model(input_ids=ids_1T, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return sums
