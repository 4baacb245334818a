"""Logits of some positions at a time, and the way back: what every loss on the output head shares.

n: positions of a block, H: hidden width, V: rows of the head, R: rows that are projected. They are
the real, shared ids (`num_ids` <= V) and some more up to a multiple of ALIGNMENT, whose logits are
-inf: with Qwen3's 151,669 ids, an odd number, no GPU's fast matrix kernels could read the rows of
a block.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import MismatchError
from distill.losses.head import softcapped

ALIGNMENT = 64  # of a row, in numbers


@dataclass(frozen=True)
class Projection:
    """How hidden states become logits.

    product_dtype: of the matrix products; exact_dtype: of everything else, float32 or float64.
    """

    num_ids: int
    scale: float
    softcap: float | None
    product_dtype: torch.dtype
    exact_dtype: torch.dtype

    def aligned(self, rows_V: Tensor) -> Tensor:
        """Return the rows of the shared ids, and more up to a multiple of ALIGNMENT.

        Those are what the head has, or zeros where it is copied anyway.
        """
        num_aligned = -(-self.num_ids // ALIGNMENT) * ALIGNMENT
        rows_R = rows_V[:num_aligned]
        if rows_V.dtype == self.product_dtype:
            return rows_R
        copy_R = rows_R.new_zeros((num_aligned, *rows_V.shape[1:]), dtype=self.product_dtype)
        copy_R[: len(rows_R)] = rows_R
        return copy_R

    def logits(
        self, hidden_nH: Tensor, weight_RH: Tensor, bias_R: Tensor | None, out_nR: Tensor
    ) -> Tensor:
        """Return a block's logits, made in `out_nR`; in a copy if a softcap needs it more exact."""
        scale = self.scale
        if bias_R is None:
            out_nR.addmm_(hidden_nH, weight_RH.T, beta=0, alpha=scale)
        else:
            torch.addmm(bias_R, hidden_nH, weight_RH.T, beta=scale, alpha=scale, out=out_nR)
        logits_nR = out_nR
        if self.softcap is not None:
            logits_nR = out_nR.to(self.exact_dtype)  # float32: the buffer itself
            softcapped(logits_nR, self.softcap, out=logits_nR)
        logits_nR[:, self.num_ids :] = -math.inf
        return logits_nR

    def go_back_through_softcap(self, grad_nR: Tensor, logits_nR: Tensor) -> None:
        """Multiply the gradient by d softcap(x) / dx = 1 − tanh², in place; use the logits up."""
        if self.softcap is not None:
            logits_nR[:, self.num_ids :] = 0
            grad_nR.mul_(logits_nR.div_(self.softcap).square_().neg_().add_(1))


def product_dtype(hidden_NH: Tensor, weight_VH: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's, or the one that both inputs have."""
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device) and hidden_NH.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    if hidden_NH.dtype != weight_VH.dtype:
        raise MismatchError(
            f"hidden states are {hidden_NH.dtype}, the head is {weight_VH.dtype}: "
            "use one dtype, or autocast"
        )
    return hidden_NH.dtype
