"""From examples to the rows of each optimizer step: sequence packing, known in advance.

Packed examples do not attend to each other. The whole plan follows from (lengths, seed, epoch), so
a resumed run needs a step number and nothing else, and the number of loss tokens of a step over all
ranks needs no communication. Shapes: B rows, T tokens, N loss tokens.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from distill.core.lazy_sequence import LazySequence

OPEN_ROWS = 64  # rows that an example may still join; more packs tighter and costs time

Rows = list[list[int]]  # each row is a list of example numbers


class Plan(LazySequence[Rows, "Plan"]):
    """The rows of each step, held as arrays: some 5 bytes an example and epoch.

    `examples`: the numbers of all rows, one after the other; `row_starts`: where each row begins in
    them, and the last one's end; `step_starts`: the same of the steps, in rows.
    """

    def __init__(self, examples: np.ndarray, row_starts: np.ndarray, step_starts: np.ndarray):
        self._examples = examples
        self._row_starts = row_starts
        self._step_starts = step_starts

    @classmethod
    def joined(cls, plans: Sequence["Plan"]) -> "Plan":
        """Return the steps of several plans, one after the other."""
        return cls(
            np.concatenate([plan._examples for plan in plans]),
            _chained([plan._row_starts for plan in plans]),
            _chained([plan._step_starts for plan in plans]),
        )

    def __len__(self) -> int:
        return len(self._step_starts) - 1

    def _some(self, chosen: slice) -> "Plan":
        """Return the plan of the steps from one to another."""
        start, stop, stride = chosen.indices(len(self))
        assert stride == 1, "steps that follow each other"
        step_starts = self._step_starts[start : max(start, stop) + 1]
        return Plan(self._examples, self._row_starts, step_starts)

    def _item(self, number: int) -> Rows:
        """Return the rows of a step."""
        first, end = self._step_starts[:-1][number], self._step_starts[1:][number]
        bounds = self._row_starts[first : end + 1].tolist()
        return [
            self._examples[row_start:row_end].tolist() for row_start, row_end in pairwise(bounds)
        ]


def _chained(starts: Sequence[np.ndarray]) -> np.ndarray:
    """Return starts that go on where those of the array before end."""
    ends = np.cumsum([0, *(part[-1] for part in starts)])
    moved = [part[:-1] + end for part, end in zip(starts, ends, strict=False)]
    return np.concatenate([*moved, ends[-1:]])


def pack(lengths: Sequence[int], order: Sequence[int], max_length: int) -> array:
    """Return the row of each example of `order`, each of at most `max_length` tokens, first-fit."""
    row_of = array("i")
    room: list[int] = []
    for index in order:
        row = _first_fit(room, lengths[index])
        if row is None:
            room.append(max_length)
            row = len(room) - 1
        row_of.append(row)
        room[row] -= lengths[index]
    return row_of


def _first_fit(room: Sequence[int], length: int) -> int | None:
    """Return the first open row with room for `length` tokens, or None."""
    for row in range(max(0, len(room) - OPEN_ROWS), len(room)):
        if room[row] >= length:
            return row
    return None


def plan_epoch(
    lengths: Sequence[int],
    *,
    max_length: int,
    batch_tokens: int,
    seed: int,
    epoch: int,
    packing: bool = True,
) -> Plan:
    """Return the rows of each step of an epoch. A step holds at most `batch_tokens`."""
    order = array("i", range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    row_of = pack(lengths, order, max_length) if packing else range(len(order))
    num_rows = max(row_of, default=-1) + 1
    row_tokens = [max_length] * num_rows if packing else [lengths[index] for index in order]
    # by row, and in a row in the order of coming
    by_row = np.argsort(np.asarray(row_of), kind="stable")
    sizes = np.bincount(np.asarray(row_of, np.int64), minlength=num_rows)
    return Plan(
        np.asarray(order, np.int32)[by_row],
        np.concatenate([[0], np.cumsum(sizes)]),
        np.array(_step_starts(row_tokens, batch_tokens)),
    )


def _step_starts(row_tokens: Sequence[int], batch_tokens: int) -> list[int]:
    """Return the first row of each step, and the number of rows."""
    starts: list[int] = []
    used_tokens = batch_tokens
    for row, num_tokens in enumerate(row_tokens):
        if used_tokens + num_tokens > batch_tokens:
            starts.append(row)
            used_tokens = 0
        used_tokens += num_tokens
    return [*starts, len(row_tokens)]


def share_of_rank(
    rows: Rows, *, rank: int, num_ranks: int, rows_per_micro_batch: int
) -> list[Rows]:
    """Return the micro-batches of one rank.

    Every rank gets equally many (some may be empty), since each backward meets.
    """
    largest_share = -(-len(rows) // num_ranks)
    own_rows = rows[rank::num_ranks]
    starts = range(0, largest_share, rows_per_micro_batch)
    return [own_rows[start : start + rows_per_micro_batch] for start in starts]


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    `positions_N` index the flattened [B*T] hidden states that predict `labels_N`.
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    positions_N: Tensor
    labels_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(t.to(device, non_blocking=True) for t in self.__dict__.values()))

    def with_last(self, is_last_N: Tensor) -> "Batch":
        """Return the same with these positions (bool [N]) after the others; each part in its order."""
        order_N = is_last_N.to(torch.uint8).argsort(stable=True)
        return replace(self, positions_N=self.positions_N[order_N], labels_N=self.labels_N[order_N])


def collate(rows: Sequence[Sequence[tuple[Sequence[int], int]]], pad_id: int) -> Batch:
    """Make a batch of rows of (token ids, answer start).

    Position ids begin at 0 in each example: that keeps attention inside. The shift by one token
    (position i predicts token i+1) happens here and nowhere else.
    """
    width = max((sum(len(ids) for ids, _ in row) for row in rows), default=1)
    # An empty micro-batch still runs a forward pass, of padding, with no loss tokens.
    num_rows = max(len(rows), 1)
    input_ids_BT = torch.full((num_rows, width), pad_id)
    position_ids_BT = torch.zeros((num_rows, width), dtype=torch.long)
    empty = torch.zeros(0, dtype=torch.long)
    positions = [empty]
    labels = [empty]
    for number, row in enumerate(rows):
        start = 0
        for ids, answer_start in row:
            end = start + len(ids)
            input_ids_BT[number, start:end] = torch.tensor(ids)
            position_ids_BT[number, start:end] = torch.arange(len(ids))
            first = number * width + start
            positions.append(torch.arange(first + answer_start - 1, first + len(ids) - 1))
            labels.append(torch.tensor(ids[answer_start:]))
            start = end
        position_ids_BT[number, start:] = torch.arange(width - start)
    return Batch(input_ids_BT, position_ids_BT, torch.cat(positions), torch.cat(labels))
