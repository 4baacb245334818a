"""Confidence intervals for figures on a few hundred examples."""

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import Any

NUM_RESAMPLES = 2000
Z95 = 1.959964


def wilson(num_right: float, num: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share (Wilson 1927).

    It is honest near 0 and 1, where the normal one is not. `num_right` need not be whole: of an
    example with several answers it is the share of them.
    """
    if num == 0:
        return 0.0, 1.0
    share, z2 = num_right / num, Z95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z95 / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_shares(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference of two shares of the same examples.

    `differences`: one an example, from -1 to 1; of an example with several answers their mean, for
    they are no draws of their own. It is Wald's after one more example of either sign (Bonett and
    Price 2012, JEBS 37:479): where nothing differs, or everything does, a bootstrap has no width.
    """
    num = len(differences) + 2
    mean = sum(differences) / num
    variance = (sum(x * x for x in differences) + 2) / num - mean**2
    half = Z95 * math.sqrt(variance / num)
    return max(-1.0, mean - half), min(1.0, mean + half)


def paired_mean(differences: Iterable[tuple[Hashable, int]]) -> tuple[float, float, float]:
    """Return the mean difference with its 95 % interval, see `paired_shares`: (mean, low, high).

    `differences`: (which example, from -1 to 1); those of one example are one draw, as a question
    is in several languages.
    """
    by_example: dict[Hashable, list[int]] = {}
    for example, difference in differences:
        by_example.setdefault(example, []).append(difference)
    mean = sum(map(sum, by_example.values())) / sum(map(len, by_example.values()))
    low, high = paired_shares([sum(own) / len(own) for own in by_example.values()])
    return mean, min(low, mean), max(high, mean)


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

    One number alone says nothing of the spread: the interval is then all that is possible.
    """
    num, mean = len(values), sum(values) / len(values)
    if num == 1:
        return least, mean, most
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (num - 1))
    half = student_quantile(num - 1) * spread / math.sqrt(num)
    return max(least, mean - half), mean, min(most, mean + half)


@cache
def student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t with `freedom` degrees, 1 or more.

    With t = sqrt(freedom) tan(angle) its density is a power of the cosine, which is integrated by
    Simpson's rule, and the angle found by halving: right to seven digits. Above 200 degrees it is
    Abramowitz and Stegun's 26.7.5, which is as good there.
    """
    z, n = Z95, freedom
    if n > 200:
        return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    scale = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(40):
        angle = (low + high) / 2
        if scale * _integral_of_cosine(n - 1, angle) < 0.475:
            low = angle
        else:
            high = angle
    return math.sqrt(n) * math.tan(low)


def _integral_of_cosine(power: int, angle: float, num: int = 100) -> float:
    """Return the integral of cos(u) ** power from 0 to `angle`, by Simpson's rule."""
    step = angle / (2 * num)
    values = [math.cos(i * step) ** power for i in range(2 * num + 1)]
    return step / 3 * (values[0] + values[-1] + 4 * sum(values[1::2]) + 2 * sum(values[2:-1:2]))


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


def repeated_difference(
    differences_RN: Sequence[Sequence[float]], weights_N: Sequence[float], *, seed: int
) -> dict[str, float]:
    """Return the mean over repeats and examples of a paired difference, with its 95 % interval.

    `differences_RN`: a row a repeat of the training (R, two or more), a column an example (N), the
    same examples in each; `weights_N`: of the examples, as in `paired_bootstrap`. The interval is
    for another training on other examples: both are draws.

    The examples' part is the paired bootstrap of their means over the repeats. The repeats' part is
    Student's interval of their means: of three repeats a bootstrap is too narrow by more than half.
    Both half-widths are added in quadrature, each with its own quantile (Howe 1974, JASA 69:789),
    which covers 95 % or a little more. What neither repeats nor examples have in common is in both
    parts and counted once, as in the analysis of readers and cases of Dorfman, Berbaum and Metz
    (1992). The interval is never narrower than the bootstrap, nor than that of the repeats alone.
    """
    import numpy as np

    values_RN = np.asarray(differences_RN, dtype=np.float64)
    weights = np.asarray(weights_N, dtype=np.float64)
    pairs = list(zip(values_RN.mean(axis=0), weights, strict=True))
    found = paired_bootstrap(pairs, seed=seed)
    mean = found["difference"]
    # what an example adds to the difference of its repeat, times N: the means are those of repeats
    scale = len(weights) / weights.sum()
    repeats, residual = _variances((values_RN - mean * weights) * scale)
    own = student_quantile(len(values_RN) - 1) ** 2 * repeats

    def half(end: float) -> float:
        examples = (end - mean) ** 2
        return math.sqrt(max(examples, own + max(examples - Z95**2 * residual, 0.0)))

    return {
        "difference": mean,
        "low": mean - half(found["low"]),
        "high": mean + half(found["high"]),
    }


def _variances(values_RN: Any) -> tuple[float, float]:
    """Return the variance of the mean of all by the spread of the R rows' means, and by the residual.

    The residual is what is left of a number without the means of its row and its column.
    """
    num_rows, num = values_RN.shape
    means_R = values_RN.mean(axis=1)
    residual_RN = values_RN - means_R[:, None] - values_RN.mean(axis=0) + values_RN.mean()
    degrees = (num_rows - 1) * max(num - 1, 1)
    residual = (residual_RN**2).sum() / degrees / (num_rows * num)
    return float(means_R.var(ddof=1) / num_rows), float(residual)
