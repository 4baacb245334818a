"""From a teacher's logits to a record: draws (the default), the likeliest ids, or everything.

Draws are stratified: the j-th of n takes its uniform number from [j/n, (j+1)/n). Each id's expected share of the draws
is its probability, as with independent draws (random-sampling KD, arXiv 2503.16870), and no function of the ids has a
larger variance. On Zipf-like teachers the squared error of the shares is a third of that of independent draws, for a
tenth more unique ids: 20 such draws are as good as 50 independent ones. The uniform numbers come from a hash of the
sequence's seed, the position and j: the same on every device, whatever else is in the batch.

Only ids below `vocab_size` take part, which cuts off a padded head; probabilities are renormalised over them. Logits
may be of any float dtype, on any device that has float64; sums are float32 in blocks, float64 over blocks.

N: positions of one sequence, V: ids, n: draws, B: blocks of S ids.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import DataError, MismatchError
from distill.signals.encoding import F32, DenseRecord, SampledRecord, TopKRecord

LOG2_E = math.log2(math.e)
CACHED_VALUES = 1 << 20  # on a CPU: float32 values of a chunk that stay in its cache
CHUNK_VALUES = (
    1 << 23
)  # elsewhere: a chunk has at most four temporaries of that many float32, 128 MiB


@dataclass(frozen=True, eq=False)
class Rows:
    """Whose each row of logits is. seeds_N: uint64, of its sequence; positions_N: int64, its number in the answer."""

    seeds_N: NDArray[np.uint64]
    positions_N: NDArray[np.int64]

    @classmethod
    def of(cls, seed: int, num_rows: int, first_position: int = 0) -> "Rows":
        """Rows of one sequence, from `first_position` on."""
        seeds_N = np.full(num_rows, seed & (1 << 64) - 1, np.uint64)
        return cls(seeds_N, np.arange(first_position, first_position + num_rows))

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        return cls(
            np.concatenate([p.seeds_N for p in parts]),
            np.concatenate([p.positions_N for p in parts]),
        )

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(self.seeds_N[part], self.positions_N[part])

    def __len__(self) -> int:
        return len(self.seeds_N)


def seed_of(key: str) -> int:
    """The seed of a sequence, from its key (`sequence_key`)."""
    return int(key[:16], 16)


@torch.no_grad()
def draw(
    logits_NV: Tensor, realised_N: Tensor, rows: Rows, *, num_draws: int, vocab_size: int
) -> SampledRecord:
    """`num_draws` ids a position at T = 1, with the log-prob of the realised tokens and the entropy.

    logits_NV: any float dtype, may be wider than vocab_size. realised_N: int64, the answer's own tokens, on the host or
    where the logits are (looking at them there makes the host wait). rows: of one sequence or of several, or of a part
    of one; what a row gives depends on its seed, its position and its logits alone.

    Raises MismatchError if an answer has a token that teacher and student do not share, DataError if logits are not
    finite (-inf is: it means never).
    """
    num = len(logits_NV)
    _check_realised(realised_N, num, vocab_size)
    device = logits_NV.device
    uniform_Nn = torch.from_numpy(_stratified_uniforms(rows, num_draws)).to(device)
    realised_N = realised_N.to(device)
    ids_Nn = torch.empty(num, num_draws, dtype=torch.int32, device=device)
    realised_logp_N = torch.empty(num, device=device)
    entropy_N = torch.empty(num, device=device)

    block = _block_size(vocab_size, num_draws)
    padded = -(-vocab_size // block) * block
    per_row = max(padded, num_draws * block)
    most = min(_rows_of_chunk(per_row, device), num)
    centred_RV = torch.empty(most, vocab_size, device=device)
    weights_RV = torch.empty(most, padded, device=device)
    weights_RV[:, vocab_size:] = 0  # the padding stays zero: no draw falls there
    for part in _chunks(num, per_row, device):
        chunk_RV = logits_NV[part, :vocab_size].float()
        x_RV, w_RV = centred_RV[: len(chunk_RV)], weights_RV[: len(chunk_RV)]
        # In base 2: torch's exp2 takes 2/3 of the time of its exp, and 1/20 where results are denormal.
        torch.sub(chunk_RV, chunk_RV.amax(-1, keepdim=True), out=x_RV).mul_(LOG2_E)
        torch.exp2(x_RV, out=w_RV[:, :vocab_size])
        ids_Nn[part], total_R = _invert(w_RV.view(len(x_RV), -1, block), uniform_Nn[part])
        log_total_R = total_R.log()
        realised_logp_N[part] = x_RV.gather(1, realised_N[part, None])[:, 0] / LOG2_E - log_total_R
        # H = log Z - sum(w x) / Z with x = logits - max. A -inf gives -inf * 0: its share in the sum is 0.
        weighted_R = x_RV.mul_(w_RV[:, :vocab_size]).nansum(-1) / LOG2_E
        entropy_N[part] = (log_total_R - weighted_R / total_R).clamp(min=0)
    entropy = entropy_N.cpu().numpy()
    _check_finite(entropy, rows)
    return _record(ids_Nn.cpu().numpy(), realised_logp_N.cpu().numpy(), entropy)


@torch.no_grad()
def top_k(logits_NV: Tensor, rows: Rows, *, k: int, vocab_size: int) -> TopKRecord:
    """The k likeliest ids, their log-probs, and the log of the mass of all others. Raises DataError as `draw` does."""
    num = len(logits_NV)
    ids_NK = torch.empty(num, k, dtype=torch.int32)
    logp_NK, tail_N = torch.empty(num, k), torch.empty(num)
    for part in _chunks(num, vocab_size, logits_NV.device):
        logits_RV = logits_NV[part, :vocab_size].float()
        log_total_R1 = logits_RV.logsumexp(-1, keepdim=True)
        _check_finite(log_total_R1[:, 0].cpu().numpy(), rows[part])
        ids_RK = logits_RV.topk(k, sorted=False).indices.sort(-1).values
        ids_NK[part] = ids_RK.to("cpu", torch.int32)
        logp_NK[part] = (logits_RV.gather(1, ids_RK) - log_total_R1).cpu()
        # Summed over the others and not log(1 - sum), which loses all digits of a small tail.
        rest_R = logits_RV.scatter(1, ids_RK, -torch.inf).logsumexp(-1)
        tail_N[part] = (rest_R - log_total_R1[:, 0]).cpu()
    return TopKRecord(ids_NK.numpy(), logp_NK.numpy(), tail_N.numpy())


@torch.no_grad()
def dense(logits_NV: Tensor, rows: Rows, *, vocab_size: int) -> DenseRecord:
    """All log-probs. Raises DataError as `draw` does."""
    logp_NV = torch.empty(len(logits_NV), vocab_size)
    for part in _chunks(len(logits_NV), vocab_size, logits_NV.device):
        logp_NV[part] = logits_NV[part, :vocab_size].float().log_softmax(-1).cpu()
        _check_finite(logp_NV[part].amax(-1).numpy(), rows[part])
    return DenseRecord(logp_NV.numpy())


def _invert(weights_RBS: Tensor, uniform_Rn: Tensor) -> tuple[Tensor, Tensor]:
    """(ids [R, n] whose share of the cumulated weights holds each uniform number, sum of weights [R] float64).

    The inverse of the cumulative distribution, at two levels: among blocks, then inside one. A target is always below
    the last cumulated sum, and the first sum above it belongs to a positive weight: rounding cannot choose another id.
    """
    cumulated_RB = weights_RBS.sum(-1).cumsum(-1, dtype=torch.float64)
    total_R = cumulated_RB[:, -1]
    target_Rn = torch.minimum(uniform_Rn * total_R[:, None], _just_below(total_R[:, None]))
    block_Rn = torch.searchsorted(cumulated_RB, target_Rn, right=True)
    block_Rn.clamp_(max=cumulated_RB.shape[1] - 1)  # only NaN lies above all; the caller refuses it
    before_Rn = torch.nn.functional.pad(cumulated_RB, (1, 0)).gather(1, block_Rn)
    inside_RnS = weights_RBS[
        torch.arange(len(weights_RBS), device=weights_RBS.device)[:, None], block_Rn
    ]
    inside_RnS = inside_RnS.cumsum(-1, dtype=torch.float64)
    rest_Rn1 = torch.minimum((target_Rn - before_Rn)[..., None], _just_below(inside_RnS[..., -1:]))
    return block_Rn * weights_RBS.shape[-1] + torch.searchsorted(inside_RnS, rest_Rn1, right=True)[
        ..., 0
    ], total_R


def _block_size(vocab_size: int, num_draws: int) -> int:
    """S: a power of 2 near where summing V / S blocks and looking into n of them cost the same."""
    return 1 << max(0, round(math.log2(vocab_size / num_draws) / 2))


def _just_below(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.zeros_like(values))


def _record(ids_Nn: NDArray[np.int32], realised_logp: F32, entropy: F32) -> SampledRecord:
    """Equal draws become one id with a count. They stand side by side: ids ascend with the uniform numbers."""
    is_new_Nn = np.ones(ids_Nn.shape, bool)
    is_new_Nn[:, 1:] = ids_Nn[:, 1:] != ids_Nn[:, :-1]
    first = np.flatnonzero(is_new_Nn)
    counts = np.diff(first, append=ids_Nn.size).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(is_new_Nn.sum(1))])
    return SampledRecord(ids_Nn.reshape(-1)[first], counts, offsets, realised_logp, entropy)


def _stratified_uniforms(rows: Rows, num_draws: int) -> NDArray[np.float64]:
    """float64 [N, num_draws], ascending in a row, in [0, 1): one in each of `num_draws` equal parts."""
    streams = _splitmix(rows.seeds_N ^ _splitmix(rows.positions_N.astype(np.uint64)))
    draws = np.arange(1, num_draws + 1, dtype=np.uint64)
    jitter = (
        _splitmix(streams[:, None] + draws * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    ) * 2.0**-53
    return (np.arange(num_draws) + jitter) / num_draws


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The mixing function of SplitMix64 (Steele, Lea, Flood 2014); arithmetic modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _rows_of_chunk(values_per_row: int, device: torch.device) -> int:
    return max(1, (CACHED_VALUES if device.type == "cpu" else CHUNK_VALUES) // values_per_row)


def _chunks(num: int, values_per_row: int, device: torch.device) -> Iterator[slice]:
    rows = _rows_of_chunk(values_per_row, device)
    return (slice(start, min(start + rows, num)) for start in range(0, num, rows))


def _check_realised(realised_N: Tensor, num: int, vocab_size: int) -> None:
    if realised_N.shape != (num,):
        raise ValueError(
            f"realised_N has shape {tuple(realised_N.shape)}, expected ({num},) as logits_NV has rows"
        )
    if num and not 0 <= int(realised_N.min()) <= int(realised_N.max()) < vocab_size:
        raise MismatchError(
            f"an answer has token {int(realised_N.max())}, teacher and student share ids below {vocab_size}: it was "
            "made with another tokenizer; run with --redo generate"
        )


def _check_finite(values_N: NDArray[np.floating], rows: Rows) -> None:
    broken = np.flatnonzero(~np.isfinite(values_N))
    if len(broken):
        raise DataError(
            f"the teacher's logits are not finite at answer token {rows.positions_N[broken[0]]} of the sequence whose key "
            f"begins with {rows.seeds_N[broken[0]]:016x}; load it with teacher.dtype=float32, or check its files"
        )
