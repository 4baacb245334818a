"""From the records of a batch to what the loss takes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.losses.hidden_states import HiddenTargets
from distill.losses.targets import (
    ChunkTargets,
    DenseTargets,
    DrawLogProbs,
    SampledTargets,
    TopKTargets,
)
from distill.signals.encoding import SampledRecord, ScoredDraws, SignalRecord, TopKRecord, join
from distill.signals.hidden_states import BLOCK, HiddenStates, num_blocks


def targets(records: Sequence[SignalRecord], device: torch.device | str) -> ChunkTargets:
    """Return the tokens of one or more records, one after another.

    On `device`; dense ones stay on the host. The float16 log-probs of top-k and dense records are
    renormalised, so that a token's mass is 1 to float32 rounding. Raises ValueError for records of
    different kinds.
    """
    record = join(records)
    if isinstance(record, SampledRecord):
        return _sampled(record, device)
    if isinstance(record, TopKRecord):
        return _top_k(record, device)
    # The loss moves a chunk at a time; all of it would be as large as the logits.
    return DenseTargets(torch.from_numpy(record.logp).log_softmax(-1))


def hidden_targets(
    states: Sequence[HiddenStates], hidden_size: int, device: torch.device | str
) -> HiddenTargets:
    """Return the hidden states of any number of sequences, one after another, on `device`.

    Of none: no positions.
    """
    no_values = np.zeros((0, hidden_size), np.int8)
    no_scales = np.zeros((0, num_blocks(hidden_size)), np.float16)
    values = np.concatenate([no_values, *(s.values for s in states)])
    scales = np.concatenate([no_scales, *(s.scales for s in states)])
    return HiddenTargets(_to(values, device), _to(scales.astype(np.float32), device), BLOCK)


def _sampled(record: SampledRecord, device: torch.device | str) -> SampledTargets:
    sizes_N = np.diff(record.offsets)
    shape = (record.num_tokens, int(sizes_N.max(initial=1)))
    # Row-major order is the records' order, so what is to fill takes the flat arrays as they are.
    is_id_NK = np.arange(shape[1]) < sizes_N[:, None]
    ids_NK = np.full(shape, -1, np.int64)
    ids_NK[is_id_NK] = record.ids
    num_draws = record.counts.sum() / max(record.num_tokens, 1)  # every token has the same number
    weights_NK = np.zeros(shape, np.float32)
    weights_NK[is_id_NK] = record.counts / num_draws
    log_probs = None
    if isinstance(record, ScoredDraws):
        logp_NK = np.zeros(shape, np.float32)
        logp_NK[is_id_NK] = record.logp
        log_probs = DrawLogProbs(
            _to(logp_NK, device), _to(record.target_logp, device), _to(record.tail_logp, device)
        )
    return SampledTargets(
        _to(ids_NK, device), _to(weights_NK, device), _to(record.entropy, device), log_probs
    )


def _top_k(record: TopKRecord, device: torch.device | str) -> TopKTargets:
    """Return the targets; of a token without any mass nothing is known.

    Then all ids are in one bucket, and no student differs from that.
    """
    is_unknown_N = np.isneginf(record.tail_logp) & np.isneginf(record.logp).all(1)
    tail_N = np.where(is_unknown_N, 0, record.tail_logp)
    unnormalised_NC = np.concatenate([record.logp, tail_N[:, None]], 1)
    logp_NC = torch.from_numpy(unnormalised_NC).log_softmax(-1)
    ids_NK = np.where(is_unknown_N[:, None], -1, record.ids.astype(np.int64))
    return TopKTargets(_to(ids_NK, device), logp_NC[:, :-1].to(device), logp_NC[:, -1].to(device))


def _to(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(values).to(device)
