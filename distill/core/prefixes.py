"""What sequences begin with."""

from collections.abc import Sequence


def common_prefix_length(first: Sequence[object], *others: Sequence[object]) -> int:
    """Return how many items all sequences have in common at their beginning."""
    length = min(map(len, (first, *others)))
    for other in others:
        alike = (a == b for a, b in zip(first[:length], other, strict=False))
        length = next((i for i, is_alike in enumerate(alike) if not is_alike), length)
    return length
