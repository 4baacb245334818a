"""Teacher-forced passes: hidden states and log-probs at the answer positions of token sequences."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.core.claims import Claims
from distill.losses.projection import Projection, cached_block, fast_chunk, slices
from distill.models.batching import batches_by_length
from distill.models.divided import together
from distill.models.head import Head, logits
from distill.models.sequences import TokenSequence

CHUNK_VALUES = 16 << 20  # float32 logits shown at once: 64 MiB


@together
@torch.no_grad()
def answer_hidden_states(
    model: Any, sequences: Sequence[TokenSequence], pad_id: int
) -> list[Tensor]:
    """Return for each sequence the hidden states [T, H] that predict its answer tokens.

    Those are the states at positions answer_start - 1 to end - 2.
    """
    width = max(len(s.ids) for s in sequences)
    ids_BT = torch.full((len(sequences), width), pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, s in enumerate(sequences):
        ids_BT[row, : len(s.ids)] = torch.tensor(s.ids)
        mask_BT[row, : len(s.ids)] = 1
    hidden_BTH = model.base_model(
        input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), use_cache=False
    ).last_hidden_state
    return [hidden_BTH[row, s.answer_start - 1 : len(s.ids) - 1] for row, s in enumerate(sequences)]


@torch.no_grad()
def logit_chunks(head: Head, hidden_NH: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice of positions, float32 logits of them), at most CHUNK_VALUES numbers at once.

    Logits are valid until the next are asked for: on a CPU many positions are multiplied at once,
    which is faster, always in the same memory, and a block of them comes after the other.
    """
    num_ids = len(head.weight)
    if hidden_NH.device.type != "cpu":
        for part in slices(0, len(hidden_NH), max(1, CHUNK_VALUES // num_ids)):
            yield part, logits(head, hidden_NH[part]).float()
        return
    projection = Projection(num_ids, head.scale, head.softcap, hidden_NH.dtype, torch.float32)
    weight_RH = projection.aligned(head.weight)
    block = cached_block(num_ids, CHUNK_VALUES)
    parts = list(slices(0, len(hidden_NH), fast_chunk(num_ids, hidden_NH.dtype)))
    for part, _, raw_nR in projection.multiplied(hidden_NH, weight_RH, head.bias, parts):
        for rows in slices(0, len(raw_nR), block):
            logits_bR = projection.finished(raw_nR[rows])[:, :num_ids].float()
            yield slice(part.start + rows.start, part.start + rows.stop), logits_bR


@torch.no_grad()
def score(
    model: Any,
    head: Head,
    sequences: Sequence[TokenSequence],
    *,
    batch_tokens: int,
    pad_id: int,
    vocab_size: int,
    on_chunk: Callable[[int, slice, Tensor], None] | None = None,
    claims: Claims | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (index, log-prob of each answer token [T] float32, likeliest token [T]).

    Over the first `vocab_size` ids. `on_chunk(index, slice of the answer, log-probs [N,
    vocab_size])` is shown the full distributions as they come. `claims`: of ranks that divide the
    batches; each yields those that it took.
    """
    batches = batches_by_length([len(s.ids) for s in sequences], batch_tokens)
    for batch in batches if claims is None else claims.of("batch", batches):
        hidden = answer_hidden_states(model, [sequences[i] for i in batch], pad_id)
        for index, hidden_TH in zip(batch, hidden, strict=True):
            s = sequences[index]
            labels_T = torch.tensor(s.ids[s.answer_start :], device=hidden_TH.device)
            logp, top = torch.empty(len(labels_T)), torch.empty(len(labels_T), dtype=torch.long)
            for part, logits_NV in logit_chunks(head, hidden_TH):
                logits_NV = logits_NV[:, :vocab_size]
                chosen = logits_NV.gather(1, labels_T[part, None])[:, 0]
                logp[part] = (chosen - logits_NV.logsumexp(-1)).cpu()
                top[part] = logits_NV.argmax(-1).cpu()
                if on_chunk is not None:
                    on_chunk(index, part, logits_NV.log_softmax(-1))
            yield index, logp, top
