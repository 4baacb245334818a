import random

import numpy as np
import pytest

from distill.core import intervals
from distill.core.intervals import (
    mean_interval,
    paired_bootstrap,
    paired_shares,
    percent,
    repeated_difference,
    student_quantile,
    wilson,
)


def test_wilson_against_published_values():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for right, num, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, num) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_paired_shares_against_published_values():
    # Bonett and Price 2012 add one to each count of those that differ: by hand for 8 and 2 of 40
    differences = [1.0] * 8 + [-1.0] * 2 + [0.0] * 30
    assert paired_shares(differences) == pytest.approx((-0.01292, 0.29863), abs=1e-4)


@pytest.mark.parametrize("num", [1, 20, 400])
def test_paired_shares_hold_the_mean_and_are_never_of_no_width(num):
    for more in range(0, num + 1, max(1, num // 20)):
        for less in range(0, num + 1 - more, max(1, num // 20)):
            differences = [1.0] * more + [-1.0] * less + [0.0] * (num - more - less)
            low, high = paired_shares(differences)
            assert -1 <= low <= (more - less) / num <= high <= 1 and low < high
            mirrored = paired_shares([-x for x in differences])
            assert mirrored == pytest.approx((-high, -low))


def test_paired_shares_of_several_answers_hold_the_truth_95_times_in_100_or_more():
    rng, num, held = np.random.default_rng(5), 60, 0
    truth = 0.05 * (1 - 0.145) - 0.145  # rises less falls
    for _ in range(400):
        falls = rng.random((num, 5)) < 0.1 + 0.9 * (rng.random((num, 1)) < 0.05)
        rises = ~falls & (rng.random((num, 5)) < 0.05)
        low, high = paired_shares((rises.astype(float) - falls).mean(axis=1).tolist())
        held += low <= truth <= high
    assert held >= 380


def test_the_bootstrap_of_a_constant_difference_has_no_width():
    found = paired_bootstrap([(0.5, 1.0)] * 10, seed=0)
    assert found == {"difference": 0.5, "low": 0.5, "high": 0.5}


def test_the_bootstrap_covers_the_mean_and_repeats():
    pairs = [(float(i % 2), 1.0) for i in range(300)]
    found = paired_bootstrap(pairs, seed=3)
    assert found["difference"] == 0.5
    # the normal approximation of the same interval: 0.5 +- 1.96 sqrt(.25 / 300)
    assert found["low"] == pytest.approx(0.4434, abs=0.01) and found["high"] == pytest.approx(
        0.5566, abs=0.01
    )
    assert found == paired_bootstrap(pairs, seed=3)


def test_weights_are_tokens_not_examples():
    assert paired_bootstrap([(3.0, 1.0), (0.0, 5.0)], seed=0)["difference"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("num", "quantile"),
    [(3, 4.303), (4, 3.182), (5, 2.776), (8, 2.365), (31, 2.042), (1001, 1.962)],
)
def test_the_interval_of_a_mean_is_students(num, quantile):
    """Published quantiles of t at 97.5 %."""
    values = [float(n % 7) for n in range(num)]
    low, mean, high = mean_interval(values, -100, 100)
    error = (sum((v - mean) ** 2 for v in values) / (num - 1) / num) ** 0.5
    assert (high - mean) / error == pytest.approx(quantile, abs=6e-4)
    assert low + high == pytest.approx(2 * mean)


def test_the_interval_of_a_mean_knows_its_bounds_and_when_it_knows_nothing():
    assert mean_interval([5.0], 0, 96) == (0, 5, 96)
    assert mean_interval([0.0, 96.0], 0, 96) == (0, 48, 96) and mean_interval([7.0] * 8, 0, 96) == (
        7,
        7,
        7,
    )


def test_a_share_is_read_with_its_interval():
    assert percent(81, 263) == "31 % [26, 37]" and percent(0, 0) == "–"


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (120, 1.97993), (1000, 1.96234)],
)
def test_students_quantile_is_the_published_one(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, rel=3e-6)


def test_students_quantile_is_smooth_where_its_method_changes():
    below, at, above = (student_quantile(n) for n in (199, 200, 201))
    assert below - at == pytest.approx(at - above, rel=0.03) and below > at > above > intervals.Z95


def test_repeats_that_are_alike_have_the_interval_of_the_examples():
    chance = random.Random(1)
    row = [chance.choice([-1.0, 0.0, 0.0, 1.0]) for _ in range(100)]
    weights = [float(chance.randrange(1, 9)) for _ in row]
    expected = paired_bootstrap(list(zip(row, weights, strict=True)), seed=4)
    assert repeated_difference([row] * 3, weights, seed=4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_examples_that_are_alike_have_the_interval_of_the_repeats(weight):
    means = [0.1, 0.4, 0.3, 0.25]
    low, mean, high = mean_interval([m / weight for m in means], -9, 9)
    found = repeated_difference([[m] * 50 for m in means], [weight] * 50, seed=0)
    assert found == pytest.approx({"difference": mean, "low": low, "high": high}, abs=1e-12)


def test_the_interval_over_repeats_is_never_narrower_than_that_of_either_part_alone():
    rng = np.random.default_rng(3)
    for _ in range(50):
        num, spread = int(rng.integers(2, 6)), rng.uniform(0, 1, size=3)
        values = spread[0] * rng.standard_normal((num, 1))
        values = values + spread[1] * rng.standard_normal((1, 40))
        values = values + spread[2] * rng.standard_normal((num, 40))
        weights = rng.integers(1, 30, size=40).astype(float)
        found = repeated_difference(values.tolist(), weights.tolist(), seed=2)
        pairs = list(zip(values.mean(axis=0), weights, strict=True))
        examples = paired_bootstrap(pairs, seed=2)
        ends = mean_interval((values.sum(axis=1) / weights.sum()).tolist(), -99, 99)
        for low, high in ((examples["low"], examples["high"]), ends[::2]):
            assert found["low"] <= low + 1e-12 and found["high"] >= high - 1e-12


def test_neither_unit_nor_order_matters():
    rng = np.random.default_rng(4)
    values, weights = rng.standard_normal((3, 30)), rng.uniform(1, 9, size=30)
    found = repeated_difference(values.tolist(), weights.tolist(), seed=0)
    scaled = repeated_difference((1000 * values).tolist(), (10 * weights).tolist(), seed=0)
    assert {k: v / 100 for k, v in scaled.items()} == pytest.approx(found)
    assert repeated_difference(values[::-1].tolist(), weights.tolist(), seed=0) == pytest.approx(
        found
    )


@pytest.mark.parametrize("num_repeats", [3, 5])
@pytest.mark.parametrize(
    "spread",
    [(0.1, 0.1, 0.1), (0.05, 0.5, 0.3), (0.0, 0.5, 0.3)],
    ids=["of repeats", "of both", "of examples"],
)
def test_the_interval_holds_the_truth_95_times_in_100(monkeypatch, num_repeats, spread):
    """Simulated runs: 400 are enough to tell 95 % from 92 %."""
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 300)
    rng = np.random.default_rng(7)
    num_runs, num, held = 400, 60, 0
    for run in range(num_runs):
        values = 0.1 + spread[0] * rng.standard_normal((num_repeats, 1))
        values = values + spread[1] * rng.standard_normal((1, num))
        values = values + spread[2] * rng.standard_normal((num_repeats, num))
        found = repeated_difference(values, [1.0] * num, seed=run)
        held += found["low"] <= 0.1 <= found["high"]
    assert 0.93 <= held / num_runs <= 0.99
