"""Bit strings come back as they were."""

import numpy as np
import pytest

from distill.signals import bits


def test_fields_of_every_width_come_back():
    rng = np.random.default_rng(1)
    for widths in (
        rng.integers(0, 64, 500),
        np.full(300, 63),
        np.full(9, 1),
        np.zeros(5, int),
        np.zeros(0, int),
    ):
        values = rng.integers(0, 1 << 63, len(widths)) & ((np.int64(1) << widths) - 1)
        data = bits.pack_fields(values, widths)
        assert len(data) == -(-widths.sum() // 8)
        assert np.array_equal(bits.unpack_fields(data + b"\xff", widths), values)


def test_unary_values_come_back_with_their_length():
    rng = np.random.default_rng(1)
    for values in (
        rng.geometric(0.4, 500) - 1,
        np.zeros(8, np.int64),
        np.array([70]),
        np.zeros(0, np.int64),
    ):
        data = bits.pack_unary(values)
        unpacked, size = bits.unpack_unary(data + b"\xff", len(values))
        assert np.array_equal(unpacked, values) and size == len(data)
    with pytest.raises(ValueError, match="expected 9"):
        bits.unpack_unary(b"\x01", 9)
