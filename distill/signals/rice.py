"""Ascending ids as the gaps between them, in Rice code: low bits as they are, the rest in unary.

T: tokens, U: ids of all tokens, R: choices of a token's Rice parameter.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.signals.bits import bit_length

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# A token's Rice parameter is the best one for ids that may be anywhere, less one of these: 2 bits
# say which. More choices cost more than they save, on even ids and on ids that crowd at the low
# end.
STEPS = np.array([0, 1, 2, 4])


@dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps between ascending ids.

    steps [T]: which of STEPS each token has. low, low_widths, unary [U]: the low part of each gap,
    its bits, and the part for the unary code.
    """

    steps: I64
    low: I64
    low_widths: I64
    unary: I64


def gaps_of(ids: I32, sizes: I64, vocab_size: int) -> Gaps:
    """Return the gaps of ids [U], of which token t has `sizes[t]`.

    Raises ValueError for ids that do not ascend within a token, or are not below `vocab_size`.
    """
    starts = np.cumsum(sizes) - sizes
    gaps = ids.astype(np.int64)
    gaps[1:] -= ids[:-1] + 1
    gaps[starts] = ids[starts]  # the first id of a token counts from zero
    if (gaps < 0).any():
        raise ValueError("ids not ascending")
    if int(ids.max(initial=0)) >= vocab_size:
        raise ValueError(f"an id that is not below {vocab_size}")
    if len(ids) == 0:
        return Gaps(sizes, gaps, gaps, gaps)
    parameters_RT = _parameter_table(vocab_size, int(sizes.max()))[:, sizes]
    widths_RU = np.repeat(parameters_RT, sizes, axis=1)
    costs_RT = np.add.reduceat(gaps >> widths_RU, starts, axis=1) + sizes * parameters_RT
    steps = costs_RT.argmin(0)
    widths = widths_RU[np.repeat(steps, sizes), np.arange(len(ids))]
    return Gaps(steps, gaps, widths, gaps >> widths)


def low_widths(steps: I64, sizes: I64, vocab_size: int) -> I64:
    """Return the bits of the low part of each gap [U]."""
    table = _parameter_table(vocab_size, int(sizes.max(initial=1)))
    return np.repeat(table[steps, sizes], sizes)


def ids_of(gaps: I64, offsets: I64, vocab_size: int) -> I32:
    """Return the ids [U] that gaps [U] are between; token t has [offsets[t], offsets[t + 1]).

    Raises ValueError for an id that is not below `vocab_size`.
    """
    running = np.cumsum(gaps + 1)
    before = np.concatenate([[0], running])[offsets[:-1]]
    ids = running - np.repeat(before, np.diff(offsets)) - 1
    if int(ids.max(initial=0)) >= vocab_size:
        raise ValueError("an id that is not below vocab_size")
    return ids.astype(np.int32)


@functools.lru_cache(maxsize=64)
def _parameter_table(vocab_size: int, largest_size: int) -> I64:
    """Return the Rice parameter by [step, number of ids 0 .. largest_size].

    log2 of the mean gap of that many ids that may be anywhere, times ln 2, rounded up; less the
    step.
    """
    num_ids = np.maximum(np.arange(largest_size + 1), 1)
    best = bit_length(np.maximum(vocab_size * 0.6931 / num_ids, 1).astype(np.int64))
    return np.maximum(best - STEPS[:, None], 0)
