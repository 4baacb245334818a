"""What the teacher loses where the student's tokenizer was trimmed, measured on some of the samples.

The student's text is cut into the trimmed tokenizer's tokens, each of which is one of the teacher's.
Two things are lost. The teacher's mass on tokens that the student does not have: what it says is
renormalised over the others, or it goes to the tail of the likeliest ids. And the teacher reads a
split of the text that it would not have made: its NLL a byte of the same answers is compared with
that of the split that it wrote.

When it *answers*, nothing is taken from it: it writes with all of its tokens, and the stage `trim`
cuts its text anew. To forbid it the removed tokens instead would change what it says, and every
answer that is already there.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import shutdown
from distill.core.digests import digest
from distill.core.progress import Progress
from distill.core.stored_json import broken, field_problem, read_json, write_json
from distill.models.batching import batches_by_length
from distill.signals.columns import Columns
from distill.teachers.base import SignalSequence, Teacher

if TYPE_CHECKING:
    from torch import Tensor

SHARE, FEWEST_TOKENS, MOST_TOKENS = 0.1, 2_000, 20_000  # of the answers that are measured on
LARGEST_LOSS = 0.01  # of NLL a byte, before it is warned of


@dataclass(frozen=True)
class Split:
    """What was measured on `num_tokens` answer tokens of the trimmed tokenizer.

    removed_mass_mean, removed_mass_p99: over those tokens, the teacher's mass on tokens that the
        student does not have.
    nll_per_byte: nats of the teacher for a byte of its answers in the trimmed tokenizer's tokens;
        own_nll_per_byte: in the tokens that it wrote. Both among all of its own tokens.
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
            f"{self.removed_mass_mean:.2%} of the teacher's mass is on tokens that the student does "
            f"not have (p99 {self.removed_mass_p99:.2%}); NLL {self.nll_per_byte:.4f} nats a byte on "
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

    teacher.load(sample.longest)
    removed: list[Tensor] = []
    nll, own_nll = 0.0, 0.0
    num_tokens = sum(len(s.answer_ids) for s in [*sample.trimmed, *sample.own])
    with Progress("capture: what trimming costs", num_tokens, "tokens") as bar:
        for labels_N, logits_NC in _logits(teacher, sample.trimmed, bar):
            log_total_N = columns.known(logits_NC).float().logsumexp(-1)
            nll += _nll(logits_NC, labels_N, log_total_N)
            removed.append(_removed_mass(logits_NC, columns, log_total_N))
        for labels_N, logits_NC in _logits(teacher, sample.own, bar):
            own_nll += _nll(logits_NC, labels_N, columns.known(logits_NC).float().logsumexp(-1))
    mass_N = torch.cat(removed).double()
    return Split(
        len(mass_N),
        float(mass_N.mean()),
        float(mass_N.quantile(0.99)),
        nll / max(sample.num_bytes, 1),
        own_nll / max(sample.num_bytes, 1),
    )


def _logits(
    teacher: Teacher, sequences: Sequence[SignalSequence], bar: Progress
) -> Iterator[tuple[Any, Any]]:
    """Yield (the teacher's ids of some answer tokens [N], the logits that predict them [N, C])."""
    import torch

    lengths = [len(s.ids) for s in sequences]
    for numbers in batches_by_length(lengths, teacher.recipe.teacher.batch_tokens):
        batch = [sequences[i] for i in numbers]
        ids = [i for s in batch for i in s.shown_ids[len(s.prompt_ids) :]]
        labels_N = torch.tensor(ids, dtype=torch.int64)
        for part, logits_NC in teacher.logits_of_batch(batch):
            yield labels_N[part].to(logits_NC.device), logits_NC
            bar.advance(len(logits_NC))
            shutdown.check()


def _nll(logits_NC: "Tensor", labels_N: "Tensor", log_total_N: "Tensor") -> float:
    chosen_N = logits_NC.gather(1, labels_N[:, None])[:, 0].float()
    return float((log_total_N - chosen_N).double().sum())


def _removed_mass(logits_NC: "Tensor", columns: Columns, log_total_N: "Tensor") -> "Tensor":
    """Return the share of the mass that is on none of the shared ids, [N] on the host."""
    kept_V = columns.kept_on(logits_NC.device)
    others_NC = columns.known(logits_NC).float().index_fill(1, kept_V, -math.inf)
    return (others_NC.logsumexp(-1) - log_total_N).exp().cpu()


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
