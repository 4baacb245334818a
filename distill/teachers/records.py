"""From a teacher's logits to the records of its signal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distill.losses.head import Head
from distill.signals.encoding import SignalRecord, regroup
from distill.signals.header import SignalHeader


def records_of(
    header: SignalHeader,
    head: Head,
    hidden: Sequence[Any],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
) -> Iterator[SignalRecord]:
    """Yield what the teacher says at each answer token of a batch: a record a sequence, in order.

    hidden: [T, H] a sequence, what predicts its answer (token ids in `answers`). Logits are made in
    chunks that do not stop at the end of a sequence: short answers would leave a processor idle. Never
    more than 64 MiB of them at once.
    """
    import torch

    from distill.models.score import logit_chunks

    return records_of_logits(header, logit_chunks(head, torch.cat(list(hidden))), answers, keys)


def records_of_logits(
    header: SignalHeader,
    logit_chunks: Iterable[tuple[slice, Any]],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
) -> Iterator[SignalRecord]:
    """Yield the same from logits.

    logit_chunks: (slice of the answer tokens of all sequences, logits [N, V] that predict them).
    """
    import torch

    from distill.signals import draws

    lengths = [len(answer) for answer in answers]
    labels_N = torch.tensor([token for answer in answers for token in answer], dtype=torch.long)
    rows = draws.Rows.join(
        [
            draws.Rows.of(draws.seed_of(key), length)
            for key, length in zip(keys, lengths, strict=True)
        ]
    )

    def record_of(part: slice, logits_NV: Any) -> SignalRecord:
        if header.num_draws is not None:
            return draws.draw(
                logits_NV,
                labels_N[part],
                rows[part],
                num_draws=header.num_draws,
                vocab_size=header.vocab_size,
            )
        if header.top_k is not None:
            return draws.top_k(logits_NV, rows[part], k=header.top_k, vocab_size=header.vocab_size)
        return draws.dense(logits_NV, rows[part], vocab_size=header.vocab_size)

    return regroup((record_of(part, logits_NV) for part, logits_NV in logit_chunks), lengths)
