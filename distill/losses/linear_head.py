"""The output head and the loss in one step: hidden states and the head's weight in, loss and gradients out.

The logits of all tokens together are never held. A chunk of tokens is projected, its loss is taken, its logits become
the gradient in place, and that goes into the gradients of the hidden states and of the head, before the next chunk
comes. Hence forward does all the work and backward only scales. Pure torch: CPU, CUDA, ROCm, XPU and NPU alike.

N: positions that carry loss, H: hidden width, V: rows of the head, K: ids kept for a position, n: positions of a chunk, R: rows
that are projected. They are the real, shared ids (`num_ids` <= V) and some more up to a multiple of ALIGNMENT, whose logits are
-inf: with Qwen3's 151,669 ids, an odd number, no GPU's fast matrix kernels could read the rows of a chunk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.errors import MismatchError, RecipeError
from distill.losses.divergences import Divergence, divergence_by_name, forward_kl
from distill.losses.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets

# Numbers in one [n, R] buffer: 64 MiB in float32. There are two, logits and probabilities; 151,936 ids give n = 110.
CHUNK_VALUES = 16 << 20
# On a GPU the head's gradient, read and written once a chunk, is what takes time: four times as many positions, 384 MiB in all.
CUDA_CHUNK_VALUES = 64 << 20
ALIGNMENT = 64  # of a row, in numbers
LARGEST_CHUNK = 1024  # positions; a small vocabulary's chunk then stays near the processor's cache
WEIGHT_GRADIENT_VALUES = (
    8 << 20
)  # numbers of the head's gradient that one low-precision product makes at a time


def linear_head_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    targets: Targets | None,
    *,
    soft_weight: float,
    hard_weight: float,
    divergence: str = "forward_kl",
    divergence_parameters: Mapping[str, float] | None = None,
    vocab_size: int | None = None,
    bias_V: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    loss_temperature: float = 1.0,
    chunk_size: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over N positions of `soft_weight · divergence(teacher, student) + hard_weight · cross-entropy(label)`.

    Logits are `softcap(logit_scale · (hidden @ weight.T + bias))`, softcap(x) = c·tanh(x / c).

    hidden_NH, weight_VH, bias_V: one floating dtype. labels_N: int64, the token that follows; no -100, masked positions
        are left out by the caller. targets: what the teacher said about the same positions, or None.
    divergence, divergence_parameters: as `divergence_by_name` takes them (`beta`, `alpha`). Sampled targets know
        forward_kl alone. Top-k targets are compared over K + 1 categories, the last one being all other ids.
    vocab_size: ids that teacher and student share, R; rows of the head from R on get no mass and no gradient.
    loss_temperature: divides the logits in the soft part only. The targets must have been captured at it. No T² is
        multiplied in: where it is wanted it belongs in soft_weight.
    chunk_size: positions projected at a time; None = what fits in 64 MiB of float32 logits (256 MiB on a GPU), at most 1,024.
        It changes no result.

    Returns the weighted sum (float32; float64 for float64 inputs; differentiable once) and the unweighted detached sums
    {"soft", "hard"} over the positions. There is no mean: divide once, by the global number of loss tokens. With
    sampled targets "soft" is an estimate of the KL divergence, or the cross-entropy if they have no entropy. If
    soft_weight is 0 the loss is plain cross-entropy; targets are not needed and, if given, only measured. No positions
    give 0 and zero gradients. Nothing is computed for an input that needs no gradient.

    Matrices are multiplied in the inputs' dtype, under torch.autocast in its dtype (the head is then copied once to
    it); softmax, losses and sums are float32, and gradients come back in the inputs' dtypes.

    Raises RecipeError (weights, temperature, divergence), MismatchError (an id outside the vocabulary, lengths or
    dtypes that differ), RuntimeError on a second backward through the same result.
    """
    if soft_weight < 0 or hard_weight < 0 or soft_weight + hard_weight == 0:
        raise RecipeError(
            f"train.soft_weight {soft_weight}, hard_weight {hard_weight}: none negative, not both 0"
        )
    if soft_weight > 0 and targets is None:
        raise RecipeError(
            f"train.soft_weight {soft_weight} needs the teacher's signal: run capture, or set it to 0"
        )
    if loss_temperature <= 0:
        raise RecipeError(f"loss temperature {loss_temperature} is not above 0: 1 is usual")
    if isinstance(targets, SampledTargets) and divergence != "forward_kl":
        raise RecipeError(
            f"train.divergence {divergence} needs more than draws: set capture.signal to top_k or dense, "
            "or train.divergence to forward_kl"
        )
    function = divergence_by_name(divergence, **(divergence_parameters or {}))
    num_ids = len(weight_VH) if vocab_size is None else vocab_size
    _check_fit(hidden_NH, weight_VH, labels_N, targets, num_ids)
    tempered = targets is not None and loss_temperature != 1
    # Smaller chunks where more than two buffers of that size are alive together (autograd inside the divergence).
    copies = 8 if isinstance(targets, DenseTargets | HeadTargets) else 2 if tempered else 1
    chunk_values = CUDA_CHUNK_VALUES if hidden_NH.is_cuda else CHUNK_VALUES
    settings = _Settings(
        divergence=function,
        is_forward_kl=function is forward_kl,
        soft_weight=soft_weight,
        hard_weight=hard_weight,
        num_ids=num_ids,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=loss_temperature if tempered else 1.0,
        chunk_size=chunk_size or min(LARGEST_CHUNK, max(1, chunk_values // (copies * num_ids))),
        product_dtype=_product_dtype(hidden_NH, weight_VH),
        exact_dtype=torch.promote_types(hidden_NH.dtype, torch.float32),
        with_gradient=torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in (hidden_NH, weight_VH, bias_V)),
    )
    loss, soft, hard = _LinearHeadLoss.apply(
        hidden_NH, weight_VH, bias_V, labels_N, targets, settings
    )
    return loss, {"soft": soft, "hard": hard}


@dataclass(frozen=True)
class _Settings:
    divergence: Divergence
    is_forward_kl: bool
    soft_weight: float
    hard_weight: float
    num_ids: int
    logit_scale: float
    softcap: float | None
    temperature: float
    chunk_size: int
    product_dtype: torch.dtype  # of the matrix products
    exact_dtype: torch.dtype  # of everything else: float32, or float64
    with_gradient: bool


class _LinearHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        targets: Targets | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        s = settings
        wanted = [s.with_gradient and needed for needed in ctx.needs_input_grad[:3]]
        gradients = _Gradients(hidden_NH, weight_VH, bias_V, wanted, s)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            soft, hard = _sum_over_chunks(
                hidden_NH, weight_VH, bias_V, labels_N, targets, gradients, s
            )
        ctx.gradients = gradients
        ctx.mark_non_differentiable(soft, hard)
        # A part with weight 0 is only measured: whatever it is, it must not reach the loss (0 · inf).
        parts = [w * part for w, part in ((s.soft_weight, soft), (s.hard_weight, hard)) if w > 0]
        return torch.stack(parts).sum(), soft, hard

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # once_differentiable hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients: _Gradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError(
                "linear_head_loss: its gradients were given away by the first backward; call it again"
            )
        ctx.gradients = None
        return (*gradients.scaled(grad_outputs[0]), None, None, None)


class _Gradients:
    """Gradients of the summed loss: None for an input that needs none; the head's in float32 whatever its dtype."""

    def __init__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        wanted: list[bool],
        settings: _Settings,
    ) -> None:
        exact = settings.exact_dtype
        self.num_rows = len(weight_VH)
        self.dtypes = [None if t is None else t.dtype for t in (hidden_NH, weight_VH, bias_V)]
        self.hidden_NH = torch.empty_like(hidden_NH) if wanted[0] else None
        self.weight_VH = torch.zeros_like(weight_VH, dtype=exact) if wanted[1] else None
        self.bias_V = (
            torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and wanted[2] else None
        )

    @property
    def wanted(self) -> bool:
        return self.hidden_NH is not None or self.weight_VH is not None or self.bias_V is not None

    def add(
        self, part: slice, grad_nR: Tensor, factor: float, hidden_nH: Tensor, weight_RH: Tensor
    ) -> None:
        """Add a chunk, given `grad_nR · factor`, its gradient with respect to `hidden @ weight.T + bias`."""
        if self.hidden_NH is not None:
            self.hidden_NH[part] = torch.mm(grad_nR, weight_RH).mul_(factor)
        grad_nR = grad_nR[:, : self.num_rows]
        if self.bias_V is not None:
            self.bias_V[: grad_nR.shape[1]].add_(
                grad_nR.sum(0, dtype=self.bias_V.dtype), alpha=factor
            )
        if self.weight_VH is None:
            return
        sum_RH = self.weight_VH[: grad_nR.shape[1]]
        if grad_nR.dtype == sum_RH.dtype:
            sum_RH.addmm_(grad_nR.T, hidden_nH, alpha=factor)
            return
        if (
            grad_nR.is_cuda and torch.version.cuda
        ):  # cuBLAS adds a low-precision product to a float32 matrix as it makes it
            torch.addmm(
                sum_RH, grad_nR.T, hidden_nH, out_dtype=sum_RH.dtype, alpha=factor, out=sum_RH
            )
            return
        # Elsewhere that takes two calls; by blocks the copy stays small.
        rows = max(1, WEIGHT_GRADIENT_VALUES // hidden_nH.shape[1])
        for start in range(0, len(sum_RH), rows):
            block_nB = grad_nR[:, start : start + rows]
            sum_RH[start : start + block_nB.shape[1]].add_(
                torch.mm(block_nB.T, hidden_nH), alpha=factor
            )

    def scaled(self, factor: Tensor) -> list[Tensor | None]:
        """The gradients times `factor`, in the inputs' dtypes. In place: a second copy of the head's would be large."""
        gradients = (self.hidden_NH, self.weight_VH, self.bias_V)
        return [
            None if gradient is None else gradient.mul_(factor).to(dtype)
            for gradient, dtype in zip(gradients, self.dtypes, strict=True)
        ]


def _sum_over_chunks(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    targets: Targets | None,
    gradients: _Gradients,
    s: _Settings,
) -> tuple[Tensor, Tensor]:
    """(soft, hard) sums over all positions; fills `gradients`."""
    weight_RH, bias_R = _aligned(weight_VH, s), None if bias_V is None else _aligned(bias_V, s)
    num_rows = min(s.chunk_size, len(hidden_NH))
    buffer_nR = weight_RH.new_empty(num_rows, len(weight_RH))
    work_nR = weight_RH.new_empty(num_rows, len(weight_RH), dtype=s.exact_dtype)
    soft, hard = weight_RH.new_zeros(2, dtype=s.exact_dtype).unbind()

    for start in range(0, len(hidden_NH), s.chunk_size):
        part = slice(start, min(start + s.chunk_size, len(hidden_NH)))
        hidden_nH = hidden_NH[part].to(s.product_dtype)
        raw_nR, grad_nR = buffer_nR[: len(hidden_nH)], work_nR[: len(hidden_nH)]
        if bias_R is None:
            raw_nR.addmm_(hidden_nH, weight_RH.T, beta=0, alpha=s.logit_scale)
        else:
            torch.addmm(
                bias_R, hidden_nH, weight_RH.T, beta=s.logit_scale, alpha=s.logit_scale, out=raw_nR
            )
        logits_nR = raw_nR
        if s.softcap is not None:
            logits_nR = raw_nR.to(s.exact_dtype)  # float32: the buffer itself
            logits_nR.div_(s.softcap).tanh_().mul_(s.softcap)
        logits_nR[:, s.num_ids :] = -math.inf

        chunk_targets = None if targets is None else targets[part].to(hidden_NH.device)
        chunk_soft, chunk_hard, factor = _chunk_loss(
            logits_nR, labels_N[part, None], chunk_targets, s, grad_nR
        )
        soft, hard = soft + chunk_soft, hard + chunk_hard

        if gradients.wanted:
            if (
                s.softcap is not None
            ):  # d softcap(x) / dx = 1 − tanh²; the logits are not needed any more
                logits_nR[:, s.num_ids :] = 0
                grad_nR.mul_(logits_nR.div_(s.softcap).square_().neg_().add_(1))
            if s.product_dtype != s.exact_dtype:
                grad_nR = raw_nR.copy_(grad_nR)
            gradients.add(part, grad_nR, factor * s.logit_scale, hidden_nH, weight_RH)
    return soft, hard


def _aligned(rows_V: Tensor, s: _Settings) -> Tensor:
    """The rows of the shared ids, and more up to a multiple of ALIGNMENT: what the head has, or zeros where it is copied anyway."""
    wanted = -(-s.num_ids // ALIGNMENT) * ALIGNMENT
    found_R = rows_V[:wanted]
    if rows_V.dtype == s.product_dtype:
        return found_R
    copy_R = found_R.new_zeros((wanted, *rows_V.shape[1:]), dtype=s.product_dtype)
    copy_R[: len(found_R)] = found_R
    return copy_R


def _chunk_loss(
    logits_nR: Tensor, labels_n1: Tensor, targets: Targets | None, s: _Settings, grad_nR: Tensor
) -> tuple[Tensor, Tensor, float]:
    """(soft, hard, factor) of a chunk; `grad_nR · factor` becomes the gradient of the weighted loss on the logits."""
    if s.temperature == 1:
        return _loss_at_one_temperature(
            logits_nR, labels_n1, targets, s.soft_weight, s.hard_weight, s, grad_nR
        )
    _, hard, factor = _loss_at_one_temperature(
        logits_nR, labels_n1, None, 0.0, s.hard_weight, s, grad_nR
    )
    hard_grad_nR = grad_nR * factor if s.with_gradient and s.hard_weight > 0 else None
    tempered_nR = logits_nR.to(s.exact_dtype) / s.temperature
    soft, _, factor = _loss_at_one_temperature(
        tempered_nR, labels_n1, targets, s.soft_weight, 0.0, s, grad_nR
    )
    factor /= s.temperature
    if hard_grad_nR is None:
        return soft, hard, factor
    torch.add(hard_grad_nR, grad_nR, alpha=factor, out=grad_nR)
    return soft, hard, 1.0


def _loss_at_one_temperature(
    logits_nR: Tensor,
    labels_n1: Tensor,
    targets: Targets | None,
    soft_weight: float,
    hard_weight: float,
    s: _Settings,
    grad_nR: Tensor,
) -> tuple[Tensor, Tensor, float]:
    """As `_chunk_loss`. `grad_nR` holds the student's softmax q first, and is turned into the gradient in place."""
    q_nR = torch.softmax(logits_nR, -1, dtype=s.exact_dtype, out=grad_nR)
    # The largest probability is exp(largest logit − log-sum-exp): two reading passes, where logsumexp makes a copy.
    log_sum_exp_n1 = (
        logits_nR.amax(-1, keepdim=True).to(s.exact_dtype) - q_nR.amax(-1, keepdim=True).log()
    )
    hard = (log_sum_exp_n1 - logits_nR.gather(1, labels_n1)).sum()

    whole_gradient = (
        soft_weight > 0
    )  # whether the part below makes all of it, the label's one entry apart
    if isinstance(targets, TopKTargets):
        soft = _top_k_part(logits_nR, log_sum_exp_n1, targets, soft_weight, hard_weight, s, q_nR)
    elif isinstance(targets, DenseTargets) and not s.is_forward_kl:
        soft = _dense_part(logits_nR, log_sum_exp_n1, targets, soft_weight, hard_weight, s, q_nR)
    else:
        # Both parts are cross-entropies: one gradient, q − (the weighted mean of the teacher's and the label's mass).
        whole_gradient = False
        share = soft_weight / (soft_weight + hard_weight) if soft_weight > 0 else 0.0
        if isinstance(targets, SampledTargets):
            soft = _sampled_part(logits_nR, log_sum_exp_n1, targets, share, s, q_nR)
        elif isinstance(targets, DenseTargets):
            soft = _dense_forward_kl_part(logits_nR, log_sum_exp_n1, targets, share, s, q_nR)
        else:
            soft = torch.zeros_like(hard)
    factor = 1.0 if whole_gradient else soft_weight + hard_weight
    if s.with_gradient and hard_weight > 0:
        grad_nR.scatter_add_(1, labels_n1, torch.full_like(log_sum_exp_n1, -hard_weight / factor))
    return soft, hard, factor


def _sampled_part(
    logits_nR: Tensor,
    log_sum_exp_n1: Tensor,
    targets: SampledTargets,
    share: float,
    s: _Settings,
    grad_nR: Tensor,
) -> Tensor:
    """−Σ ŵ log q, minus the teacher's entropy if known; subtracts share·ŵ from the gradient."""
    ids_nK = targets.ids_NK.clamp(min=0)
    weights_nK = targets.weights_NK.to(s.exact_dtype).masked_fill(targets.ids_NK < 0, 0.0)
    soft = (weights_nK * (log_sum_exp_n1 - logits_nR.gather(1, ids_nK))).sum()
    if targets.entropy_N is not None:
        soft = soft - targets.entropy_N.to(s.exact_dtype).sum()
    if s.with_gradient and share > 0:
        grad_nR.scatter_add_(1, ids_nK, weights_nK * -share)
    return soft


def _dense_forward_kl_part(
    logits_nR: Tensor,
    log_sum_exp_n1: Tensor,
    targets: DenseTargets,
    share: float,
    s: _Settings,
    grad_nR: Tensor,
) -> Tensor:
    teacher_logp_nI = targets.logp_NV.to(s.exact_dtype)
    soft = forward_kl(logits_nR[:, : s.num_ids] - log_sum_exp_n1, teacher_logp_nI).sum()
    if s.with_gradient and share > 0:
        grad_nR[:, : s.num_ids].sub_(teacher_logp_nI.exp(), alpha=share)
    return soft


def _dense_part(
    logits_nR: Tensor,
    log_sum_exp_n1: Tensor,
    targets: DenseTargets,
    soft_weight: float,
    hard_weight: float,
    s: _Settings,
    grad_nR: Tensor,
) -> Tensor:
    """Any divergence; with a = d divergence / d log q the gradient on the logits is a − q·Σa."""
    student_logp_nI = logits_nR[:, : s.num_ids] - log_sum_exp_n1
    soft, slope_nI = _value_and_slope(
        s, student_logp_nI, targets.logp_NV.to(s.exact_dtype), soft_weight
    )
    if s.with_gradient and soft_weight > 0:
        grad_nR[:, : s.num_ids].mul_(hard_weight - slope_nI.sum(-1, keepdim=True)).add_(slope_nI)
    return soft


def _top_k_part(
    logits_nR: Tensor,
    log_sum_exp_n1: Tensor,
    targets: TopKTargets,
    soft_weight: float,
    hard_weight: float,
    s: _Settings,
    grad_nR: Tensor,
) -> Tensor:
    """Any divergence over the K ids and the bucket of all others.

    With a = d divergence / d log q of a category, b that of the bucket, A = Σa + b: the gradient on the logits is
    a − q·A for the K ids, and q·(b / Q − A) for the others, where Q is the bucket's mass. Q is a sum over the others:
    exact where 1 − Σq would be rounding.
    """
    is_filler_nK = targets.ids_NK < 0
    # A filler repeats the first id with mass 0: harmless, and no row of the head is touched that is not meant. Where all
    # are fillers there is no first id: then id 0 stays in the bucket, which is everything.
    ids_nK = torch.where(is_filler_nK, targets.ids_NK[:, :1].clamp(min=0), targets.ids_NK)
    student_nK = (logits_nR.gather(1, ids_nK) - log_sum_exp_n1).masked_fill(is_filler_nK, -math.inf)
    q_nK = grad_nR.gather(1, ids_nK)
    grad_nR.scatter_(1, ids_nK, torch.where(is_filler_nK[:, :1], q_nK, 0.0))
    # In float32 a small bucket may be 0 although it is not empty, on either side, and log 0 would make the loss
    # infinite. It counts as the smallest normal number then; -inf only if no other id exists.
    smallest = torch.finfo(torch.float32).tiny
    rest_n1 = grad_nR.sum(-1, keepdim=True).clamp_(min=smallest)
    teacher_tail_n1 = targets.tail_logp_N[:, None].to(s.exact_dtype).clamp(min=math.log(smallest))
    no_rest_n1 = (~is_filler_nK).sum(-1, keepdim=True) >= s.num_ids
    student_logp_nC = torch.cat([student_nK, rest_n1.log().masked_fill(no_rest_n1, -math.inf)], -1)
    teacher_nK = targets.logp_NK.to(s.exact_dtype).masked_fill(is_filler_nK, -math.inf)
    teacher_logp_nC = torch.cat(
        [teacher_nK, teacher_tail_n1.masked_fill(no_rest_n1, -math.inf)], -1
    )

    soft, slope_nC = _value_and_slope(s, student_logp_nC, teacher_logp_nC, soft_weight)
    if soft_weight == 0:
        grad_nR.scatter_(1, ids_nK, q_nK)
    elif s.with_gradient:
        q_nK = q_nK.masked_fill(is_filler_nK, 0.0)
        total_n1 = slope_nC.sum(-1, keepdim=True)
        grad_nR.mul_(slope_nC[:, -1:] / rest_n1 + (hard_weight - total_n1))
        grad_nR.scatter_add_(1, ids_nK, slope_nC[:, :-1] + q_nK * (hard_weight - total_n1))
    return soft


def _value_and_slope(
    s: _Settings, student_logp: Tensor, teacher_logp: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """(sum of the divergence, weight · d sum / d student_logp), by autograd on this one tensor."""
    if not s.with_gradient or weight == 0:
        return s.divergence(student_logp, teacher_logp).sum(), torch.zeros_like(student_logp)
    with torch.enable_grad():
        leaf = student_logp.detach().requires_grad_()
        value = s.divergence(leaf, teacher_logp).sum()
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope.mul_(weight)


def _product_dtype(hidden_NH: Tensor, weight_VH: Tensor) -> torch.dtype:
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device) and hidden_NH.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    if hidden_NH.dtype != weight_VH.dtype:
        raise MismatchError(
            f"hidden states are {hidden_NH.dtype}, the head is {weight_VH.dtype}: use one dtype, or autocast"
        )
    return hidden_NH.dtype


def _check_fit(
    hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, targets: Targets | None, num_ids: int
) -> None:
    """Raise MismatchError for lengths that differ and for ids without a row: on a GPU such an id kills the process."""
    num_positions = len(hidden_NH)
    if (
        hidden_NH.dim() != 2
        or labels_N.shape != (num_positions,)
        or hidden_NH.shape[1] != weight_VH.shape[1]
    ):
        shapes = f"{tuple(hidden_NH.shape)}, {tuple(weight_VH.shape)}, {tuple(labels_N.shape)}"
        raise MismatchError(
            f"hidden states, head and labels have shapes {shapes}: expected [N, H], [V, H], [N]"
        )
    if targets is not None and len(targets) != num_positions:
        raise MismatchError(
            f"{len(targets)} positions have a teacher's signal, {num_positions} hidden states came"
        )
    if not 0 < num_ids <= len(weight_VH):
        raise MismatchError(f"vocab_size {num_ids} is not within the head's {len(weight_VH)} rows")
    if isinstance(targets, DenseTargets | HeadTargets):
        found = (
            targets.logp_NV.shape[1]
            if isinstance(targets, DenseTargets)
            else len(targets.weight_VH)
        )
        if found != num_ids:
            raise MismatchError(
                f"the dense signal has {found} ids, vocab_size is {num_ids}: slice it to the shared ids"
            )
    if num_positions == 0:
        return
    ids = [labels_N.min(), labels_N.max()]
    if isinstance(targets, SampledTargets | TopKTargets):
        ids.append(targets.ids_NK.max().to(labels_N.device))
    lowest, *highest = torch.stack(ids).tolist()  # the one place that waits for the device
    if lowest < 0 or max(highest) >= num_ids:
        raise MismatchError(
            f"token id {lowest if lowest < 0 else max(highest)} is outside the {num_ids} shared ids: "
            "were labels masked out, and was the signal captured with this tokenizer?"
        )
