"""The repeats of a training: where each stands, and the seed of each.

The first stands in the stage's own folder, as the only one does where there are no others; it is
the one that is quantized and used. It is never the best one: that would be the luckiest.
"""

from pathlib import Path

from distill.core.digests import digest


def repeat_folder(stage: Path, repeat: int) -> Path:
    """Return the folder of a repeat, counted from 1, in the folder of a stage."""
    return stage if repeat == 1 else stage / f"repeat-{repeat}"


def repeat_seed(seed: int, repeat: int) -> int:
    """Return the seed of a repeat, counted from 1: the recipe's for the first, below 2**31 for all."""
    if repeat == 1:
        return seed
    return int(digest("repeat", str(seed), str(repeat))[:8], 16) >> 1
