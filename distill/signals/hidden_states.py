"""The teacher's last hidden states in 8 bits.

The bytes follow a sequence's record where a header asks for them:

    scales   float16 [T, ⌈H / 64⌉]     largest magnitude in a block of 64, / 127
    values   int8 [T, H]

H + 2 ⌈H / 64⌉ bytes a token: 4,224 at width 4,096. On the quickstart's teacher (width 192) the
decoded states are .6 % away (1 − cos = 2e-5). One scale a token would save 3 % of the bytes; with
the outliers of large models (4 of 4,096 numbers 100 times the others) all the others would then be
wrong by a third, with blocks by 5 %.

T: answer tokens, H: the teacher's hidden width, B: blocks, S: numbers of a block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.errors import DataError

BLOCK = 64  # numbers that share a scale


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """values: int8 [T, H]; scales: float16 [T, B]. A state is value · scale of its block."""

    values: NDArray[np.int8]
    scales: NDArray[np.float16]

    @property
    def num_tokens(self) -> int:
        return len(self.values)


def bytes_per_token(hidden_size: int | None) -> int:
    """Return 0 where none are stored."""
    return 0 if hidden_size is None else hidden_size + 2 * num_blocks(hidden_size)


def num_blocks(hidden_size: int) -> int:
    return -(-hidden_size // BLOCK)


def quantize(hidden_TH: NDArray[np.float32]) -> HiddenStates:
    """Round hidden states to nearest.

    Raises DataError for what is not finite, or too large for float16 scales.
    """
    num_tokens, width = hidden_TH.shape
    padded = np.zeros((num_tokens, num_blocks(width) * BLOCK), np.float32)
    padded[:, :width] = hidden_TH
    blocks_TBS = padded.reshape(num_tokens, num_blocks(width), BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        scales_TB = (np.abs(blocks_TBS).max(-1) / 127).astype(np.float16)
    if not np.isfinite(scales_TB).all():
        raise DataError(
            "the teacher's hidden states are not finite, or above 8 million; load it with "
            "teacher.dtype=float32, check its files, or set capture.hidden_states to none"
        )
    # As they are stored, so that their rounding costs nothing.
    steps_TB1 = scales_TB.astype(np.float32)[..., None]
    ratios_TBS = np.divide(
        blocks_TBS, steps_TB1, out=np.zeros_like(blocks_TBS), where=steps_TB1 > 0
    )
    # A tiny scale, rounded down, would give more than 127.
    values_TBS = np.rint(ratios_TBS).clip(-127, 127).astype(np.int8)
    return HiddenStates(values_TBS.reshape(padded.shape)[:, :width], scales_TB)


def encode(states: HiddenStates | None, hidden_size: int | None, num_tokens: int) -> bytes:
    """Return the bytes of the states of `num_tokens` tokens, none for None.

    Raises ValueError for what has another shape.
    """
    shapes = None if states is None else (states.values.shape, states.scales.shape)
    expected = None
    if hidden_size is not None:
        expected = ((num_tokens, hidden_size), (num_tokens, num_blocks(hidden_size)))
    if shapes != expected:
        raise ValueError(f"hidden states and scales are {shapes}, expected {expected}")
    if states is None:
        return b""
    return states.scales.astype("<f2").tobytes() + states.values.astype(np.int8).tobytes()


def decode(data: bytes | memoryview, hidden_size: int, num_tokens: int) -> HiddenStates:
    """Do the inverse of `encode`.

    Raises DataError if the bytes are not the states of `num_tokens` tokens.
    """
    if len(data) != num_tokens * bytes_per_token(hidden_size):
        raise DataError(
            f"{len(data)} bytes are not {num_tokens} hidden states of width {hidden_size}"
        )
    shape = (num_tokens, num_blocks(hidden_size))
    scales = np.frombuffer(data, "<f2", shape[0] * shape[1]).reshape(shape)
    values = np.frombuffer(data, np.int8, offset=2 * scales.size).reshape(num_tokens, hidden_size)
    return HiddenStates(values, scales)
