"""What the teacher loses where the student's tokenizer was trimmed, measured on some of the samples.

The student's text is cut into the trimmed tokenizer's tokens, each of which is one of the teacher's.
What the teacher gives to tokens that the student does not have, it gives to the pieces that the
student writes instead (signals/pieces.py). What is lost is that it reads a split of the text that it
would not have made: its NLL a byte of the same answers, as the student is taught them, is compared
with that of the split that it wrote.

When it *answers*, nothing is taken from it: it writes with all of its tokens, and the stage `trim`
cuts its text anew. To forbid it the removed tokens instead would change what it says, and every
answer that is already there.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core import shutdown
from distill.core.digests import digest
from distill.core.progress import Progress
from distill.core.stored_json import broken, field_problem, read_json, write_json
from distill.models.batching import batches_by_length
from distill.signals.columns import Columns
from distill.teachers.base import SignalSequence, Teacher

if TYPE_CHECKING:
    from torch import Tensor

    LogitChunks = Iterator[tuple[slice, Tensor]]

SHARE, FEWEST_TOKENS, MOST_TOKENS = 0.1, 2_000, 20_000  # of the answers that are measured on
LARGEST_LOSS = 0.01  # of NLL a byte, before it is warned of


@dataclass(frozen=True)
class Split:
    """What was measured on `num_tokens` answer tokens of the trimmed tokenizer.

    removed_mass_mean, removed_mass_p99: over those tokens, the teacher's mass on tokens that the
        student does not have.
    nll_per_byte: nats of the teacher for a byte of its answers in the trimmed tokenizer's tokens,
        as the student is taught them; own_nll_per_byte: in the tokens that it wrote.
    """

    num_tokens: int
    removed_mass_mean: float
    removed_mass_p99: float
    nll_per_byte: float
    own_nll_per_byte: float

    @property
    def loss(self) -> float:
        """Return how much larger the NLL a byte is than on its own split, as a share."""
        return self.nll_per_byte / max(self.own_nll_per_byte, 1e-9) - 1

    def __str__(self) -> str:
        return (
            f"{self.removed_mass_mean:.2%} of the teacher's mass is on tokens that the student writes "
            f"in pieces (p99 {self.removed_mass_p99:.2%}); NLL {self.nll_per_byte:.4f} nats a byte on "
            f"the student's tokens, {self.own_nll_per_byte:.4f} on its own ({self.loss:+.2%}); on "
            f"{self.num_tokens:,} answer tokens"
        )


@dataclass(frozen=True)
class SplitSample:
    """Some samples in the trimmed tokenizer's tokens and in the teacher's own.

    num_bytes: of the answers' text, in UTF-8.
    """

    trimmed: list[SignalSequence]
    own: list[SignalSequence]
    num_bytes: int

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sequence."""
        return max((len(s.ids) for s in [*self.trimmed, *self.own]), default=0)

    def digest(self) -> str:
        return digest(*(s.key for s in self.trimmed), *(s.key for s in self.own))


def num_measured(num_tokens: float) -> float:
    """Return how many of so many answer tokens are measured on: a tenth, in bounds."""
    return max(FEWEST_TOKENS, min(MOST_TOKENS, SHARE * num_tokens))


def sampled(sequences: Sequence[SignalSequence]) -> list[SignalSequence]:
    """Return those with the smallest keys, with `num_measured` answer tokens.

    The keys are digests, so that they are a fair sample, and the same in every job.
    """
    room = num_measured(sum(len(s.answer_ids) for s in sequences))
    chosen = []
    for sequence in sorted(sequences, key=lambda s: s.key):
        if room <= 0:
            break
        chosen.append(sequence)
        room -= len(sequence.answer_ids)
    return chosen


def measure(teacher: Teacher, columns: Columns, sample: SplitSample) -> Split:
    """Show the teacher both splits. It is loaded here where it is not."""
    import torch

    pieces = columns.pieces
    assert pieces is not None  # nobody else's tokens are split
    teacher.load(sample.longest)
    removed: list[Tensor] = []
    nll, own_nll = 0.0, 0.0
    num_tokens = sum(len(s.answer_ids) for s in [*sample.trimmed, *sample.own])

    def noted(chunks: "LogitChunks") -> "LogitChunks":
        for part, logits_NC in chunks:
            removed.append(pieces.removed_mass(logits_NC).cpu())
            yield part, logits_NC

    with Progress("capture: what trimming costs", num_tokens, "tokens") as bar:
        for batch in _batches(teacher, sample.trimmed):
            labels_N, lengths = _labels(batch), [len(s.answer_ids) for s in batch]
            chunks = noted(teacher.logits_of_batch(batch))
            for part, logp_NV in pieces.over_students_ids(chunks, labels_N, lengths):
                nll += _nll(logp_NV, labels_N[part], bar)
        for batch in _batches(teacher, sample.own):
            labels_N = _labels(batch)
            for part, logits_NC in teacher.logits_of_batch(batch):
                own_nll += _nll(columns.known(logits_NC), labels_N[part], bar)
    mass_N = torch.cat(removed).double()
    return Split(
        len(mass_N),
        float(mass_N.mean()),
        float(mass_N.quantile(0.99)),
        nll / max(sample.num_bytes, 1),
        own_nll / max(sample.num_bytes, 1),
    )


def _batches(
    teacher: Teacher, sequences: Sequence[SignalSequence]
) -> Iterator[list[SignalSequence]]:
    lengths = [len(s.ids) for s in sequences]
    for numbers in batches_by_length(lengths, teacher.recipe.teacher.batch_tokens):
        yield [sequences[i] for i in numbers]


def _labels(batch: Sequence[SignalSequence]) -> "Tensor":
    """Return the answer tokens of a batch, one after the other, int64 on the host."""
    import torch

    return torch.tensor([i for s in batch for i in s.answer_ids], dtype=torch.int64)


def _nll(logits_NV: "Tensor", labels_N: "Tensor", bar: Progress) -> float:
    """Return the nats of some tokens, summed."""
    shutdown.check()
    logits_NV, labels_N = logits_NV.float(), labels_N.to(logits_NV.device)
    chosen_N = logits_NV.gather(1, labels_N[:, None])[:, 0]
    bar.advance(len(labels_N))
    return float((logits_NV.logsumexp(-1) - chosen_N).double().sum())


def write_split(path: Path, split: Split, sample: SplitSample) -> None:
    """Write what was measured on a sample, whole or not at all."""
    write_json(path, {"sample": sample.digest(), **asdict(split)}, indent=1)


def read_split(path: Path, sample: SplitSample | None = None) -> Split | None:
    """Return what was measured; None where nothing was, or on other samples than these.

    Raises DataError where the file is broken.
    """
    way_out = "delete it and run the same command: it is measured again"
    try:
        values = read_json(path, way_out)
    except FileNotFoundError:
        return None
    kinds = {"sample": str, **dict.fromkeys(Split.__annotations__, int | float)}
    if problem := field_problem(values, kinds):
        raise broken(path, problem, way_out)
    if sample is not None and values["sample"] != sample.digest():
        return None
    return Split(**{name: values[name] for name in Split.__annotations__})


def tell(split: Split) -> None:
    """Print what was measured, and a warning with the way out where the split costs much."""
    print(f"capture: {split}", flush=True)
    if split.loss > LARGEST_LOSS:
        print(
            f"capture: warning: the teacher's NLL a byte is {split.loss:.1%} higher on the student's "
            f"tokens than on its own (over {LARGEST_LOSS:.0%}): keep more of them (a larger "
            "student.vocabulary.size, a smaller max_fertility_loss), or count them in "
            "student.vocabulary.texts of the kind that the student will read and write",
            file=sys.stderr,
        )
