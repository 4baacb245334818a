"""The mixing function of SplitMix64 (Steele, Lea, Flood 2014): one number in, a random one out."""

import numpy as np
from numpy.typing import NDArray


def splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix each number; arithmetic is modulo 2^64. It is a bijection, the same on every machine."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
