"""Distributions on disk that those of a file are compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class ReferenceRows(NamedTuple):
    """The distributions of some answer tokens of one sequence.

    `path`: a .npy file of log-probs, float32 [rows, ids with a text], of which these are the rows
    from `first` on; `positions`: the answer tokens that they belong to, in ascending order.
    """

    path: Path
    first: int
    positions: Sequence[int]

    def row(self, number: int) -> np.ndarray:
        """Return the log-probs at the position of this number, float64 [V]."""
        rows_RV = np.load(self.path, mmap_mode="r")
        return rows_RV[self.first + number].astype(np.float64)


def kl_divergence(reference_V: np.ndarray, logp_V: np.ndarray) -> float:
    """Return KL(reference ‖ other) in nats, of two rows of log-probs."""
    return float((np.exp(reference_V) * (reference_V - logp_V)).sum())
