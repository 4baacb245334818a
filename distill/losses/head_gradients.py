"""The gradients of hidden states and head, collected a chunk of positions at a time.

N: positions that carry loss, H: hidden width, V: rows of the head, n: positions of a chunk,
R: rows that are projected, B: rows of a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers of the head's gradient that one low-precision product makes at a time.
WEIGHT_GRADIENT_VALUES = 8 << 20


class HeadGradients:
    """Gradients of the summed loss with respect to hidden states, weight and bias of the head.

    needed: which of the three are wanted; the others are None. The head's are in `exact_dtype`,
    whatever its own is.
    """

    def __init__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        *,
        needed: Sequence[bool],
        exact_dtype: torch.dtype,
    ) -> None:
        needs_hidden, needs_weight, needs_bias = needed
        self.num_rows = len(weight_VH)
        self.dtypes = [None if t is None else t.dtype for t in (hidden_NH, weight_VH, bias_V)]
        self.hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        self.weight_VH = torch.empty_like(weight_VH, dtype=exact_dtype) if needs_weight else None
        self._holds_weight = False  # what is added first is written: clearing it takes time
        self.bias_V = None
        if bias_V is not None and needs_bias:
            self.bias_V = torch.zeros_like(bias_V, dtype=exact_dtype)

    @property
    def any_needed(self) -> bool:
        return any(g is not None for g in (self.hidden_NH, self.weight_VH, self.bias_V))

    def add(
        self, part: slice, grad_nR: Tensor, factor: float, hidden_nH: Tensor, weight_RH: Tensor
    ) -> None:
        """Add what the positions `part` contribute.

        grad_nR · factor: their gradient with respect to `hidden @ weight.T + bias`.
        """
        if self.hidden_NH is not None:
            self.hidden_NH[part] = torch.mm(grad_nR, weight_RH).mul_(factor)
        grad_nR = grad_nR[:, : self.num_rows]
        if self.bias_V is not None:
            sum_R = grad_nR.sum(0, dtype=self.bias_V.dtype)
            self.bias_V[: grad_nR.shape[1]].add_(sum_R, alpha=factor)
        if self.weight_VH is not None:
            sum_RH = self.weight_VH[: grad_nR.shape[1]]
            if not self._holds_weight:
                self.weight_VH[len(sum_RH) :].zero_()
            _add_product(sum_RH, grad_nR, hidden_nH, factor, int(self._holds_weight))
            self._holds_weight = True

    def scaled(self, factor: Tensor) -> list[Tensor | None]:
        """Return the gradients times `factor`, in the inputs' dtypes.

        They are scaled in place: a second copy of the head's would be large.
        """
        if self.weight_VH is not None and not self._holds_weight:
            self.weight_VH.zero_()  # there were no positions
        gradients = (self.hidden_NH, self.weight_VH, self.bias_V)
        return [
            None if gradient is None else gradient.mul_(factor).to(dtype)
            for gradient, dtype in zip(gradients, self.dtypes, strict=True)
        ]


def _add_product(
    sum_RH: Tensor, grad_nR: Tensor, hidden_nH: Tensor, factor: float, beta: int
) -> None:
    """Make `sum_RH` beta · itself + `factor · grad_nR.T @ hidden_nH`; its dtype may be more exact.

    beta: 0 or 1; where it is 0 nothing is read there.
    """
    if grad_nR.dtype == sum_RH.dtype:
        sum_RH.addmm_(grad_nR.T, hidden_nH, beta=beta, alpha=factor)
        return
    if grad_nR.is_cuda and torch.version.cuda:
        # cuBLAS adds a low-precision product to a float32 matrix as it makes it.
        into = {"out_dtype": sum_RH.dtype, "beta": beta, "alpha": factor, "out": sum_RH}
        torch.addmm(sum_RH, grad_nR.T, hidden_nH, **into)
        return
    # Elsewhere that takes three calls; by blocks the copies stay small. A CPU adds one type to
    # another five times as slowly as it converts and adds, to the same bits.
    block_rows = max(1, WEIGHT_GRADIENT_VALUES // hidden_nH.shape[1])
    for start in range(0, len(sum_RH), block_rows):
        block_nB = grad_nR[:, start : start + block_rows]
        product_BH = torch.mm(block_nB.T, hidden_nH).to(sum_RH.dtype)
        sum_BH = sum_RH[start : start + len(product_BH)]
        if beta:
            sum_BH.add_(product_BH, alpha=factor)
        else:
            torch.mul(product_BH, factor, out=sum_BH)
