"""From samples to the rows of each optimizer step: packed, without attention across samples, known in advance.

The whole plan follows from (lengths, seed, epoch), so a resumed run needs a step number and nothing else, and the
number of loss tokens of a step over all ranks needs no communication. Shapes: B rows, T tokens, N loss tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OPEN_ROWS = 64  # rows that a sample may still join; more packs tighter and costs time


def pack(lengths: Sequence[int], order: Sequence[int], max_length: int) -> list[list[int]]:
    """Rows of sample numbers, each at most `max_length` tokens, filled first-fit in `order`."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        for row in range(max(0, len(rows) - OPEN_ROWS), len(rows)):
            if room[row] >= lengths[index]:
                break
        else:
            rows.append([])
            room.append(max_length)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def plan_epoch(
    lengths: Sequence[int],
    *,
    max_length: int,
    batch_tokens: int,
    seed: int,
    epoch: int,
    packing: bool = True,
) -> list[list[list[int]]]:
    """Steps of an epoch; a step is a list of rows, a row a list of sample numbers. A step holds at most `batch_tokens`."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    rows = pack(lengths, order, max_length) if packing else [[i] for i in order]
    steps: list[list[list[int]]] = []
    used = batch_tokens
    for row in rows:
        size = max_length if packing else lengths[row[0]]
        if used + size > batch_tokens:
            steps.append([])
            used = 0
        steps[-1].append(row)
        used += size
    return steps


def share_of_rank(
    rows: list[list[int]], *, rank: int, num_ranks: int, rows_per_micro_batch: int
) -> list[list[list[int]]]:
    """The micro-batches of one rank: every rank gets equally many (some may be empty), since each backward meets."""
    most = -(-len(rows) // num_ranks)
    mine = rows[rank::num_ranks]
    return [
        mine[start : start + rows_per_micro_batch] for start in range(0, most, rows_per_micro_batch)
    ]


@dataclass(frozen=True)
class Batch:
    """One forward pass. `positions_N` index the flattened [B*T] hidden states that predict `labels_N`."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    positions_N: Tensor
    labels_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(t.to(device, non_blocking=True) for t in self.__dict__.values()))


def collate(rows: Sequence[Sequence[tuple[Sequence[int], int]]], pad_id: int) -> Batch:
    """Rows of (token ids, answer start) to tensors. Position ids begin at 0 in each sample: that keeps attention inside.

    The shift by one token (position i predicts token i+1) happens here and nowhere else.
    """
    width = max((sum(len(ids) for ids, _ in row) for row in rows), default=1)
    num_rows = max(
        len(rows), 1
    )  # an empty micro-batch still runs a forward pass, of padding, with no loss tokens
    input_ids = torch.full((num_rows, width), pad_id)
    position_ids = torch.zeros((num_rows, width), dtype=torch.long)
    positions, labels = [], []
    for b, row in enumerate(rows):
        start = 0
        for ids, answer_start in row:
            input_ids[b, start : start + len(ids)] = torch.tensor(ids)
            position_ids[b, start : start + len(ids)] = torch.arange(len(ids))
            first = b * width + start
            positions.append(torch.arange(first + answer_start - 1, first + len(ids) - 1))
            labels.append(torch.tensor(ids[answer_start:]))
            start += len(ids)
        position_ids[b, start:] = torch.arange(width - start)
    empty = torch.zeros(0, dtype=torch.long)
    return Batch(
        input_ids, position_ids, torch.cat(positions or [empty]), torch.cat(labels or [empty])
    )
