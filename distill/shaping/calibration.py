"""The text that a student is cut by: samples of the run, and how well a model predicts their answers.

The samples are in the recipe's languages and of its task, which is what the student is for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distill.core.digests import digest
from distill.data.samples import Sample
from distill.data.shares import take_turns
from distill.errors import DataError
from distill.losses.head import Head
from distill.models.batching import batches_by_length
from distill.models.sequences import TokenSequence
from distill.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

NUM_SEQUENCES = 48
PROMPT_TOKENS, ANSWER_TOKENS = 128, 128  # of one sequence, around the answer's beginning
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """Some sequences side by side, filled up on the right.

    ids_BT, mask_BT (1 where there is a token) are int64; `rows_N` and `columns_N` are the positions
    that predict an answer token, `labels_N` those tokens.
    """

    ids_BT: "Tensor"
    mask_BT: "Tensor"
    rows_N: "Tensor"
    columns_N: "Tensor"
    labels_N: "Tensor"


@dataclass(frozen=True)
class Calibration:
    """The sequences; `vocab_size` is the number of the tokenizer's tokens."""

    sequences: Sequence[TokenSequence]
    pad_id: int
    vocab_size: int

    @classmethod
    def of(cls, recipe: Recipe, samples: Sequence[Sample], tokenizer: Any) -> "Calibration":
        """Return some of the samples, the same ones whatever the order, evenly over the languages.

        Raises DataError where there is none.
        """
        if not samples:
            raise DataError(
                f"{recipe.source}: generate kept no sample, and student is cut by how it reads them: "
                "generate more, or set student.layers_by=even student.ffn_width=null "
                "student.num_experts=null"
            )
        named = [(digest("calibration", s.key), n, s.language) for n, s in enumerate(samples)]
        chosen = take_turns(
            sorted(named), lambda name: name[2], recipe.languages, num=NUM_SEQUENCES
        )
        sequences = [_window(samples[number]) for _, number, _ in chosen]
        return cls(sequences, tokenizer.pad_token_id, len(tokenizer))

    def first(self, num: int) -> "Calibration":
        return replace(self, sequences=self.sequences[:num])

    @property
    def num_answer_tokens(self) -> int:
        return sum(sequence.num_answer_tokens for sequence in self.sequences)

    def batches(self, device: Any) -> Iterator[Batch]:
        """Yield the sequences, those of like length together."""
        lengths = [len(sequence.ids) for sequence in self.sequences]
        for indices in batches_by_length(lengths, BATCH_TOKENS):
            yield self._batch([self.sequences[i] for i in indices], device)

    def _batch(self, sequences: Sequence[TokenSequence], device: Any) -> Batch:
        import torch

        width = max(len(sequence.ids) for sequence in sequences)
        ids_BT = torch.full((len(sequences), width), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        rows, columns, labels = [], [], []
        for row, sequence in enumerate(sequences):
            end = len(sequence.ids)
            ids_BT[row, :end] = torch.tensor(sequence.ids)
            mask_BT[row, :end] = 1
            rows += [row] * sequence.num_answer_tokens
            columns += range(sequence.answer_start - 1, end - 1)
            labels += sequence.ids[sequence.answer_start :]
        positions = [torch.tensor(values).to(device) for values in (rows, columns, labels)]
        return Batch(ids_BT.to(device), mask_BT.to(device), *positions)


def _window(sample: Sample) -> TokenSequence:
    """Return the tokens around the answer's beginning."""
    prompt = sample.prompt_ids[-PROMPT_TOKENS:]
    return TokenSequence(prompt + sample.answer_ids[:ANSWER_TOKENS], len(prompt))


def hidden_states(model: Any, batch: Batch) -> "Tensor":
    """Return the model's last hidden states [B, T, H], behind its last norm."""
    return model.base_model(
        input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False
    ).last_hidden_state


def read_with(model: Any, calibration: Calibration, hooks: Sequence[Any]) -> Iterator[Batch]:
    """Yield each batch, and let the model read it thereafter; remove the hooks at the end."""
    import torch

    try:
        for batch in calibration.batches(model.device):
            yield batch
            with torch.no_grad():
                hidden_states(model, batch)
    finally:
        for hook in hooks:
            hook.remove()


def nats(head: Head, hidden_BTH: "Tensor", batch: Batch, vocab_size: int) -> float:
    """Return the sum of -log p over the batch's answer tokens. `hidden_BTH`: behind the last norm."""
    from distill.models.score import logit_chunks

    total = 0.0
    for part, logits_NV in logit_chunks(head, hidden_BTH[batch.rows_N, batch.columns_N]):
        logits_NV = logits_NV[:, :vocab_size]
        chosen_N = logits_NV.gather(1, batch.labels_N[part, None])[:, 0]
        total += (logits_NV.logsumexp(-1) - chosen_N).double().sum().item()
    return total


def mean_nll(model: Any, calibration: Calibration) -> float:
    """Return -log p of the answers' tokens, in nats a token."""
    import torch

    from distill.models.head import head_of

    head, total = head_of(model), 0.0
    with torch.no_grad():
        for batch in calibration.batches(model.device):
            total += nats(head, hidden_states(model, batch), batch, calibration.vocab_size)
    return total / calibration.num_answer_tokens
