"""The student's log-prob of each label, and of sets of ids, straight from hidden states and a head.

A loss that compares sums over several positions needs these before it has a gradient. So the
logits, made a chunk of positions at a time, are thrown away and made again in the backward pass:
one matrix product in four, and never [N, V].

N: positions, H: hidden width, V: rows of the head, S: sets, n: positions of a chunk, b: of a block
of it, R: rows that are projected (projection.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.errors import MismatchError
from distill.losses.head import Head
from distill.losses.head_gradients import HeadGradients
from distill.losses.projection import (
    Projection,
    cached_block,
    fast_chunk,
    product_dtype,
    slices,
)

BLOCK_VALUES = 8 << 20  # numbers in one [b, R] buffer, of which there are three
CUDA_BLOCK_VALUES = 32 << 20  # a block is the chunk there
LARGEST_CHUNK = 1024  # positions


def head_log_probs(
    hidden_NH: Tensor,
    head: Head,
    labels_N: Tensor,
    sets_SV: Tensor,
    *,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (log-probs [N] of the labels, log-probs [N, S] of any id of a set).

    hidden_NH, the head's weight and bias: one floating dtype. labels_N: int64. sets_SV: bool,
    whether an id is in a set; a set without ids has the log of the smallest float32.
    vocab_size: ids that have mass; None = all rows of the head. chunk_size: positions projected at
    a time; it changes no result.

    The results are float32 (float64 for float64 inputs) and differentiable once. Raises
    MismatchError for shapes, dtypes and ids that do not fit.
    """
    num_ids = len(head.weight) if vocab_size is None else vocab_size
    _check_fit(hidden_NH, head, labels_N, sets_SV, num_ids)
    exact_dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
    dtype = product_dtype(hidden_NH, head.weight)
    if hidden_NH.device.type == "cpu":
        chunk, block = fast_chunk(num_ids, dtype), cached_block(num_ids, BLOCK_VALUES)
    else:
        values = CUDA_BLOCK_VALUES if hidden_NH.is_cuda else BLOCK_VALUES
        chunk = block = max(1, values // num_ids)
    chunks = _Chunks(
        labels_N,
        sets_SV[:, :num_ids],
        Projection(num_ids, head.scale, head.softcap, dtype, exact_dtype),
        chunk_size or min(LARGEST_CHUNK, chunk),
        block,
    )
    logp_N, mass_NS = _HeadLogProbs.apply(hidden_NH, head.weight, head.bias, chunks)
    return logp_N, mass_NS


def _check_fit(
    hidden_NH: Tensor, head: Head, labels_N: Tensor, sets_SV: Tensor, num_ids: int
) -> None:
    if not 0 < num_ids <= min(len(head.weight), sets_SV.shape[1]):
        raise MismatchError(
            f"vocab_size {num_ids} is not within the head's {len(head.weight)} rows and the "
            f"{sets_SV.shape[1]} ids of the sets"
        )
    if labels_N.shape != hidden_NH.shape[:1]:
        raise MismatchError(f"{len(labels_N)} labels, {len(hidden_NH)} hidden states")
    if len(labels_N) and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < num_ids:
        raise MismatchError(f"a label is outside the {num_ids} ids of the vocabulary")


@dataclass(frozen=True)
class _Chunks:
    """All that gets no gradient; how many positions are projected, and looked at, at a time."""

    labels_N: Tensor
    sets_SV: Tensor
    projection: Projection
    size: int
    block_size: int

    def parts(self) -> list[slice]:
        return list(slices(0, len(self.labels_N), self.size))

    def blocks(self, part: slice, raw_nR: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield (positions, their rows of `raw_nR`): a piece of a chunk after the other."""
        for block in slices(part.start, part.stop, self.block_size):
            yield block, raw_nR[block.start - part.start : block.stop - part.start]

    def sets(self, num_rows: int) -> Tensor:
        """Return the sets as numbers [S, R]."""
        sets_SR = self.sets_SV.new_zeros(
            (len(self.sets_SV), num_rows), dtype=self.projection.exact_dtype
        )
        sets_SR[:, : self.sets_SV.shape[1]] = self.sets_SV
        return sets_SR


class _HeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, chunks: _Chunks
    ) -> tuple[Tensor, Tensor]:
        projection, dtype = chunks.projection, chunks.projection.exact_dtype
        with torch.autocast(hidden_NH.device.type, enabled=False):
            weight_RH = projection.aligned(weight_VH)
            sets_SR = chunks.sets(len(weight_RH))
            total_N = hidden_NH.new_empty(len(hidden_NH), dtype=dtype)  # log-sum-exp
            logp_N, mass_NS = (
                torch.empty_like(total_N),
                total_N.new_empty(len(hidden_NH), len(sets_SR)),
            )
            products = projection.multiplied(hidden_NH, weight_RH, bias_V, chunks.parts())
            for part, _, raw_nR in products:
                for block, raw_bR in chunks.blocks(part, raw_nR):
                    logits_bR = projection.finished(raw_bR).to(dtype)
                    total_N[block] = logits_bR.logsumexp(-1)
                    labels_b1 = chunks.labels_N[block, None]
                    logp_N[block] = logits_bR.gather(1, labels_b1)[:, 0] - total_N[block]
                    q_bR = logits_bR.sub_(total_N[block, None]).exp_()
                    mass_NS[block] = q_bR @ sets_SR.T
        mass_NS.clamp_(min=torch.finfo(torch.float32).tiny)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, total_N, mass_NS)
        ctx.chunks = chunks
        return logp_N, mass_NS.log()

    @staticmethod
    @once_differentiable
    # once_differentiable hides the names
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, total_N, mass_NS = ctx.saved_tensors
        chunks: _Chunks = ctx.chunks
        projection, dtype = chunks.projection, chunks.projection.exact_dtype
        slope_N, slope_NS = grad_outputs
        gradients = HeadGradients(
            hidden_NH, weight_VH, bias_V, needed=ctx.needs_input_grad[:3], exact_dtype=dtype
        )
        # of a label: its own entry − q; of a set: q within it / its mass − q
        share_NS = slope_NS / mass_NS
        all_N1 = (slope_N + slope_NS.sum(-1))[:, None]
        with torch.autocast(hidden_NH.device.type, enabled=False):
            weight_RH = projection.aligned(weight_VH)
            sets_SR = chunks.sets(len(weight_RH))
            products = projection.multiplied(hidden_NH, weight_RH, bias_V, chunks.parts())
            for part, hidden_nH, raw_nR in products:
                for block, raw_bR in chunks.blocks(part, raw_nR):
                    logits_bR = projection.finished(raw_bR)
                    grad_bR = (logits_bR - total_N[block, None]).exp_()
                    grad_bR.mul_((share_NS[block] @ sets_SR).sub_(all_N1[block]))
                    labels_b1 = chunks.labels_N[block, None]
                    grad_bR.scatter_add_(1, labels_b1, slope_N[block, None])
                    projection.go_back_through_softcap(grad_bR, logits_bR)
                    raw_bR.copy_(grad_bR)
                gradients.add(part, raw_nR, projection.scale, hidden_nH, weight_RH)
        return (*gradients.scaled(torch.ones((), dtype=dtype)), None)
