"""How likely a model finds each of several continuations of a context, which it reads only once.

The context goes through the model once; its keys and values are then repeated for the continuations,
which are read together. A continuation of one token, such as a letter, needs no second pass: its
log-prob stands behind the context. Contexts of similar length are batched. What several contexts
begin with, such as the examples before each question, is read once for all of them.

Where a row has no place of its own in the model's cache (slots.py: a sliding window, a recurrent
state), or several ranks hold the model, every continuation is read with its context; the sums are
the same.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from distill.core.prefixes import common_prefix_length
from distill.losses.head import Head
from distill.models.batching import batches_by_length
from distill.models.divided import part_of
from distill.models.head import head_of
from distill.models.score import logit_chunks, score
from distill.models.sequences import Continued, TokenSequence
from distill.models.slots import has_slots

LEAST_SHARED = 32  # tokens of a beginning; a shorter one is read with each context


@dataclass(frozen=True)
class Beginning:
    """Tokens that contexts begin with, and their keys and values [1, ...]; None of no tokens."""

    num_tokens: int
    cache: DynamicCache | None

    def repeated(self, times: int) -> DynamicCache | None:
        """Return the keys and values for so many rows, to be added to."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(times)
        return cache


NOTHING = Beginning(0, None)


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
        # what is read once stays with the rank that reads it, and a model in parts has several
        return has_slots(self.model) and part_of(self.model) is None


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
    for members, shared in groups_by_beginning([each.context for each in asked]):
        beginning = _read_beginning(reader, shared)
        lengths = [asked[i].num_cached for i in members]
        for batch in batches_by_length(lengths, reader.batch_tokens):
            indices = [members[i] for i in batch]
            found = _of_batch(reader, [asked[i] for i in indices], beginning)
            for index, sums in zip(indices, found, strict=True):
                results[index] = sums
            on_done(len(batch))
    return results


def groups_by_beginning(
    contexts: Sequence[Sequence[int]],
) -> Iterator[tuple[list[int], Sequence[int]]]:
    """Yield the indices of contexts that begin alike, and all tokens that they begin with.

    At least LEAST_SHARED, and never a whole context: its last token is read by itself. Those that
    begin like no other come last, together, with no tokens.
    """
    by_start: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, context in enumerate(contexts):
        start = tuple(context[:LEAST_SHARED]) if len(context) > LEAST_SHARED else ()
        by_start[start].append(index)
    alone = by_start.pop((), [])
    for members in by_start.values():
        if len(members) == 1:
            alone += members
            continue
        of_group = [contexts[i] for i in members]
        alike = common_prefix_length(*of_group)
        yield members, of_group[0][: min(alike, min(map(len, of_group)) - 1)]
    if alone:
        yield sorted(alone), []


def _read_beginning(reader: Reader, ids: Sequence[int]) -> Beginning:
    if not ids:
        return NOTHING
    cache = DynamicCache(config=reader.model.config)
    ids_1T = torch.tensor([ids], device=reader.model.device)
    reader.model.base_model(input_ids=ids_1T, past_key_values=cache, use_cache=True)
    return Beginning(len(ids), cache)


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


def _of_batch(
    reader: Reader, batch: Sequence[Continued], beginning: Beginning
) -> list[list[float]]:
    """Return the sums of each continuation of each context of one batch."""
    longer = [
        (row, c)
        for row, each in enumerate(batch)
        for c, ids in enumerate(each.continuations)
        if len(ids) > 1
    ]
    cache = beginning.repeated(len(batch))
    if cache is None and longer:
        cache = DynamicCache(config=reader.model.config)
    mask_BT, hidden_BH = _read_contexts(reader, batch, beginning.num_tokens, cache)
    labels = [[ids[0] for ids in each.continuations] for each in batch]
    sums = _log_probs(reader, hidden_BH, labels)
    if longer:
        assert cache is not None
        rests = _rests(reader, batch, longer, cache, mask_BT)
        for (row, c), rest in zip(longer, rests, strict=True):
            sums[row][c] += rest
    return sums


def _read_contexts(
    reader: Reader, batch: Sequence[Continued], num_read: int, cache: DynamicCache | None
) -> tuple[Tensor, Tensor]:
    """Return the mask [B, T] of the contexts, and the last hidden states [B, H].

    The first `num_read` tokens of each are in the cache. What follows is filled up on its left.
    """
    width = max(len(each.context) for each in batch)
    ids_BT = torch.full((len(batch), width), reader.pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    mask_BT[:, :num_read] = 1
    for row, each in enumerate(batch):
        rest = each.context[num_read:]
        ids_BT[row, width - len(rest) :] = torch.tensor(rest)
        mask_BT[row, width - len(rest) :] = 1
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    device = reader.model.device
    output = reader.model.base_model(
        input_ids=ids_BT[:, num_read:].to(device),
        attention_mask=mask_BT.to(device),
        position_ids=positions_BT[:, num_read:].to(device),
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
