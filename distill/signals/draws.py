"""From a teacher's logits to a record: draws (the default), the likeliest ids, or everything.

Draws are stratified: the j-th of n takes its uniform number from [j/n, (j+1)/n). Each id's expected
share of the draws is its probability, as with independent draws (random-sampling KD, arXiv
2503.16870), and no function of the ids has a larger variance. On Zipf-like teachers the squared
error of the shares is a third of that of independent draws, for a tenth more unique ids: 20 such
draws are as good as 50 independent ones. The uniform numbers come from a hash of the sequence's
seed, the position and j: the same on every device, whatever else is in the batch.

Only ids that the tokenizer has take part (`Columns`), which cuts off a padded head. For a student
with a trimmed vocabulary the logits are those of its own ids (signals/pieces.py). Logits may be of
any float dtype, on any device that has float64; sums are float32 in blocks, float64 over blocks.

N: positions of one sequence, C: columns of the logits, V: ids, n: draws, R: positions of a chunk,
B: blocks of S ids.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.core.splitmix import splitmix
from distill.errors import DataError, MismatchError
from distill.signals.columns import Columns
from distill.signals.encoding import (
    F32,
    DenseRecord,
    LikelihoodRecord,
    SampledRecord,
    ScoredDraws,
    TopKRecord,
)

LOG2_E = math.log2(math.e)
CACHED_VALUES = 1 << 20  # on a CPU: float32 values of a chunk that stay in its cache
# Elsewhere: a chunk has at most four temporaries of that many float32, 128 MiB.
CHUNK_VALUES = 1 << 23
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step from one number to the next


@dataclass(frozen=True, eq=False)
class Rows:
    """Sequence seed and position of each logits row.

    seeds_N: uint64, of its sequence; positions_N: int64, its number in the answer.
    """

    seeds_N: NDArray[np.uint64]
    positions_N: NDArray[np.int64]

    @classmethod
    def of(cls, seed: int, num_rows: int, first_position: int = 0) -> "Rows":
        """Return the rows of one sequence, from `first_position` on."""
        seeds_N = np.full(num_rows, seed & (1 << 64) - 1, np.uint64)
        return cls(seeds_N, np.arange(first_position, first_position + num_rows))

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the rows of all parts, one after another."""
        return cls(
            np.concatenate([p.seeds_N for p in parts]),
            np.concatenate([p.positions_N for p in parts]),
        )

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(self.seeds_N[part], self.positions_N[part])

    def __len__(self) -> int:
        return len(self.seeds_N)


def seed_of(key: str) -> int:
    """Return the seed of a sequence, from its key (`sequence_key`)."""
    return int(key[:16], 16)


@torch.no_grad()
def draw(
    logits_NC: Tensor,
    target_N: Tensor,
    rows: Rows,
    *,
    num_draws: int,
    columns: Columns,
    with_log_probs: bool = False,
) -> SampledRecord:
    """Draw `num_draws` ids a position at T = 1; note the targets' log-probs and the entropy.

    logits_NC: any float dtype.
    target_N: int64, the answer's own tokens in the student's ids, on the host or where the logits
        are (looking at them there makes the host wait).
    rows: of one sequence or of several, or of a part of one; what a row gives depends on its seed,
        its position and its logits alone.
    with_log_probs: note those of the ids drawn too (`ScoredDraws`); the draws are the same.

    Raises MismatchError if an answer has a token that teacher and student do not share, DataError
    if logits are not finite (-inf is: it means never).
    """
    num_rows, vocab_size = len(logits_NC), columns.num_known
    _check_targets(target_N, num_rows, vocab_size)
    device = logits_NC.device
    uniform_Nn = torch.from_numpy(_stratified_uniforms(rows, num_draws)).to(device)
    target_N = target_N.to(device)
    ids_Nn = torch.empty(num_rows, num_draws, dtype=torch.int32, device=device)
    target_logp_N = torch.empty(num_rows, device=device)
    entropy_N = torch.empty(num_rows, device=device)
    log_probs = _LogProbs.empty(num_rows, num_draws, device) if with_log_probs else None

    block_size = _block_size(vocab_size, num_draws)
    padded_size = -(-vocab_size // block_size) * block_size
    values_per_row = max(padded_size, num_draws * block_size)
    chunk_rows = min(_rows_of_chunk(values_per_row, device), num_rows)
    centred_buffer_RV = torch.empty(chunk_rows, vocab_size, device=device)
    weights_buffer_RV = torch.empty(chunk_rows, padded_size, device=device)
    weights_buffer_RV[:, vocab_size:] = 0  # the padding stays zero: no draw falls there
    for part in chunks(num_rows, values_per_row, device):
        logits_RV = columns.known(logits_NC[part]).float()
        centred_RV = centred_buffer_RV[: len(logits_RV)]
        padded_weights_RV = weights_buffer_RV[: len(logits_RV)]
        weights_RV = padded_weights_RV[:, :vocab_size]
        # In base 2: torch's exp2 takes 2/3 of the time of its exp, and 1/20 where results are
        # denormal.
        torch.sub(logits_RV, logits_RV.amax(-1, keepdim=True), out=centred_RV).mul_(LOG2_E)
        torch.exp2(centred_RV, out=weights_RV)
        weights_RBS = padded_weights_RV.view(len(logits_RV), -1, block_size)
        ids_Nn[part], total_R = _invert(weights_RBS, uniform_Nn[part])
        log_total_R = total_R.log()
        if log_probs is not None:
            drawn_R = centred_RV.gather(1, ids_Nn[part].long())
            log_probs.logp_Nn[part] = drawn_R / LOG2_E - log_total_R[:, None]
        target_R = centred_RV.gather(1, target_N[part, None])[:, 0]
        target_logp_N[part] = target_R / LOG2_E - log_total_R
        # H = log Z - sum(w x) / Z with x = logits - max. A -inf gives -inf * 0: its share in the
        # sum is 0.
        weighted_R = centred_RV.mul_(weights_RV).nansum(-1) / LOG2_E
        entropy_N[part] = (log_total_R - weighted_R / total_R).clamp(min=0)
        if log_probs is not None:
            known_RC = torch.cat([ids_Nn[part].long(), target_N[part, None]], 1)
            # Summed over the others: see `top_k`.
            rest_R = weights_RV.scatter_(1, known_RC, 0).sum(-1, dtype=torch.float64)
            log_probs.tail_N[part] = rest_R.log() - log_total_R
    entropy = entropy_N.cpu().numpy()
    _check_finite(entropy, rows)
    record, is_new_Nn = _record(ids_Nn.cpu().numpy(), target_logp_N.cpu().numpy(), entropy)
    return record if log_probs is None else log_probs.beside(record, is_new_Nn)


@dataclass(frozen=True, eq=False)
class _LogProbs:
    """Log-probs of the draws [N, n], and of what is neither drawn nor the target [N]."""

    logp_Nn: Tensor
    tail_N: Tensor

    @classmethod
    def empty(cls, num_rows: int, num_draws: int, device: torch.device) -> "_LogProbs":
        return cls(
            torch.empty(num_rows, num_draws, device=device), torch.empty(num_rows, device=device)
        )

    def beside(self, record: SampledRecord, is_new_Nn: NDArray[np.bool_]) -> ScoredDraws:
        logp = self.logp_Nn.cpu().numpy()[is_new_Nn]
        return ScoredDraws(
            record.ids,
            record.counts,
            record.offsets,
            record.target_logp,
            record.entropy,
            logp,
            self.tail_N.cpu().numpy(),
        )


@torch.no_grad()
def top_k(logits_NC: Tensor, rows: Rows, *, k: int, columns: Columns) -> TopKRecord:
    """Return the k likeliest ids, their log-probs, and the log of the mass of all others.

    Raises DataError as `draw` does.
    """
    num_rows = len(logits_NC)
    ids_NK = torch.empty(num_rows, k, dtype=torch.int32)
    logp_NK = torch.empty(num_rows, k)
    tail_N = torch.empty(num_rows)
    for part in chunks(num_rows, columns.num_known, logits_NC.device):
        logits_RV = columns.known(logits_NC[part]).float()
        log_total_R1 = logits_RV.logsumexp(-1, keepdim=True)
        _check_finite(log_total_R1[:, 0].cpu().numpy(), rows[part])
        ids_RK = logits_RV.topk(k, sorted=False).indices.sort(-1).values
        ids_NK[part] = ids_RK.to("cpu", torch.int32)
        logp_NK[part] = (logits_RV.gather(1, ids_RK) - log_total_R1).cpu()
        # Summed over the others and not log(1 - sum), which loses all digits of a small tail.
        tail_R = logits_RV.scatter(1, ids_RK, -torch.inf).logsumexp(-1)
        tail_N[part] = (tail_R - log_total_R1[:, 0]).cpu()
    return TopKRecord(ids_NK.numpy(), logp_NK.numpy(), tail_N.numpy())


@torch.no_grad()
def dense(logits_NC: Tensor, rows: Rows, *, columns: Columns) -> DenseRecord:
    """Return the log-probs of all ids. Raises DataError as `draw` does."""
    num_ids = columns.num_known
    logp_NV = torch.empty(len(logits_NC), num_ids)
    for part in chunks(len(logits_NC), num_ids, logits_NC.device):
        logp_NV[part] = columns.known(logits_NC[part]).float().log_softmax(-1).cpu()
        _check_finite(logp_NV[part].amax(-1).numpy(), rows[part])
    return DenseRecord(logp_NV.numpy())


@torch.no_grad()
def likelihoods(
    logits_NC: Tensor, target_N: Tensor, rows: Rows, *, columns: Columns
) -> LikelihoodRecord:
    """Return the log-probs of the answer's tokens, and of a boundary before each, over all ids.

    Raises DataError as `draw` does, and MismatchError for a token that the teacher does not have.
    """
    num_ids, device = columns.num_known, logits_NC.device
    _check_targets(target_N, len(logits_NC), num_ids)
    boundary_ids, end_ids = columns.boundaries_on(device)
    target_N = target_N.to(device)
    logp_N, boundary_N = torch.empty(2, len(logits_NC)).unbind()
    for part in chunks(len(logits_NC), num_ids, device):
        known_RC = columns.known(logits_NC[part]).float()
        total_R = known_RC.logsumexp(-1)
        target_R1 = target_N[part, None]
        target_R = known_RC.gather(1, target_R1)[:, 0]
        end_R = known_RC[:, end_ids].logsumexp(-1)
        is_end_R = torch.isin(target_R1[:, 0], end_ids)
        logp_N[part] = (torch.where(is_end_R, end_R, target_R) - total_R).clamp(max=0).cpu()
        boundary_R = known_RC[:, boundary_ids].logsumexp(-1) - total_R
        boundary_N[part] = boundary_R.clamp(max=0).cpu()
        _check_finite(total_R.cpu().numpy(), rows[part])
    return LikelihoodRecord(logp_N.numpy(), boundary_N.numpy())


def _invert(weights_RBS: Tensor, uniform_Rn: Tensor) -> tuple[Tensor, Tensor]:
    """Return (the id that each uniform number draws [R, n], sum of weights [R] float64).

    That is the id whose share of the cumulated weights holds the number: the inverse of the
    cumulative distribution, at two levels, among blocks, then inside one. A goal is always below
    the last cumulated sum, and the first sum above it belongs to a positive weight: rounding cannot
    choose another id.
    """
    block_size = weights_RBS.shape[-1]
    cumulated_RB = weights_RBS.sum(-1).cumsum(-1, dtype=torch.float64)
    total_R = cumulated_RB[:, -1]
    goal_Rn = torch.minimum(uniform_Rn * total_R[:, None], _just_below(total_R[:, None]))
    block_Rn = torch.searchsorted(cumulated_RB, goal_Rn, right=True)
    block_Rn.clamp_(max=cumulated_RB.shape[1] - 1)  # only NaN lies above all; the caller refuses it
    before_Rn = torch.nn.functional.pad(cumulated_RB, (1, 0)).gather(1, block_Rn)
    row_R1 = torch.arange(len(weights_RBS), device=weights_RBS.device)[:, None]
    inside_RnS = weights_RBS[row_R1, block_Rn].cumsum(-1, dtype=torch.float64)
    rest_Rn1 = (goal_Rn - before_Rn)[..., None]
    rest_Rn1 = torch.minimum(rest_Rn1, _just_below(inside_RnS[..., -1:]))
    within_block_Rn = torch.searchsorted(inside_RnS, rest_Rn1, right=True)[..., 0]
    return block_Rn * block_size + within_block_Rn, total_R


def _block_size(vocab_size: int, num_draws: int) -> int:
    """Return S, a power of 2.

    Near where summing V / S blocks and looking into n of them cost the same.
    """
    return 1 << max(0, round(math.log2(vocab_size / num_draws) / 2))


def _just_below(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.zeros_like(values))


def _record(
    ids_Nn: NDArray[np.int32], target_logp: F32, entropy: F32
) -> tuple[SampledRecord, NDArray[np.bool_]]:
    """Return the record, where equal draws are one id with a count, and each id's first draw [N, n].

    They stand side by side: ids ascend with the uniform numbers.
    """
    is_new_Nn = np.ones(ids_Nn.shape, bool)
    is_new_Nn[:, 1:] = ids_Nn[:, 1:] != ids_Nn[:, :-1]
    first = np.flatnonzero(is_new_Nn)
    counts = np.diff(first, append=ids_Nn.size).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(is_new_Nn.sum(1))])
    record = SampledRecord(ids_Nn.reshape(-1)[first], counts, offsets, target_logp, entropy)
    return record, is_new_Nn


def _stratified_uniforms(rows: Rows, num_draws: int) -> NDArray[np.float64]:
    """Return float64 [N, num_draws], ascending in a row: one in each of equal parts of [0, 1)."""
    streams_N = splitmix(rows.seeds_N ^ splitmix(rows.positions_N.astype(np.uint64)))
    number_n = np.arange(1, num_draws + 1, dtype=np.uint64)
    random_Nn = splitmix(streams_N[:, None] + number_n * GOLDEN_GAMMA)
    jitter_Nn = (random_Nn >> np.uint64(11)) * 2.0**-53
    return (np.arange(num_draws) + jitter_Nn) / num_draws


def _rows_of_chunk(values_per_row: int, device: torch.device) -> int:
    values = CACHED_VALUES if device.type == "cpu" else CHUNK_VALUES
    return max(1, values // values_per_row)


def chunks(num_rows: int, values_per_row: int, device: torch.device) -> Iterator[slice]:
    """Return slices of so many rows that work on one stays small; on a CPU, in its cache."""
    step = _rows_of_chunk(values_per_row, device)
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _check_targets(target_N: Tensor, num_rows: int, vocab_size: int) -> None:
    if target_N.shape != (num_rows,):
        raise ValueError(
            f"target_N has shape {tuple(target_N.shape)}, expected ({num_rows},) "
            "as logits_NC has rows"
        )
    if num_rows and not 0 <= int(target_N.min()) <= int(target_N.max()) < vocab_size:
        raise MismatchError(
            f"an answer has token {int(target_N.max())}, "
            f"teacher and student share ids below {vocab_size}: "
            "it was made with another tokenizer; run `distill run RECIPE --redo generate`"
        )


def _check_finite(values_N: NDArray[np.floating], rows: Rows) -> None:
    broken = np.flatnonzero(~np.isfinite(values_N))
    if len(broken):
        first = broken[0]
        raise DataError(
            "the teacher's logits are not finite at "
            f"answer token {rows.positions_N[first]} of the sequence whose key begins with "
            f"{rows.seeds_N[first]:016x}; load it with teacher.dtype=float32, or check its files"
        )
