"""From a teacher's logits to the records of its signal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distill.losses.head import Head
from distill.signals.columns import Columns
from distill.signals.encoding import SignalRecord, regroup
from distill.signals.header import SignalHeader


def records_of(
    header: SignalHeader,
    head: Head,
    hidden: Sequence[Any],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
    columns: Columns | None = None,
) -> Iterator[SignalRecord]:
    """Yield what the teacher says at each answer token of a batch: a record a sequence, in order.

    hidden: [T, H] a sequence, what predicts its answer (token ids in `answers`, the student's).
    columns: what the logits are of; None: of the ids of `header`, which come first. Logits are
    made in chunks that do not stop at the end of a sequence: short answers would leave a processor
    idle. Never more than 150 MiB of them at once.
    """
    import torch

    from distill.models.score import logit_chunks

    chunks = logit_chunks(head, torch.cat(list(hidden)))
    return records_of_logits(header, chunks, answers, keys, columns)


def records_of_logits(
    header: SignalHeader,
    logit_chunks: Iterable[tuple[slice, Any]],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
    columns: Columns | None = None,
) -> Iterator[SignalRecord]:
    """Yield the same from logits.

    logit_chunks: (slice of the answer tokens of all sequences, logits [N, C] that predict them).
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

    known = columns or Columns(header.vocab_size)
    if known.pieces is not None:
        logit_chunks = known.pieces.over_students_ids(logit_chunks, labels_N, lengths)
        known = Columns(header.vocab_size)

    def record_of(part: slice, logits_NC: Any) -> SignalRecord:
        if header.num_draws is not None:
            return draws.draw(
                logits_NC,
                labels_N[part],
                rows[part],
                num_draws=header.num_draws,
                columns=known,
                with_log_probs=header.draw_log_probs,
            )
        if header.kind == "chunks":
            return draws.likelihoods(logits_NC, labels_N[part], rows[part], columns=known)
        if header.top_k is not None:
            return draws.top_k(logits_NC, rows[part], k=header.top_k, columns=known)
        return draws.dense(logits_NC, rows[part], columns=known)

    return regroup((record_of(part, logits_NC) for part, logits_NC in logit_chunks), lengths)
