"""The output projection of a model, in the form that every loss takes.

torch is imported only where it computes: who merely reads a recipe imports this folder too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """The output projection of a model: logits are `softcap(scale · (hidden @ weight.T + bias))`.

    weight: [V, H]; bias: [V], or None. softcap(x) is c·tanh(x / c); None leaves x as it is.
    """

    weight: "Tensor"
    bias: "Tensor | None" = None
    scale: float = 1.0
    softcap: float | None = None


def softcapped(logits: "Tensor", softcap: float | None, *, out: "Tensor | None" = None) -> "Tensor":
    """Return c·tanh(logits / c) for a `softcap` of c, and `logits` themselves for None.

    out: where to write the result. It may be `logits`, where a second copy would be too large;
    autograd cannot look through that.
    """
    if softcap is None:
        return logits
    import torch

    scaled = torch.div(logits, softcap, out=out)
    bounded = torch.tanh(scaled, out=out)
    return torch.mul(bounded, softcap, out=out)
