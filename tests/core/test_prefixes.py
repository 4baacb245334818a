import random

import pytest

from distill.core.prefixes import common_prefix_length


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2]], 2),
        ([[1, 2], [1, 2, 3], [1, 5, 3]], 1),
        ([[], [1]], 0),
        ([[1], [2]], 0),
        (["abc", "abd"], 2),
    ],
)
def test_the_beginning_that_all_have(sequences, length):
    assert common_prefix_length(*sequences) == length


def test_it_is_the_longest_that_all_have():
    rng = random.Random(0)
    for _ in range(300):
        sequences = [[rng.randrange(2) for _ in range(rng.randrange(8))] for _ in range(3)]
        length = common_prefix_length(*sequences)
        starts = {tuple(s[:length]) for s in sequences}
        assert len(starts) == 1
        longer = {tuple(s[: length + 1]) for s in sequences}
        assert len(longer) > 1 or min(map(len, sequences)) == length
