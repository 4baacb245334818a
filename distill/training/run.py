"""One training run: what is learnt, from which examples, where; and the plan of its steps."""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any

import torch

from distill.core.jsonl import read_jsonl
from distill.core.lazy_sequence import LazySequence
from distill.core.processes import Processes
from distill.data.samples import Sample
from distill.data.stored_samples import Samples
from distill.errors import DataError
from distill.models.load import Placement
from distill.recipe.sections import Train
from distill.signals.alignment import PackedAlignment
from distill.signals.store import SignalStore, sequence_key
from distill.signals.stores import SignalStores
from distill.training.batches import Plan, Rows, plan_epoch, share_of_rank
from distill.training.schedule import learning_rate


@dataclass(frozen=True)
class Example:
    """A training example: its token ids, where the answer begins, and the key of its signal.

    The key is "" where it has none, and the text alone is learnt. alignment: where the signal is of
    the teacher's own tokens, which of them the answer's are. `by_student`: the student wrote the
    answer. It learns then what the teacher says of each token, and never the text.
    """

    ids: Sequence[int]
    answer_start: int
    signal_key: str
    by_student: bool = False
    alignment: PackedAlignment | None = None

    @property
    def num_loss_tokens(self) -> int:
        return len(self.ids) - self.answer_start


class SampleExamples(LazySequence[Example, "SampleExamples"]):
    """An example for each sample, made when it is asked for: see `examples_of`.

    `prompt_lengths` and `answer_lengths`: tokens of each, had without reading a sample.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        with_signal: bool,
        text_of: Collection[str] = (),
        by_student: bool = False,
    ):
        self._samples = samples
        self._with_signal = with_signal
        self._text_of = text_of
        self.by_student = by_student

    @cached_property
    def prompt_lengths(self) -> Sequence[int]:
        if isinstance(self._samples, Samples):
            return self._samples.prompt_lengths
        return array("i", (len(sample.prompt_ids) for sample in self._samples))

    @cached_property
    def answer_lengths(self) -> Sequence[int]:
        if isinstance(self._samples, Samples):
            return self._samples.answer_lengths
        return array("i", (len(sample.answer_ids) for sample in self._samples))

    def __len__(self) -> int:
        return len(self._samples)

    def _some(self, chosen: slice) -> "SampleExamples":
        return SampleExamples(
            self._samples[chosen],
            with_signal=self._with_signal,
            text_of=self._text_of,
            by_student=self.by_student,
        )

    def _item(self, number: int) -> Example:
        sample = self._samples[number]
        start = len(sample.prompt_ids)
        has_signal = self._with_signal and sample.teacher not in self._text_of
        key = sequence_key(sample.ids, start) if has_signal else ""
        return Example(sample.ids, start, key, self.by_student)


def examples_of(
    samples: Sequence[Sample],
    *,
    with_signal: bool,
    text_of: Collection[str] = (),
    by_student: bool = False,
) -> SampleExamples:
    """Return an example for each sample.

    text_of: names of teachers that give no signal. by_student: the student wrote the answers.
    """
    return SampleExamples(samples, with_signal=with_signal, text_of=text_of, by_student=by_student)


@dataclass
class TrainingRun:
    """One training: what is learnt (role: student or control), from what, where.

    `own_divergence`: on the student's own text, where examples have such; None:
    options.divergence. `stop_ids`: tokens that count as one in the soft loss. `repeat`: which of
    options.repeats it is, from 1; `seed` is its own. `name`: how it is told of, None: by role and
    repeat. `stage`: whose section of the recipe has its learning rate. `by_sequence`: whether packed
    rows need no mask (packed_attention.py). Without `soft_weight` and `teacher_width` (of the hidden
    states to match) it needs no `store`.
    """

    role: str
    model: Any
    options: Train
    soft_weight: float
    hard_weight: float
    examples: Sequence[Example]
    validation: Sequence[Example]
    store: SignalStore | SignalStores | None
    vocab_size: int
    pad_id: int
    seed: int
    placement: Placement
    folder: Path
    processes: Processes
    accelerator: Any
    packing: bool = True
    by_sequence: bool = False
    teacher_width: int | None = None
    repeat: int = 1
    name: str | None = None
    stage: str = "train"
    own_divergence: str | None = None
    stop_ids: Sequence[int] = ()
    sets_SV: torch.Tensor | None = None  # of ByteChunkTargets, where the signal is of chunks

    @cached_property
    def has_own_text(self) -> bool:
        """Return whether the student wrote any of the answers."""
        if isinstance(self.examples, SampleExamples):
            return self.examples.by_student and len(self.examples) > 0
        return any(example.by_student for example in self.examples)

    @cached_property
    def prompt_lengths(self) -> Sequence[int]:
        """Return how many tokens each example has before its answer."""
        if isinstance(self.examples, SampleExamples):
            return self.examples.prompt_lengths
        return array("i", (example.answer_start for example in self.examples))

    @cached_property
    def answer_lengths(self) -> Sequence[int]:
        """Return how many tokens each example's answer has."""
        if isinstance(self.examples, SampleExamples):
            return self.examples.answer_lengths
        return array("i", (example.num_loss_tokens for example in self.examples))

    @property
    def is_sharded(self) -> bool:
        """Return whether no rank holds the whole student; `model` is then None on all but the first."""
        return self.options.shard != "none"

    @property
    def title(self) -> str:
        """Return what is trained, as it is told: `student`, or `student 2/5` where it is repeated."""
        if self.name is not None:
            return self.name
        if self.options.repeats == 1:
            return self.role
        return f"{self.role} {self.repeat}/{self.options.repeats}"

    def steps(self) -> Plan:
        """Return the rows of every optimizer step of the whole run."""
        lengths = array("i", map(add, self.prompt_lengths, self.answer_lengths))
        limit = self.options.max_steps
        plans: list[Plan] = []
        for epoch in range(self.options.epochs):
            plan = plan_epoch(
                lengths,
                max_length=self.options.max_length,
                batch_tokens=self.options.batch_tokens,
                seed=self.seed,
                epoch=epoch,
                packing=self.packing,
            )
            plans.append(plan)
            if limit and sum(map(len, plans)) >= limit:
                break
        return Plan.joined(plans)[: limit or None]

    def micro_batches(self, rows: Rows) -> list[Rows]:
        """Return this rank's forward passes over the rows of a step."""
        return share_of_rank(
            rows,
            rank=self.processes.rank,
            num_ranks=self.processes.num,
            rows_per_micro_batch=self.rows_per_micro_batch,
        )

    @property
    def rows_per_micro_batch(self) -> int:
        return max(1, self.options.micro_batch_tokens // self.options.max_length)

    def num_tokens(self, rows: Rows) -> int:
        prompts, answers = self.prompt_lengths, self.answer_lengths
        return sum(prompts[i] + answers[i] for i in chain.from_iterable(rows))

    def num_loss_tokens(self, rows: Rows) -> int:
        return sum(self.answer_lengths[i] for i in chain.from_iterable(rows))

    def learning_rate(self, step: int, num_steps: int) -> float:
        return learning_rate(
            self.options.learning_rate,
            step,
            num_steps,
            warmup_share=self.options.warmup_share,
            schedule=self.options.schedule,
        )

    def autocast(self, device: torch.device) -> Any:
        in_bfloat16 = self.placement.dtype == "bfloat16"
        # a cache would hold all layers' weights in 16 bits until the end of a pass
        keeps_copies = not self.is_sharded
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=in_bfloat16, cache_enabled=keeps_copies
        )

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints" / self.role


def chunk_examples(path: Path, samples: Sequence[Sample]) -> list[Example]:
    """Return examples with the alignments of `path`, which `capture` wrote.

    Raises DataError for a row that is none, and for a sample that has none or another answer.
    """
    way_out = "run `distill run RECIPE --redo capture`"
    found: dict[str, tuple[str, PackedAlignment]] = {}
    for number, row in read_jsonl(path):
        try:
            found[row["key"]] = str(row["signal"]), PackedAlignment.of_row(row)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise DataError(f"{path}, line {number}: no alignment of a sample; {way_out}") from None
    examples = []
    for sample in samples:
        signal_key, alignment = found.get(sample.key, ("", None))
        if alignment is None or int(alignment.student.sum()) != len(sample.answer_ids):
            raise DataError(f"{path}: no alignment of the answer {sample.key}; {way_out}")
        examples.append(
            Example(sample.ids, len(sample.prompt_ids), signal_key, alignment=alignment)
        )
    return examples
