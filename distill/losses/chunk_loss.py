"""The loss of one chunk of logits and its gradient, for every kind of target.

n: positions of the chunk, R: rows of the head that are projected, I: the shared ids among them (the
first ones; the logits of the others are -inf), K: ids kept for a position, C: K + 1 categories.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.losses.divergences import Divergence, DrawsDivergence, forward_kl
from distill.losses.stop_class import JoinedStops, StopClass
from distill.losses.targets import ChunkTargets, DenseTargets, SampledTargets, TopKTargets


@dataclass(frozen=True, eq=False)
class _Student:
    """The student's distribution at the positions of a chunk: its logits minus log_sum_exp_n1.

    stops: its stop tokens, where they count as one.
    """

    logits_nR: Tensor
    log_sum_exp_n1: Tensor
    stops: JoinedStops | None = None

    def logits_at(self, ids_nK: Tensor) -> Tensor:
        if self.stops is None:
            return self.logits_nR.gather(1, ids_nK)
        return self.stops.logits_at(self.logits_nR, ids_nK)

    def logp_of_first(self, num_ids: int) -> Tensor:
        """Return the log-probs of the first `num_ids` ids."""
        logp_nI = self.logits_nR[:, :num_ids] - self.log_sum_exp_n1
        if self.stops is None:
            return logp_nI
        return self.stops.logp(logp_nI, self.stops.logit_n1 - self.log_sum_exp_n1)


@dataclass(frozen=True)
class ChunkLoss:
    """`soft_weight · divergence(teacher, student) + hard_weight · cross-entropy(label)`.

    num_ids: ids that teacher and student share. exact_dtype: of all sums here, float32 or float64.
    temperature: divides the logits in the soft part only. of_draws: the divergence's own estimate
    from draws with log-probs, where it has one. stop_class: tokens that count as one in the soft
    part.
    """

    divergence: Divergence
    soft_weight: float
    hard_weight: float
    num_ids: int
    exact_dtype: torch.dtype
    with_gradient: bool
    temperature: float = 1.0
    of_draws: DrawsDivergence | None = None
    stop_class: StopClass | None = None

    def __call__(
        self, logits_nR: Tensor, labels_n1: Tensor, targets: ChunkTargets | None, grad_nR: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """Return the unweighted sums (soft, hard) and a factor; overwrite `grad_nR`.

        `grad_nR · factor` is then the gradient of the weighted loss on the logits.
        """
        if self.temperature == 1:
            return self._at_temperature_one(logits_nR, labels_n1, targets, grad_nR)
        only_hard = replace(self, soft_weight=0.0, temperature=1.0)
        only_soft = replace(self, hard_weight=0.0, temperature=1.0)
        _, hard, factor = only_hard(logits_nR, labels_n1, None, grad_nR)
        has_hard_gradient = self.with_gradient and self.hard_weight > 0
        hard_grad_nR = grad_nR * factor if has_hard_gradient else None
        tempered_nR = logits_nR.to(self.exact_dtype) / self.temperature
        soft, _, factor = only_soft(tempered_nR, labels_n1, targets, grad_nR)
        factor /= self.temperature
        if hard_grad_nR is None:
            return soft, hard, factor
        torch.add(hard_grad_nR, grad_nR, alpha=factor, out=grad_nR)
        return soft, hard, 1.0

    def _at_temperature_one(
        self, logits_nR: Tensor, labels_n1: Tensor, targets: ChunkTargets | None, grad_nR: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """Do as `__call__` says; `grad_nR` holds the student's softmax q first."""
        q_nR = self._softmax(logits_nR, grad_nR)
        # The largest probability is exp(largest logit − log-sum-exp): two reading passes, where
        # logsumexp makes a copy.
        largest_n1 = logits_nR.amax(-1, keepdim=True).to(self.exact_dtype)
        log_sum_exp_n1 = largest_n1 - q_nR.amax(-1, keepdim=True).log()
        hard = (log_sum_exp_n1 - logits_nR.gather(1, labels_n1)).sum()
        stops = None
        if targets is not None and self.stop_class is not None:
            stops = self.stop_class.join(logits_nR, q_nR)
        student = _Student(logits_nR, log_sum_exp_n1, stops)
        soft, factor = self._soft_part(student, labels_n1, targets, q_nR)
        if stops is not None:
            stops.divide(grad_nR)
        if self.with_gradient and self.hard_weight > 0:
            share_n1 = torch.full_like(log_sum_exp_n1, -self.hard_weight / factor)
            grad_nR.scatter_add_(1, labels_n1, share_n1)
        return soft, hard, factor

    def _softmax(self, logits_nR: Tensor, out_nR: Tensor) -> Tensor:
        """Return the softmax in the exact dtype, made in `out_nR`."""
        if logits_nR.is_cuda or logits_nR.dtype == self.exact_dtype:
            return torch.softmax(logits_nR, -1, dtype=self.exact_dtype, out=out_nR)
        # elsewhere torch makes a copy in the exact dtype first: a new one, each time
        return torch.softmax(out_nR.copy_(logits_nR), -1, out=out_nR)

    def _soft_part(
        self, student: _Student, labels_n1: Tensor, targets: ChunkTargets | None, grad_nR: Tensor
    ) -> tuple[Tensor, float]:
        """Return (soft sum, factor); make `grad_nR` the gradient but for the label's one entry."""
        # Where both parts are cross-entropies they have one gradient: the sum of the weights times
        # q − (the weighted mean of the teacher's and the label's mass).
        total_weight = self.soft_weight + self.hard_weight
        if targets is None:
            return student.logits_nR.new_zeros((), dtype=self.exact_dtype), total_weight
        if self.divergence is forward_kl and isinstance(targets, SampledTargets):
            return self._sampled_part(student, targets, grad_nR), total_weight
        if self.divergence is forward_kl and isinstance(targets, DenseTargets):
            return self._dense_forward_kl_part(student, targets, grad_nR), total_weight
        if isinstance(targets, DenseTargets):
            soft = self._dense_part(student, targets, grad_nR)
        elif isinstance(targets, TopKTargets):
            soft = self._top_k_part(student, targets, grad_nR)
        elif self.of_draws is not None:
            soft = self._scored_draws_part(student, labels_n1[:, 0], targets, grad_nR)
        else:
            soft = self._top_k_part(student, targets.support(labels_n1[:, 0]), grad_nR)
        return soft, total_weight if self.soft_weight == 0 else 1.0

    @property
    def _teachers_share(self) -> float:
        """The soft part's share of the summed weights."""
        return self.soft_weight / (self.soft_weight + self.hard_weight)

    @property
    def _has_soft_gradient(self) -> bool:
        return self.with_gradient and self.soft_weight > 0

    def _sampled_part(self, student: _Student, targets: SampledTargets, grad_nR: Tensor) -> Tensor:
        """Return −Σ ŵ log q, minus the teacher's entropy if known.

        Subtract the share of ŵ from the gradient.
        """
        if student.stops is not None:
            targets = student.stops.sampled(targets)
        ids_nK = targets.ids_NK.clamp(min=0)
        weights_nK = targets.weights_NK.to(self.exact_dtype).masked_fill(targets.ids_NK < 0, 0.0)
        soft = (weights_nK * (student.log_sum_exp_n1 - student.logits_at(ids_nK))).sum()
        if targets.entropy_N is not None:
            soft = soft - targets.entropy_N.to(self.exact_dtype).sum()
        if self._has_soft_gradient:
            grad_nR.scatter_add_(1, ids_nK, weights_nK * -self._teachers_share)
        return soft

    def _scored_draws_part(
        self, student: _Student, labels_n: Tensor, targets: SampledTargets, grad_nR: Tensor
    ) -> Tensor:
        """Return what draws with their log-probs estimate of a divergence, without bias.

        With a = d estimate / d log q of the ids drawn, the gradient on the logits is a − q·Σa.
        """
        if student.stops is not None:
            targets = student.stops.scored(targets, labels_n, grad_nR)
        assert self.of_draws is not None and targets.log_probs is not None
        estimate = self.of_draws
        is_filler_nK = targets.ids_NK < 0
        ids_nK = targets.ids_NK.clamp(min=0)
        weights_nK = targets.weights_NK.to(self.exact_dtype).masked_fill(is_filler_nK, 0.0)
        student_logp_nK = student.logits_at(ids_nK) - student.log_sum_exp_n1
        teacher_logp_nK = targets.log_probs.logp_NK.to(self.exact_dtype)
        soft, slope_nK = self._value_and_slope(
            student_logp_nK.masked_fill(is_filler_nK, 0.0),
            teacher_logp_nK.masked_fill(is_filler_nK, 0.0),
            lambda logq_nK, logp_nK: estimate(logq_nK, logp_nK, weights_nK),
        )
        if self._has_soft_gradient:
            grad_nR.mul_(self.hard_weight - slope_nK.sum(-1, keepdim=True))
            grad_nR.scatter_add_(1, ids_nK, slope_nK)
        return soft

    def _dense_forward_kl_part(
        self, student: _Student, targets: DenseTargets, grad_nR: Tensor
    ) -> Tensor:
        """Return the forward KL; subtract the share of the teacher's mass from the gradient."""
        if student.stops is not None:
            targets = student.stops.dense(targets)
        teacher_logp_nI = targets.logp_NV.to(self.exact_dtype)
        soft = forward_kl(student.logp_of_first(self.num_ids), teacher_logp_nI).sum()
        if self._has_soft_gradient:
            grad_nR[:, : self.num_ids].sub_(teacher_logp_nI.exp(), alpha=self._teachers_share)
        return soft

    def _dense_part(self, student: _Student, targets: DenseTargets, grad_nR: Tensor) -> Tensor:
        """Return any divergence.

        With a = d divergence / d log q the gradient on the logits is a − q·Σa.
        """
        if student.stops is not None:
            targets = student.stops.dense(targets)
        student_logp_nI = student.logp_of_first(self.num_ids)
        teacher_logp_nI = targets.logp_NV.to(self.exact_dtype)
        soft, slope_nI = self._value_and_slope(student_logp_nI, teacher_logp_nI, self.divergence)
        if self._has_soft_gradient:
            total_n1 = slope_nI.sum(-1, keepdim=True)
            grad_nR[:, : self.num_ids].mul_(self.hard_weight - total_n1).add_(slope_nI)
        return soft

    def _top_k_part(self, student: _Student, targets: TopKTargets, grad_nR: Tensor) -> Tensor:
        """Return any divergence over the K ids and the bucket of all others.

        With a = d divergence / d log q of a category, b that of the bucket, A = Σa + b: the
        gradient on the logits is a − q·A for the K ids, and q·(b / Q − A) for the others, where Q
        is the bucket's mass. Q is a sum over the others: exact where 1 − Σq would be rounding.
        """
        if student.stops is not None:
            targets = student.stops.top_k(targets, grad_nR)
        is_filler_nK = targets.ids_NK < 0
        # A filler repeats the first id with mass 0: harmless, and no row of the head is touched
        # that is not meant. Where all are fillers there is no first id: then id 0 stays in the
        # bucket, which is everything.
        ids_nK = torch.where(is_filler_nK, targets.ids_NK[:, :1].clamp(min=0), targets.ids_NK)
        q_nK = grad_nR.gather(1, ids_nK)
        grad_nR.scatter_(1, ids_nK, torch.where(is_filler_nK[:, :1], q_nK, 0.0))
        # In float32 a small bucket may be 0 although it is not empty, on either side, and log 0
        # would make the loss infinite. It counts as the smallest normal number then; -inf only if
        # no other id exists.
        smallest = torch.finfo(torch.float32).tiny
        rest_n1 = grad_nR.sum(-1, keepdim=True).clamp_(min=smallest)
        tail_n1 = targets.tail_logp_N[:, None].to(self.exact_dtype).clamp(min=math.log(smallest))
        num_categories = self.num_ids
        if student.stops is not None:
            num_categories -= len(student.stops.ids_S) - 1
        no_rest_n1 = (~is_filler_nK).sum(-1, keepdim=True) >= num_categories

        def with_bucket(logp_nK: Tensor, bucket_n1: Tensor) -> Tensor:
            kept_nK = logp_nK.masked_fill(is_filler_nK, -math.inf)
            return torch.cat([kept_nK, bucket_n1.masked_fill(no_rest_n1, -math.inf)], -1)

        student_logp_nK = student.logits_at(ids_nK) - student.log_sum_exp_n1
        student_nC = with_bucket(student_logp_nK, rest_n1.log())
        teacher_nC = with_bucket(targets.logp_NK.to(self.exact_dtype), tail_n1)
        soft, slope_nC = self._value_and_slope(student_nC, teacher_nC, self.divergence)
        if self.soft_weight == 0:
            grad_nR.scatter_(1, ids_nK, q_nK)
        elif self.with_gradient:
            q_nK = q_nK.masked_fill(is_filler_nK, 0.0)
            total_n1 = slope_nC.sum(-1, keepdim=True)
            grad_nR.mul_(slope_nC[:, -1:] / rest_n1 + (self.hard_weight - total_n1))
            grad_nR.scatter_add_(1, ids_nK, slope_nC[:, :-1] + q_nK * (self.hard_weight - total_n1))
        return soft

    def _value_and_slope(
        self, student_logp_nC: Tensor, teacher_logp_nC: Tensor, divergence: Divergence
    ) -> tuple[Tensor, Tensor]:
        """Return the summed divergence and soft_weight · its gradient on `student_logp_nC`.

        By autograd, on this one tensor.
        """
        if not self._has_soft_gradient:
            value = divergence(student_logp_nC, teacher_logp_nC).sum()
            return value, torch.zeros_like(student_logp_nC)
        with torch.enable_grad():
            leaf = student_logp_nC.detach().requires_grad_()
            value = divergence(leaf, teacher_logp_nC).sum()
        (slope,) = torch.autograd.grad(value, leaf)
        return value.detach(), slope.mul_(self.soft_weight)
