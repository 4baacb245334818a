import random

import numpy as np
import pytest

from distill.signals.key_index import KeyIndex, Location, entries
from distill.signals.store import INDEX


def keys(num: int) -> list[bytes]:
    """Return keys, some of which differ in their first, some in their last half alone."""
    draw = random.Random(num)
    made = [draw.randbytes(16) for _ in range(num)]
    made += [key[:8] + draw.randbytes(8) for key in made[: num // 2]]
    made += [draw.randbytes(8) + key[8:] for key in made[: num // 2]]
    return [*made, bytes(16), b"\xff" * 16, b"a" + bytes(15)]


@pytest.mark.parametrize("num", [0, 1, 300])
def test_an_index_in_arrays_is_the_dictionary_of_the_first_of_each_key(num):
    draw = random.Random(1)
    expected, parts = {}, []
    for shard in range(4):
        index = np.zeros(num, INDEX)
        rows = [(key, draw.randrange(2**40), draw.randrange(2**32), 7) for key in keys(num)[:num]]
        for place, (key, offset, length, num_tokens) in enumerate(draw.sample(rows, num)):
            key = key if shard % 2 else draw.choice([key, draw.randbytes(16)])
            index[place] = np.array([(key, offset, length, num_tokens)], INDEX)[0]
            expected.setdefault(key, Location(shard, 100 + offset, length, num_tokens))
        parts.append(entries(shard, index, 100))
    made = KeyIndex(parts)
    assert list(made) == list(expected) and len(made) == len(expected)
    assert made.num_tokens == 7 * len(expected)
    for key in [*expected, *keys(num), b"", b"short", bytes(17)]:
        assert made.find(key) == expected.get(key) and (key in made) == (key in expected)


def test_there_may_be_no_shard():
    assert len(KeyIndex([])) == 0 and list(KeyIndex([])) == [] and bytes(16) not in KeyIndex([])
