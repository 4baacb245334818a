"""The samples of a kept.jsonl, which stay on disk, and their division for validation."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import overload

from distill.core.digests import digest
from distill.core.jsonl import Row
from distill.core.lazy_sequence import LazySequence
from distill.core.row_file import RowFile
from distill.data.samples import Sample
from distill.errors import DataError


def read_samples(path: Path) -> "Samples":
    """Read the samples of a kept.jsonl. Raise DataError naming the line that is not one."""
    stored = _Stored(RowFile(path))
    for number, row in stored.file.scan():
        try:
            stored.take(row)
        except TypeError as error:
            raise DataError(
                f"{path}, line {number}: {error}; run `distill run RECIPE --redo generate`"
            ) from None
    return Samples(stored, range(len(stored.file)))


@dataclass
class _Stored:
    """A file of samples, with what is asked of all of them: 32 bytes a sample.

    Tokens of prompt and answer, and the place of each among those to validate on.
    """

    file: RowFile
    prompt_lengths: array = field(default_factory=lambda: array("i"))
    answer_lengths: array = field(default_factory=lambda: array("i"))
    places: array = field(default_factory=lambda: array("Q"))

    def take(self, row: Row) -> None:
        """Note down a row. Raise TypeError where it is no sample."""
        sample = Sample(**row)
        self.prompt_lengths.append(len(sample.prompt_ids))
        self.answer_lengths.append(len(sample.answer_ids))
        self.places.append(_place(sample))


class Samples(LazySequence[Sample, "Samples"]):
    """Samples of a file, each of which is read when it is asked for.

    A slice, and what `where` and `fitting` return, are samples of the same file. `prompt_lengths`
    and `answer_lengths` are had without reading it.
    """

    def __init__(self, stored: _Stored, numbers: Sequence[int]):
        self._stored = stored
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _some(self, chosen: slice) -> "Samples":
        return Samples(self._stored, self._numbers[chosen])

    def _item(self, number: int) -> Sample:
        """Read a sample. Raises DataError where the file was changed meanwhile."""
        return Sample(**self._stored.file[self._numbers[number]])

    @property
    def prompt_lengths(self) -> Sequence[int]:
        """Return the number of prompt tokens of each sample."""
        return self._of_each(self._stored.prompt_lengths)

    @property
    def answer_lengths(self) -> Sequence[int]:
        """Return the number of answer tokens of each sample."""
        return self._of_each(self._stored.answer_lengths)

    @property
    def num_tokens(self) -> int:
        """Return the number of all tokens, of prompts and answers."""
        return sum(self.prompt_lengths) + sum(self.answer_lengths)

    @property
    def places(self) -> Sequence[int]:
        """Return the place of each sample's prompt in an order by chance, below 2**64."""
        return self._of_each(self._stored.places)

    def _of_each(self, column: array) -> Sequence[int]:
        return array(column.typecode, map(column.__getitem__, self._numbers))

    def where(self, is_chosen: Iterable[object]) -> "Samples":
        """Return those samples for which `is_chosen` is true; it has an item for each."""
        return Samples(self._stored, array("i", compress(self._numbers, is_chosen)))

    def fitting(self, most_tokens: int) -> "Samples":
        """Return the samples of at most so many tokens, prompt and answer together."""
        lengths = zip(self.prompt_lengths, self.answer_lengths, strict=True)
        return self.where(prompt + answer <= most_tokens for prompt, answer in lengths)


def _place(sample: Sample) -> int:
    return int(digest("validation", sample.prompt_id)[:16], 16)


@overload
def split_samples(samples: Samples, share: float) -> tuple[Samples, Samples]: ...
@overload
def split_samples(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]: ...
def split_samples(
    samples: Samples | list[Sample], share: float
) -> tuple[Samples | list[Sample], Samples | list[Sample]]:
    """Return (samples to learn from, samples to validate on).

    By prompt, so that two answers to one prompt stay on one side.
    """
    limit = int(share * 2**64)
    places = samples.places if isinstance(samples, Samples) else [_place(s) for s in samples]
    is_held_out = bytes(place < limit for place in places)
    if not any(is_held_out) and len(samples) and min(places) < max(places):
        first = min(sample.prompt_id for sample in samples)  # few: one still shows the curve
        is_held_out = bytes(sample.prompt_id == first for sample in samples)
    learn = _chosen(samples, [not held_out for held_out in is_held_out])
    validate = _chosen(samples, is_held_out)
    return learn, validate or learn[:1]


def _chosen(samples: Samples | list[Sample], is_chosen: Sequence[object]) -> Samples | list[Sample]:
    if isinstance(samples, Samples):
        return samples.where(is_chosen)
    return list(compress(samples, is_chosen))
