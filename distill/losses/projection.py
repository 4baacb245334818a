"""Logits of some positions at a time, and the way back: what every loss on the output head shares.

n: positions of a block, H: hidden width, V: rows of the head, R: rows that are projected. They are
the real, shared ids (`num_ids` <= V) and some more up to a multiple of ALIGNMENT, whose logits are
-inf: with Qwen3's 151,669 ids, an odd number, no GPU's fast matrix kernels could read the rows of
a block.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import MismatchError
from distill.losses.head import softcapped

ALIGNMENT = 64  # of a row, in numbers
# On a CPU: bytes of the logits of the positions that are multiplied at once. 151,936 ids give 256 in
# float32, whose products take a tenth less time than those of 110, and 512 in bfloat16.
CHUNK_BYTES = 150 << 20
FAST_MULTIPLE = 64  # of positions
# What follows is done with a block of them at a time: so many numbers, a thread, stay in a cache.
CACHED_VALUES = 1 << 20


def fast_chunk(num_ids: int, dtype: torch.dtype, num_bytes: int = CHUNK_BYTES) -> int:
    """Return how many positions a CPU should multiply at once: their logits take `num_bytes`."""
    fitting = max(1, num_bytes // (num_ids * dtype.itemsize))
    if fitting < FAST_MULTIPLE:
        return fitting
    return fitting - fitting % FAST_MULTIPLE


def cached_block(num_ids: int, largest_values: int) -> int:
    """Return how many positions' logits stay in the caches of the threads of a CPU.

    Never more than `largest_values` numbers, but one position at least.
    """
    values = min(CACHED_VALUES * torch.get_num_threads(), largest_values)
    return max(1, values // num_ids)


def slices(first: int, stop: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` positions from `first` to `stop`; the last may be shorter."""
    for start in range(first, stop, size):
        yield slice(start, min(start + size, stop))


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

    def multiplied(
        self,
        hidden_NH: Tensor,
        weight_RH: Tensor,
        bias_V: Tensor | None,
        parts: Sequence[slice],
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (positions, their hidden states, their logits [n, R] but for what `finished` does).

        `parts`: of the positions. All logits are made in the same memory, one part after the other.
        """
        bias_R = None if bias_V is None else self.aligned(bias_V)
        largest = max((part.stop - part.start for part in parts), default=0)
        buffer_nR = weight_RH.new_empty(largest, len(weight_RH))
        for part in parts:
            hidden_nH = hidden_NH[part].to(self.product_dtype)
            raw_nR = buffer_nR[: len(hidden_nH)]
            self._multiply(hidden_nH, weight_RH, bias_R, raw_nR)
            yield part, hidden_nH, raw_nR

    def _multiply(
        self, hidden_nH: Tensor, weight_RH: Tensor, bias_R: Tensor | None, out_nR: Tensor
    ) -> None:
        scale = self.scale
        if bias_R is None:
            out_nR.addmm_(hidden_nH, weight_RH.T, beta=0, alpha=scale)
        else:
            torch.addmm(bias_R, hidden_nH, weight_RH.T, beta=scale, alpha=scale, out=out_nR)

    def finished(self, raw_nR: Tensor) -> Tensor:
        """Return logits of `multiplied` with their softcap and without other ids; in place if it can."""
        logits_nR = raw_nR
        if self.softcap is not None:
            logits_nR = raw_nR.to(self.exact_dtype)  # float32: the buffer itself
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
