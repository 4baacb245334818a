"""From examples to the rows of each optimizer step: sequence packing, known in advance.

Packed examples do not attend to each other. The whole plan follows from (lengths, seed, epoch), so
a resumed run needs a step number and nothing else, and the number of loss tokens of a step over all
ranks needs no communication. Shapes: B rows, T tokens, N loss tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

OPEN_ROWS = 64  # rows that an example may still join; more packs tighter and costs time

Rows = list[list[int]]  # each row is a list of example numbers


def pack(lengths: Sequence[int], order: Sequence[int], max_length: int) -> Rows:
    """Return rows of example numbers, each of at most `max_length` tokens, first-fit in `order`."""
    rows: Rows = []
    room: list[int] = []
    for index in order:
        row = _first_fit(room, lengths[index])
        if row is None:
            rows.append([])
            room.append(max_length)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


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
) -> list[Rows]:
    """Return the rows of each step of an epoch. A step holds at most `batch_tokens`."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    rows = pack(lengths, order, max_length) if packing else [[index] for index in order]
    steps: list[Rows] = []
    used_tokens = batch_tokens
    for row in rows:
        row_tokens = max_length if packing else lengths[row[0]]
        if used_tokens + row_tokens > batch_tokens:
            steps.append([])
            used_tokens = 0
        steps[-1].append(row)
        used_tokens += row_tokens
    return steps


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
