"""How likely a model finds each of several continuations of a context, which it reads only once.

The context goes through the model once; its keys and values are then repeated for the continuations,
which are read together. A continuation of one token, such as a letter, needs no second pass: its
log-prob stands behind the context. Contexts of similar length are batched.

Where a row has no place of its own in the model's cache (slots.py: a sliding window, a recurrent
state) every continuation is read with its context; the sums are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from distill.losses.head import Head
from distill.models.batching import batches_by_length
from distill.models.head import head_of
from distill.models.score import logit_chunks, score
from distill.models.sequences import Continued, TokenSequence
from distill.models.slots import has_slots


@dataclass(frozen=True)
class Reader:
    """A model and what reading takes: over its first `vocab_size` ids, filled up with `pad_id`."""

    model: Any
    head: Head
    pad_id: int
    vocab_size: int
    batch_tokens: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any, batch_tokens: int) -> "Reader":
        return cls(model, head_of(model), tokenizer.pad_token_id, len(tokenizer), batch_tokens)

    @property
    def shares_contexts(self) -> bool:
        return has_slots(self.model)


@torch.no_grad()
def log_likelihoods(
    reader: Reader, asked: Sequence[Continued], on_done: Callable[[int], None]
) -> list[list[float]]:
    """Return for each context the log-prob of each continuation, summed over its tokens.

    `on_done(how many)` is called as contexts are done.
    """
    if not reader.shares_contexts:
        return _each_by_itself(reader, asked, on_done)
    results: list[list[float]] = [[] for _ in asked]
    for batch in batches_by_length([each.num_cached for each in asked], reader.batch_tokens):
        found = _of_batch(reader, [asked[i] for i in batch])
        for index, sums in zip(batch, found, strict=True):
            results[index] = sums
        on_done(len(batch))
    return results


def _each_by_itself(
    reader: Reader, asked: Sequence[Continued], on_done: Callable[[int], None]
) -> list[list[float]]:
    places = [(i, c) for i, each in enumerate(asked) for c in range(len(each.continuations))]
    sequences = [
        TokenSequence([*asked[i].context, *asked[i].continuations[c]], len(asked[i].context))
        for i, c in places
    ]
    results = [[0.0] * len(each.continuations) for each in asked]
    left = [len(each.continuations) for each in asked]
    for index, logp_T, _ in score(
        reader.model,
        reader.head,
        sequences,
        batch_tokens=reader.batch_tokens,
        pad_id=reader.pad_id,
        vocab_size=reader.vocab_size,
    ):
        i, c = places[index]
        results[i][c] = float(logp_T.double().sum())
        left[i] -= 1
        on_done(int(left[i] == 0))
    return results


def _of_batch(reader: Reader, batch: Sequence[Continued]) -> list[list[float]]:
    """Return the sums of each continuation of each context of one batch."""
    longer = [
        (row, c)
        for row, each in enumerate(batch)
        for c, ids in enumerate(each.continuations)
        if len(ids) > 1
    ]
    cache = DynamicCache(config=reader.model.config) if longer else None
    mask_BT, hidden_BH = _read_contexts(reader, batch, cache)
    labels = [[ids[0] for ids in each.continuations] for each in batch]
    sums = _log_probs(reader, hidden_BH, labels)
    if cache is not None:
        for (row, c), rest in zip(
            longer, _rests(reader, batch, longer, cache, mask_BT), strict=True
        ):
            sums[row][c] += rest
    return sums


def _read_contexts(
    reader: Reader, batch: Sequence[Continued], cache: DynamicCache | None
) -> tuple[Tensor, Tensor]:
    """Return the mask [B, T] of the contexts, filled up on the left, and the last hidden states."""
    width = max(len(each.context) for each in batch)
    ids_BT = torch.full((len(batch), width), reader.pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, each in enumerate(batch):
        ids_BT[row, width - len(each.context) :] = torch.tensor(each.context)
        mask_BT[row, width - len(each.context) :] = 1
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    device = reader.model.device
    output = reader.model.base_model(
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        position_ids=positions_BT.to(device),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return mask_BT, output.last_hidden_state[:, -1]


def _rests(
    reader: Reader,
    batch: Sequence[Continued],
    longer: Sequence[tuple[int, int]],
    cache: DynamicCache,
    mask_BT: Tensor,
) -> list[float]:
    """Return the sums of the tokens after the first of the continuations (row, number)."""
    device = reader.model.device
    rows_R = torch.tensor([row for row, _ in longer])
    inputs = [list(batch[row].continuations[c]) for row, c in longer]
    width = max(map(len, inputs)) - 1
    ids_RL = torch.full((len(longer), width), reader.pad_id)
    mask_RL = torch.zeros_like(ids_RL)
    for number, ids in enumerate(inputs):
        ids_RL[number, : len(ids) - 1] = torch.tensor(ids[:-1])
        mask_RL[number, : len(ids) - 1] = 1
    positions_RL = mask_BT.sum(-1)[rows_R, None] + torch.arange(width)
    cache.batch_select_indices(rows_R)  # on the host: layers may lie on several devices
    hidden_RLH = reader.model.base_model(
        input_ids=ids_RL.to(device),
        attention_mask=torch.cat([mask_BT[rows_R], mask_RL], 1).to(device),
        position_ids=positions_RL.to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden_NH = hidden_RLH[mask_RL.bool().to(hidden_RLH.device)]
    labels = [[label] for ids in inputs for label in ids[1:]]
    logp = iter(_log_probs(reader, hidden_NH, labels))
    return [sum(next(logp)[0] for _ in ids[1:]) for ids in inputs]


def _log_probs(
    reader: Reader, hidden_NH: Tensor, labels: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Return the log-probs of some ids behind each hidden state."""
    results = []
    for part, logits_NV in logit_chunks(reader.head, hidden_NH):
        logits_NV = logits_NV[:, : reader.vocab_size]
        totals = logits_NV.logsumexp(-1)
        for row, ids in enumerate(labels[part]):
            chosen = logits_NV[row, torch.tensor(ids, device=logits_NV.device)] - totals[row]
            results.append(chosen.double().tolist())
    return results
