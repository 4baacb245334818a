"""Batches of similar length: little padding, and the same batches whenever a run starts again."""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_BLOCK = 16  # batches: the more, the fewer slots stand empty at a block's end
FEWEST_BLOCKS = 4  # for processes and jobs to share, where there are so many batches


@dataclass(frozen=True)
class Block:
    """Indices of sequences that are decoded in one go, `num_slots` at once."""

    indices: list[int]
    num_slots: int


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return indices by falling length, cut where longest x rows would pass `batch_tokens`.

    A longer sequence stands alone. It is a function of `lengths` alone: which sequences share a
    batch decides the floating-point result.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def blocks_by_length(lengths: Sequence[int], batch_tokens: int) -> list[Block]:
    """Return some batches of `batches_by_length` at a time.

    They are decoded with as many slots as the longest sequence allows. Like those it is a function
    of `lengths` alone, however many processes share the blocks.
    """
    batches = batches_by_length(lengths, batch_tokens)
    step = min(LONGEST_BLOCK, max(1, len(batches) // FEWEST_BLOCKS))
    parts = [batches[i : i + step] for i in range(0, len(batches), step)]
    return [Block([i for batch in part for i in batch], len(part[0])) for part in parts]
