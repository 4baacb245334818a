"""Batches of similar length: little padding, and the same batches whenever a run starts again."""

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices by falling length, cut where longest x rows would pass `batch_tokens` (a longer one stands alone).

    A function of `lengths` alone: which sequences share a batch decides the floating-point result.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
