"""A student of another tokenizer against its teacher: the likelihood of the same bytes.

A chunk is a piece of an answer that both tokenizers cut out alike. Each model gives it a
probability, the product of its tokens'; the loss compares the two as if the chunk either came or
did not (approximate likelihood matching, ALM: Minixhofer et al. 2025, arXiv 2503.20083).

N: positions that carry loss, M: chunks, H: hidden width, V: ids of the student.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.losses.head import Head
from distill.losses.head_log_probs import head_log_probs

# A chunk of many tokens has a probability near 0; its root is far from 0 and from 1.
TEMPERATURE = 100.0
EPSILON = 1e-6  # taken off P^(1/TEMPERATURE), in logs: P may be 1
BOUNDARY, END = 0, 1  # rows of sets_SV


@dataclass(frozen=True, eq=False)
class ByteChunkTargets:
    """What the teacher says of M chunks, and where they are in the student's positions.

    chunk_N: int64, the chunk of each position's token; -1 = none. is_end_N: bool, whether it ends
    the answer: then any id that does counts. after_M: int64, the position after a chunk's last,
    where a word begins, or an answer ends, by the teacher's probability in teacher_logp_M; -1: the
    chunk is compared without. teacher_logp_M: float, of the chunk and of that.
    sets_SV: bool [2, V], the student's ids that begin a word or end an answer, and that end one.
    """

    chunk_N: Tensor
    is_end_N: Tensor
    after_M: Tensor
    teacher_logp_M: Tensor
    sets_SV: Tensor

    def __len__(self) -> int:
        return len(self.chunk_N)

    @property
    def num_chunks(self) -> int:
        return len(self.after_M)


def byte_chunk_loss(
    hidden_NH: Tensor,
    head: Head,
    labels_N: Tensor,
    targets: ByteChunkTargets,
    *,
    soft_weight: float,
    hard_weight: float,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum `soft_weight · distance(teacher, student)` over chunks and `hard_weight · cross-entropy` over N.

    As `linear_head_loss`, which see: the sums are to be divided once, by the number of loss tokens.
    """
    logp_N, mass_NS = head_log_probs(
        hidden_NH,
        head,
        labels_N,
        targets.sets_SV,
        vocab_size=vocab_size,
        chunk_size=chunk_size,
    )
    student_logp_M = chunk_log_probs(logp_N, mass_NS, targets)
    teacher_logp_M = targets.teacher_logp_M.to(student_logp_M)
    soft = likelihood_distance(teacher_logp_M, student_logp_M).sum()
    hard = -logp_N.sum()
    weighted = ((soft_weight, soft), (hard_weight, hard))
    # a part with weight 0 is only measured: 0 · inf would be NaN
    loss = torch.stack([weight * part for weight, part in weighted if weight > 0]).sum()
    return loss, {"soft": soft.detach(), "hard": hard.detach()}


def chunk_log_probs(logp_N: Tensor, mass_NS: Tensor, targets: ByteChunkTargets) -> Tensor:
    """Return the student's log-prob of each chunk, and of the boundary after it, [M]."""
    token_N = torch.where(targets.is_end_N, mass_NS[:, END], logp_N)
    # what is in no chunk is collected in one that is dropped
    number_N = torch.where(targets.chunk_N < 0, targets.num_chunks, targets.chunk_N)
    sums = token_N.new_zeros(targets.num_chunks + 1).index_add(0, number_N, token_N)
    if targets.num_chunks == 0:
        return sums[:0]
    after_M = mass_NS[targets.after_M.clamp(min=0), BOUNDARY]
    return sums[:-1] + torch.where(targets.after_M < 0, 0.0, after_M)


def likelihood_distance(
    teacher_logp_M: Tensor, student_logp_M: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """Return τ · KL between two coins that fall with P_T^(1/τ) and P_S^(1/τ), from log P_T and log P_S.

    It is the binary cross-entropy of the paper less what no student changes (the entropy), so that
    it is 0 where they are equal; and times τ, without which its gradient would be a hundredth of
    cross-entropy's: with τ, d / d log P_S is about (log P_T / log P_S) − 1, whatever τ is.
    """
    teacher, student = (logp / temperature - EPSILON for logp in (teacher_logp_M, student_logp_M))
    comes = teacher.exp() * (teacher - student)
    does_not = -torch.expm1(teacher) * (log1mexp(teacher) - log1mexp(student))
    return temperature * (comes + does_not)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − exp(x)) for x < 0, to rounding (Mächler 2012)."""
    half = -math.log(2)
    near = torch.log(-torch.expm1(x.clamp(min=half)))
    far = torch.log1p(-torch.exp(x.clamp(max=half)))
    return torch.where(x > half, near, far)


def sets_of(boundary_ids: Sequence[int], end_ids: Sequence[int], vocab_size: int) -> Tensor:
    """Return `sets_SV` of a student's tokenizer."""
    sets_SV = torch.zeros(2, vocab_size, dtype=torch.bool)
    sets_SV[BOUNDARY, list(boundary_ids)] = True
    sets_SV[END, list(end_ids)] = True
    return sets_SV
