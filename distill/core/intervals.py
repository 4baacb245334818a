"""Confidence intervals for figures on a few hundred examples."""

import math
from collections.abc import Sequence

NUM_RESAMPLES = 2000
Z95 = 1.959964


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share (Wilson 1927).

    It is honest near 0 and 1, where the normal one is not.
    """
    if num == 0:
        return 0.0, 1.0
    share, z2 = num_right / num, Z95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z95 / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def percent(count: int, num: int) -> str:
    """Return a share with Wilson's interval, as a person reads it: `62 % [55, 69]`.

    A dash where there is nothing to count.
    """
    if not num:
        return "–"
    low, high = wilson(count, num)
    return f"{100 * count / num:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def mean_interval(values: Sequence[float], least: float, most: float) -> tuple[float, float, float]:
    """Return (low, mean, high): Student's 95 % interval of a mean of numbers in [`least`, `most`].

    The quantile is Abramowitz and Stegun's 26.7.5, right to 1 % from three degrees of freedom. One
    number alone says nothing of the spread: the interval is then all that is possible.
    """
    num, mean = len(values), sum(values) / len(values)
    if num == 1:
        return least, mean, most
    z, n = Z95, num - 1
    t = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    half = t * math.sqrt(sum((v - mean) ** 2 for v in values) / n / num)
    return max(least, mean - half), mean, min(most, mean + half)


def paired_bootstrap(pairs: Sequence[tuple[float, float]], *, seed: int) -> dict[str, float]:
    """Return the mean of sum(difference) / sum(weight) and its 95 % interval by bootstrap.

    `pairs`: (difference, weight), one an example.

    Resampling examples keeps each pair together, so what makes an example hard for both cancels.
    """
    import numpy as np

    values = np.asarray(pairs, dtype=np.float64)
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(values), size=(NUM_RESAMPLES, len(values)))
    sums = values[picked].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    mean = values[:, 0].sum() / values[:, 1].sum()
    return {"difference": float(mean), "low": float(low), "high": float(high)}
