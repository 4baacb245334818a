"""The learning rate of each step: up, then down in the form that was asked for."""

import pytest

from distill.training.schedule import learning_rate

PEAK, NUM_STEPS = 2e-3, 40


def rates(schedule: str) -> list[float]:
    return [
        learning_rate(PEAK, step, NUM_STEPS, warmup_share=0.1, schedule=schedule)
        for step in range(NUM_STEPS)
    ]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_it_rises_linearly_to_the_peak(schedule: str) -> None:
    assert rates(schedule)[:5] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK, PEAK])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_nearly_to_zero_and_is_half_the_peak_half_way(schedule: str) -> None:
    falling = rates(schedule)[4:]
    assert falling == sorted(falling, reverse=True)
    assert falling[18] == pytest.approx(PEAK / 2)
    assert 0 < falling[-1] < 0.03 * PEAK


def test_a_constant_one_stays_at_the_peak() -> None:
    assert set(rates("constant")[4:]) == {PEAK}


def test_one_step_is_enough_for_a_warm_up() -> None:
    assert learning_rate(PEAK, 0, 1, warmup_share=0.05) == PEAK
    assert learning_rate(PEAK, 0, 10, warmup_share=0.0) == PEAK
