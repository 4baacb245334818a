"""How many positions are projected, and looked at, at a time."""

import pytest
import torch

from distill.losses.projection import CHUNK_BYTES, cached_block, fast_chunk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_ids", [300, 16_384, 49_152, 151_936, 262_144, 10**9])
def test_a_chunk_fits_and_is_a_fast_number_of_positions(num_ids, dtype):
    chunk = fast_chunk(num_ids, dtype)
    bytes_each = num_ids * dtype.itemsize
    assert chunk == 1 or chunk * bytes_each <= CHUNK_BYTES
    assert chunk < 64 or chunk % 64 == 0
    assert (chunk + 64) * bytes_each > CHUNK_BYTES, "no larger one would fit"


def test_qwens_vocabulary_in_both_types():
    assert fast_chunk(151_936, torch.float32) == 256
    assert fast_chunk(151_936, torch.bfloat16) == 512


@pytest.mark.parametrize("num_threads", [1, 2, 64])
def test_a_block_has_a_cache_for_each_thread_and_never_more_than_the_largest(
    monkeypatch, num_threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    assert cached_block(1024, 16 << 20) == min(1024 * num_threads, 16 << 10)
    assert cached_block(1 << 30, 16 << 20) == 1
