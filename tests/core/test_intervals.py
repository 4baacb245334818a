import pytest

from distill.core.intervals import mean_interval, paired_bootstrap, percent, wilson


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
    assert (high - mean) / error == pytest.approx(
        quantile, rel=0.035 if num == 3 else 0.01
    ) and low + high == pytest.approx(2 * mean)


def test_the_interval_of_a_mean_knows_its_bounds_and_when_it_knows_nothing():
    assert mean_interval([5.0], 0, 96) == (0, 5, 96)
    assert mean_interval([0.0, 96.0], 0, 96) == (0, 48, 96) and mean_interval([7.0] * 8, 0, 96) == (
        7,
        7,
        7,
    )


def test_a_share_is_read_with_its_interval():
    assert percent(81, 263) == "31 % [26, 37]" and percent(0, 0) == "–"
