"""The output head and the loss in one step: hidden states and a head in, loss and gradients out.

The logits of all tokens together are never held. A chunk of tokens is projected, its loss is
taken, its logits become the gradient in place, and that goes into the gradients of the hidden
states and of the head, before the next chunk comes. Hence forward does all the work and backward
only scales. On a CPU a chunk is as large as matrix products need to be fast, and its loss is taken
a block of positions at a time, which a cache holds. Pure torch: CPU, CUDA, ROCm, XPU and NPU alike.

N: positions that carry loss, H: hidden width, V: rows of the head, K: ids kept for a position,
n: positions of a chunk, b: of a block, R: rows that are projected (projection.py). A chunk is a
piece of the memory, and has nothing to do with the byte-aligned chunks of a text (byte_chunks.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.errors import MismatchError, RecipeError
from distill.losses.chunk_loss import ChunkLoss
from distill.losses.divergences import divergence_by_name, divergence_of_draws
from distill.losses.estimates import signal_problem
from distill.losses.head import Head
from distill.losses.head_gradients import HeadGradients
from distill.losses.projection import (
    CHUNK_BYTES,
    Projection,
    cached_block,
    fast_chunk,
    product_dtype,
    slices,
)
from distill.losses.stop_class import StopClass
from distill.losses.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets

# Numbers in one [b, R] buffer: 64 MiB in float32. Not on a CPU a block is the chunk, and there are
# two buffers, logits and probabilities; 151,936 ids give n = 110.
BLOCK_VALUES = 16 << 20
# On a GPU the head's gradient, read and written once a chunk, is what takes time: four times as
# many positions, 384 MiB in all.
CUDA_BLOCK_VALUES = 64 << 20
LARGEST_CHUNK = 1024  # positions; a small vocabulary's chunk then stays near the processor's cache


@dataclass(frozen=True)
class OwnText:
    """What is learnt at positions of text that the student wrote: another divergence, no labels.

    first: the number of the first such position; all from there on are. As DistiLLM-2 (arXiv
    2503.07067) pairs skew_kl on the teacher's text with skew_reverse_kl on the student's.
    """

    first: int
    divergence: str
    divergence_parameters: Mapping[str, float]


def linear_head_loss(
    hidden_NH: Tensor,
    head: Head,
    labels_N: Tensor,
    targets: Targets | None,
    *,
    soft_weight: float,
    hard_weight: float,
    divergence: str = "forward_kl",
    divergence_parameters: Mapping[str, float] | None = None,
    vocab_size: int | None = None,
    loss_temperature: float = 1.0,
    chunk_size: int | None = None,
    stop_ids: Sequence[int] = (),
    own_text: OwnText | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum `soft_weight · divergence(teacher, student) + hard_weight · cross-entropy(label)` over N.

    hidden_NH, the head's weight and bias: one floating dtype.
    labels_N: int64, the token that follows; no -100, masked positions are left out by the caller.
    targets: the teacher's for the same positions, or None.
    divergence, divergence_parameters: as `divergence_by_name` takes them (`beta`, `alpha`). Sampled
        targets without log-probs know forward_kl alone. Top-k targets are compared over K + 1
        categories, the last one being all other ids; so are draws with log-probs where nothing
        better can be had of them: see `estimates.py`.
    vocab_size: ids that teacher and student share; rows of the head from there on get no mass and
        no gradient. None = all rows.
    loss_temperature: divides the logits in the soft part only. The targets must have been captured
        at it. No T² is multiplied in: where it is wanted it belongs in soft_weight.
    chunk_size: positions projected at a time; None = what fits in 150 MiB of logits (256 MiB on a
        GPU), at most 1,024. It changes no result.
    stop_ids: tokens that end an answer and count as one in the soft part (`stop_class.py`); fewer
        than two are as none.
    own_text: which of the positions are of the student's own text, and what is learnt there; None =
        none are. Cross-entropy to its own words is no part of the loss.

    Returns the weighted sum (float32; float64 for float64 inputs; differentiable once) and the
    unweighted detached sums {"soft", "hard"} over the positions. There is no mean: divide once, by
    the global number of loss tokens. With sampled targets "soft" is an estimate of the KL
    divergence, or the cross-entropy if they have no entropy. With `own_text` "soft" is of all
    positions, "own" is what of it is of the student's text, and "hard" of the other positions. If
    soft_weight is 0 the loss is plain cross-entropy; targets are not needed and, if given, only
    measured. No positions give 0 and zero gradients. Nothing is computed for an input that needs no
    gradient.

    Matrices are multiplied in the inputs' dtype, under torch.autocast in its dtype (the head is
    then copied once to it); softmax, losses and sums are float32, and gradients come back in the
    inputs' dtypes.

    Raises RecipeError (weights, temperature, divergence), MismatchError (an id outside the
    vocabulary, lengths or dtypes that differ), RuntimeError on a second backward through the same
    result.
    """
    _check_objective(targets, divergence, soft_weight, hard_weight, loss_temperature, own_text)
    compare = divergence_by_name(divergence, **(divergence_parameters or {}))
    num_ids = len(head.weight) if vocab_size is None else vocab_size
    _check_fit(hidden_NH, head.weight, labels_N, targets, num_ids)
    _check_stop_ids(stop_ids, num_ids)
    if own_text is not None and not 0 <= own_text.first <= len(hidden_NH):
        raise MismatchError(f"own text begins at position {own_text.first} of {len(hidden_NH)}")
    temperature = 1.0 if targets is None else loss_temperature
    exact_dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
    inputs = (hidden_NH, head.weight, head.bias)
    with_gradient = any(t is not None and t.requires_grad for t in inputs)
    stop_class = None
    if len(stop_ids) > 1:
        stop_class = StopClass(torch.tensor(list(stop_ids), device=hidden_NH.device))
    chunk_loss = ChunkLoss(
        divergence=compare,
        soft_weight=soft_weight,
        hard_weight=hard_weight,
        num_ids=num_ids,
        exact_dtype=exact_dtype,
        with_gradient=with_gradient and torch.is_grad_enabled(),
        temperature=temperature,
        of_draws=divergence_of_draws(divergence, alpha=(divergence_parameters or {}).get("alpha")),
        stop_class=stop_class,
    )
    projection = Projection(
        num_ids, head.scale, head.softcap, product_dtype(hidden_NH, head.weight), exact_dtype
    )
    chunks = _Chunks(
        labels_N=labels_N,
        targets=targets,
        loss=chunk_loss,
        own_loss=None if own_text is None else _loss_of_own_text(chunk_loss, own_text),
        first_own=len(hidden_NH) if own_text is None else own_text.first,
        sizes=_sizes(hidden_NH.device, targets, temperature, projection, chunk_size),
        projection=projection,
    )
    loss, soft, hard, own = _LinearHeadLoss.apply(*inputs, chunks)
    if own_text is None:
        return loss, {"soft": soft, "hard": hard}
    return loss, {"soft": soft + own, "hard": hard, "own": own}


def _loss_of_own_text(loss: ChunkLoss, own_text: OwnText) -> ChunkLoss:
    parameters = own_text.divergence_parameters
    return replace(
        loss,
        divergence=divergence_by_name(own_text.divergence, **parameters),
        of_draws=divergence_of_draws(own_text.divergence, alpha=parameters.get("alpha")),
        hard_weight=0.0,
    )


class _LinearHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, chunks: "_Chunks"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with_gradient = chunks.loss.with_gradient
        gradients = HeadGradients(
            hidden_NH,
            weight_VH,
            bias_V,
            needed=[with_gradient and needed for needed in ctx.needs_input_grad[:3]],
            exact_dtype=chunks.projection.exact_dtype,
        )
        with torch.autocast(hidden_NH.device.type, enabled=False):
            soft, hard, own = chunks.sum(hidden_NH, weight_VH, bias_V, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(soft, hard, own)
        # A part with weight 0 is only measured: whatever it is, it must not reach the loss, where
        # 0 · inf is NaN.
        weighted = [(chunks.loss.soft_weight, soft), (chunks.loss.hard_weight, hard)]
        if chunks.own_loss is not None:
            weighted.append((chunks.loss.soft_weight, own))
        parts = [weight * part for weight, part in weighted if weight > 0]
        return torch.stack(parts).sum(), soft, hard, own

    @staticmethod
    @once_differentiable
    # once_differentiable hides the names
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients: HeadGradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError(
                "linear_head_loss: its gradients were given away by the first backward; "
                "call it again"
            )
        ctx.gradients = None
        return (*gradients.scaled(grad_outputs[0]), None)


@dataclass(frozen=True)
class _Sizes:
    """How many positions are projected at a time, and of how many of them the loss is taken."""

    chunk: int
    block: int


@dataclass(frozen=True)
class _Chunks:
    """The loss of all positions, a chunk at a time; it holds all that gets no gradient."""

    labels_N: Tensor
    targets: Targets | None
    loss: ChunkLoss
    own_loss: ChunkLoss | None  # at the positions from `first_own` on
    first_own: int
    sizes: _Sizes
    projection: Projection

    def sum(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, gradients: HeadGradients
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums (soft, hard) of others' text and the soft one of own; fill `gradients`."""
        projection = self.projection
        exact_dtype = projection.exact_dtype
        weight_RH = projection.aligned(weight_VH)
        num_block = min(self.sizes.block, self.sizes.chunk, len(hidden_NH))
        grad_buffer_bR = weight_RH.new_empty((num_block, len(weight_RH)), dtype=exact_dtype)
        soft, hard, own = weight_RH.new_zeros(3, dtype=exact_dtype).unbind()

        parts, losses = self._parts()
        products = projection.multiplied(hidden_NH, weight_RH, bias_V, parts)
        for loss, (part, hidden_nH, raw_nR) in zip(losses, products, strict=True):
            chunk_soft, chunk_hard, grad_nR, factor = self._loss_of(
                part, loss, raw_nR, grad_buffer_bR, gradients.any_needed
            )
            if loss is self.loss:
                soft = soft + chunk_soft
                hard = hard + chunk_hard
            else:
                own = own + chunk_soft
            if gradients.any_needed:
                gradients.add(part, grad_nR, factor * projection.scale, hidden_nH, weight_RH)
        return soft, hard, own

    def _loss_of(
        self,
        part: slice,
        loss: ChunkLoss,
        raw_nR: Tensor,
        grad_buffer_bR: Tensor,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return a chunk's sums (soft, hard), the gradient on its logits but for a factor, and that.

        raw_nR: what was multiplied; used up. The gradient stands there or in the other buffer.
        """
        projection = self.projection
        targets_n = None if self.targets is None else self.targets[part].to(raw_nR.device)
        labels_n1 = self.labels_N[part, None]
        soft, hard = raw_nR.new_zeros(2, dtype=projection.exact_dtype).unbind()
        factor, grad_nR = 1.0, raw_nR
        for block in slices(0, len(raw_nR), len(grad_buffer_bR)):
            logits_bR = projection.finished(raw_nR[block])
            grad_bR = grad_buffer_bR[: len(logits_bR)]
            targets_b = None if targets_n is None else targets_n[block]
            block_soft, block_hard, factor = loss(logits_bR, labels_n1[block], targets_b, grad_bR)
            soft = soft + block_soft
            hard = hard + block_hard
            if with_gradient:
                projection.go_back_through_softcap(grad_bR, logits_bR)
                if len(grad_bR) == len(raw_nR) and grad_bR.dtype == raw_nR.dtype:
                    grad_nR = grad_bR
                else:
                    raw_nR[block].copy_(grad_bR)
        return soft, hard, grad_nR, factor

    def _parts(self) -> tuple[list[slice], list[ChunkLoss]]:
        """Return the positions of each chunk, and their losses; a chunk is of one kind of text."""
        parts = list(slices(0, self.first_own, self.sizes.chunk))
        losses = [self.loss] * len(parts)
        if self.own_loss is not None:
            of_own = list(slices(self.first_own, len(self.labels_N), self.sizes.chunk))
            parts += of_own
            losses += [self.own_loss] * len(of_own)
        return parts, losses


def _sizes(
    device: torch.device,
    targets: Targets | None,
    temperature: float,
    projection: Projection,
    chunk_size: int | None,
) -> _Sizes:
    """Return how many positions make a chunk, and a block.

    Fewer where more than two buffers of a block's size are alive together (autograd inside the
    divergence, tempered logits), or of a chunk's (the teacher's distribution).
    """
    num_ids = projection.num_ids
    largest_values = CUDA_BLOCK_VALUES if device.type == "cuda" else BLOCK_VALUES
    if isinstance(targets, DenseTargets | HeadTargets):
        largest_values //= 8
    elif temperature != 1:
        largest_values //= 2
    if device.type != "cpu":
        chunk = chunk_size or min(LARGEST_CHUNK, max(1, largest_values // num_ids))
        return _Sizes(chunk, chunk)
    num_bytes = CHUNK_BYTES // 4 if isinstance(targets, HeadTargets) else CHUNK_BYTES
    fitting = fast_chunk(num_ids, projection.product_dtype, num_bytes)
    return _Sizes(chunk_size or min(LARGEST_CHUNK, fitting), cached_block(num_ids, largest_values))


def _check_objective(
    targets: Targets | None,
    divergence: str,
    soft_weight: float,
    hard_weight: float,
    loss_temperature: float,
    own_text: OwnText | None,
) -> None:
    """Raise RecipeError for weights, a temperature or a divergence that cannot be learnt with."""
    if soft_weight < 0 or hard_weight < 0 or soft_weight + hard_weight == 0:
        raise RecipeError(
            f"train.soft_weight {soft_weight}, hard_weight {hard_weight}: none negative, not both 0"
        )
    if soft_weight > 0 and targets is None:
        raise RecipeError(
            f"train.soft_weight {soft_weight} needs the teacher's signal: "
            "run capture, or set it to 0"
        )
    if loss_temperature <= 0:
        raise RecipeError(f"loss temperature {loss_temperature} is not above 0: 1 is usual")
    if isinstance(targets, SampledTargets):
        chosen = {"train.divergence": divergence}
        if own_text is not None:
            chosen["rounds.divergence"] = own_text.divergence
        for field, name in chosen.items():
            has_log_probs = targets.log_probs is not None
            problem = signal_problem(field, name, "sampled", draw_log_probs=has_log_probs)
            if problem:
                raise RecipeError(problem)


def _check_fit(
    hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, targets: Targets | None, num_ids: int
) -> None:
    """Raise MismatchError for lengths that differ and for ids without a row.

    On a GPU such an id kills the process.
    """
    _check_shapes(hidden_NH, weight_VH, labels_N)
    if targets is not None and len(targets) != len(hidden_NH):
        raise MismatchError(
            f"{len(targets)} positions have a teacher's signal, {len(hidden_NH)} hidden states came"
        )
    if not 0 < num_ids <= len(weight_VH):
        raise MismatchError(f"vocab_size {num_ids} is not within the head's {len(weight_VH)} rows")
    num_dense_ids = _num_dense_ids(targets)
    if num_dense_ids not in (None, num_ids):
        raise MismatchError(
            f"the dense signal has {num_dense_ids} ids, vocab_size is {num_ids}: "
            "slice it to the shared ids"
        )
    if len(hidden_NH) > 0:
        _check_ids(labels_N, targets, num_ids)


def _check_stop_ids(stop_ids: Sequence[int], num_ids: int) -> None:
    for number, token_id in enumerate(stop_ids):
        if not 0 <= token_id < num_ids or token_id in stop_ids[:number]:
            raise MismatchError(
                f"stop token {token_id}: none may be outside the {num_ids} shared ids, or twice"
            )


def _check_shapes(hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor) -> None:
    fits = (
        hidden_NH.dim() == 2
        and labels_N.shape == hidden_NH.shape[:1]
        and hidden_NH.shape[1] == weight_VH.shape[1]
    )
    if not fits:
        shapes = f"{tuple(hidden_NH.shape)}, {tuple(weight_VH.shape)}, {tuple(labels_N.shape)}"
        raise MismatchError(
            f"hidden states, head and labels have shapes {shapes}: expected [N, H], [V, H], [N]"
        )


def _num_dense_ids(targets: Targets | None) -> int | None:
    if isinstance(targets, DenseTargets):
        return targets.logp_NV.shape[1]
    if isinstance(targets, HeadTargets):
        return len(targets.head.weight)
    return None


def _check_ids(labels_N: Tensor, targets: Targets | None, num_ids: int) -> None:
    extremes = [labels_N.min(), labels_N.max()]
    if isinstance(targets, SampledTargets | TopKTargets):
        extremes.append(targets.ids_NK.max().to(labels_N.device))
    lowest, *highest = torch.stack(extremes).tolist()  # the one place that waits for the device
    if lowest < 0 or max(highest) >= num_ids:
        outside = lowest if lowest < 0 else max(highest)
        raise MismatchError(
            f"token id {outside} is outside the {num_ids} shared ids: "
            "were labels masked out, and was the signal captured with this tokenizer?"
        )
