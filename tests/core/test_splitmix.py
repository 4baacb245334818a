"""SplitMix64's mixing function gives the numbers that it gives everywhere."""

import numpy as np

from distill.core.splitmix import splitmix

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def test_it_is_the_published_generator():
    """The first numbers of SplitMix64 with seed 1234567: the state's steps, mixed."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GAMMA
    assert splitmix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_different_numbers_stay_different():
    numbers = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(splitmix(numbers))) == len(numbers)
