"""Ids come back from their gaps, and gaps cost about as few bits as the ids' number allows."""

import numpy as np
import pytest

from distill.signals import rice


def encoded(ids: list[list[int]], vocab_size: int) -> tuple[rice.Gaps, np.ndarray]:
    sizes = np.array([len(part) for part in ids])
    return rice.gaps_of(np.concatenate(ids).astype(np.int32), sizes, vocab_size), sizes


def bits_of(gaps: rice.Gaps) -> int:
    return int((gaps.low_widths + gaps.unary + 1).sum())


def test_ids_come_back_from_their_gaps():
    rng = np.random.default_rng(0)
    ids = [np.sort(rng.choice(5000, size, replace=False)) for size in (1, 50, 7, 300)]
    gaps, sizes = encoded(ids, 5000)
    widths = rice.low_widths(gaps.steps, sizes, 5000)
    assert np.array_equal(widths, gaps.low_widths)
    low = gaps.low & ((1 << widths) - 1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    assert np.array_equal(
        rice.ids_of(gaps.unary << widths | low, offsets, 5000), np.concatenate(ids)
    )


def test_the_first_id_of_every_token_counts_from_zero():
    gaps, _ = encoded([[7, 9], [3, 4]], 100)
    assert (gaps.unary << gaps.low_widths | gaps.low & ((1 << gaps.low_widths) - 1)).tolist() == [
        7,
        1,
        3,
        0,
    ]


def test_crowded_ids_choose_a_smaller_parameter_and_cost_less():
    crowded, _ = encoded([list(range(50))], 151_936)
    spread, _ = encoded([list(range(0, 150_000, 3000))], 151_936)
    assert crowded.steps[0] > spread.steps[0]
    assert bits_of(crowded) < bits_of(spread)


@pytest.mark.parametrize(
    ("ids", "problem"), [([3, 2], "ascending"), ([3, 3], "ascending"), ([3, 100], "below 100")]
)
def test_what_are_no_ids_of_a_token_is_refused(ids: list[int], problem: str):
    with pytest.raises(ValueError, match=problem):
        encoded([ids], 100)
    with pytest.raises(ValueError, match="not below vocab_size"):
        rice.ids_of(np.array([60, 60]), np.array([0, 2]), 100)
