"""Tokens that end an answer, counted as one: both sides' probability of stopping is what is compared.

A teacher ends with <|im_end|>, a base student with <|endoftext|>, and both stop at either: a loss
over single ids would punish the student for a difference that nobody sees, where answers end. So in
the soft part the class is one category, on both sides; its members' masses are summed. How the
student divides its own mass within the class gets no gradient: whatever a category's gradient is, its
members share it by their part in it. Cross-entropy with a label knows the label alone, as ever.

Draws and whole distributions are joined exactly. Of a top-k, or of a support of draws, some members
may be stored and others be in the bucket: how much of the bucket is theirs is not known. The bucket's other
ids get as much as the student gives them, the missing members what is left, at most what the student
gives them; and no member that is not among the k likeliest can have more than the least of those.
Equals stay equal so, and no mass is made up. Where no member is stored the class is a part of the
bucket.

n: positions of a chunk, R: rows that are projected, S: ids of the class, K: ids kept for a position.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.losses.targets import DenseTargets, SampledTargets, TopKTargets


@dataclass(frozen=True, eq=False)
class StopClass:
    """ids_S: int64, two at least, none twice, where the logits are. The first stands for all."""

    ids_S: Tensor

    def join(self, logits_nR: Tensor, q_nR: Tensor) -> "JoinedStops":
        """Move the class's probability in `q_nR` to its first id, in place."""
        logits_nS = logits_nR[:, self.ids_S].to(q_nR.dtype)
        q_nS = q_nR[:, self.ids_S]
        q_nR[:, self.ids_S] = 0
        q_nR[:, self.ids_S[0]] = q_nS.sum(-1)
        return JoinedStops(
            self.ids_S, logits_nS.logsumexp(-1, keepdim=True), logits_nS.softmax(-1), q_nS
        )


@dataclass(frozen=True, eq=False)
class JoinedStops:
    """The class at the positions of a chunk.

    logit_n1: of the class; shares_nS: the student's, within the class; q_nS: the student's
    probabilities of its members.
    """

    ids_S: Tensor
    logit_n1: Tensor
    shares_nS: Tensor
    q_nS: Tensor

    def logits_at(self, logits_nR: Tensor, ids_nK: Tensor) -> Tensor:
        """Return the logits of these ids, that of the class where the id is its first."""
        return torch.where(ids_nK == self.ids_S[0], self.logit_n1, logits_nR.gather(1, ids_nK))

    def logp(self, logp_nI: Tensor, stop_logp_n1: Tensor) -> Tensor:
        """Return log-probs of all ids with all of the class's at its first id; the input is used up."""
        logp_nI[:, self.ids_S] = -math.inf
        logp_nI[:, self.ids_S[:1]] = stop_logp_n1
        return logp_nI

    def divide(self, grad_nR: Tensor) -> None:
        """Divide the gradient on the class among its members, in place."""
        grad_nR[:, self.ids_S] = grad_nR[:, self.ids_S[:1]] * self.shares_nS

    def dense(self, targets: DenseTargets) -> DenseTargets:
        stop_logp_n1 = targets.logp_NV[:, self.ids_S].logsumexp(-1, keepdim=True)
        return DenseTargets(self.logp(targets.logp_NV.clone(), stop_logp_n1))

    def sampled(self, targets: SampledTargets) -> SampledTargets:
        """Return draws of the class; an id may stand twice in a row, and its shares add up."""
        return replace(targets, ids_NK=self._joined(targets.ids_NK))

    def scored(self, targets: SampledTargets, labels_N: Tensor, q_nR: Tensor) -> SampledTargets:
        """Return draws of the class with its log-prob, as far as the draws and the label tell it."""
        assert targets.log_probs is not None
        support = self.top_k(targets.support(labels_N), q_nR)
        is_class_nK = support.ids_NK == self.ids_S[0]
        stop_logp_n1 = support.logp_NK.masked_fill(~is_class_nK, -math.inf).amax(1, keepdim=True)
        is_stop_nK = torch.isin(targets.ids_NK, self.ids_S)
        logp_nK = torch.where(is_stop_nK, stop_logp_n1, targets.log_probs.logp_NK)
        log_probs = replace(targets.log_probs, logp_NK=logp_nK)
        return replace(targets, ids_NK=self._joined(targets.ids_NK), log_probs=log_probs)

    def _joined(self, ids_nK: Tensor) -> Tensor:
        return torch.where(torch.isin(ids_nK, self.ids_S), self.ids_S[0], ids_nK)

    def top_k(self, targets: TopKTargets, q_nR: Tensor) -> TopKTargets:
        """Return a row's members as one, with their part of the bucket."""
        ids_nK, logp_nK = targets.ids_NK, targets.logp_NK
        is_stop_nK = torch.isin(ids_nK, self.ids_S)
        stored_n1 = logp_nK.masked_fill(~is_stop_nK, -math.inf).logsumexp(-1, keepdim=True)
        part_n1 = self._part_of_bucket(targets, q_nR).to(logp_nK.dtype)
        tail_n1 = targets.tail_logp_N[:, None]
        stop_logp_n1 = torch.logaddexp(stored_n1, tail_n1 + part_n1.log())
        is_first_nK = is_stop_nK & (is_stop_nK.cumsum(1) == 1)
        joined_nK = ids_nK.masked_fill(is_stop_nK, -1)
        return replace(
            targets,
            ids_NK=torch.where(is_first_nK, self.ids_S[0], joined_nK),
            logp_NK=torch.where(is_first_nK, stop_logp_n1, logp_nK),
            tail_logp_N=(tail_n1 + torch.log1p(-part_n1))[:, 0],
        )

    def _part_of_bucket(self, targets: TopKTargets, q_nR: Tensor) -> Tensor:
        """Return how much of the teacher's bucket belongs to members that are not stored [n, 1]."""
        ids_nK = targets.ids_NK
        is_stored_nS = (ids_nK[:, :, None] == self.ids_S).any(1)
        is_stop_nK = torch.isin(ids_nK, self.ids_S)
        missing_n1 = (self.q_nS * ~is_stored_nS).sum(-1, keepdim=True)
        is_other_nK = ~is_stop_nK & (ids_nK >= 0)
        kept_n1 = (q_nR.gather(1, ids_nK.clamp(min=0)) * is_other_nK).sum(-1, keepdim=True)
        others_n1 = (1 - kept_n1 - self.q_nS.sum(-1, keepdim=True)).clamp(min=0)
        tail_n1 = targets.tail_logp_N[:, None].to(q_nR.dtype).exp()
        left_n1 = torch.minimum(missing_n1, (tail_n1 - others_n1).clamp(min=0))
        part_n1 = left_n1 / tail_n1.clamp(min=torch.finfo(q_nR.dtype).tiny)
        if targets.is_likeliest:
            has_mass_nK = (ids_nK >= 0) & (targets.logp_NK > -math.inf)
            least_n1 = targets.logp_NK.masked_fill(~has_mass_nK, math.inf).amin(1, keepdim=True)
            num_missing_n1 = (~is_stored_nS).sum(-1, keepdim=True)
            most_n1 = num_missing_n1 * (least_n1 - targets.tail_logp_N[:, None]).exp()
            part_n1 = torch.minimum(part_n1, most_n1.nan_to_num(nan=1.0).to(part_n1.dtype))
        return part_n1.clamp(max=1) * is_stop_nK.any(1, keepdim=True)
