"""The speed of one file, and what it is made of."""

from pathlib import Path

import pytest

from distill.deploy import speed
from distill.llama_cpp.gguf_header import TensorInfo


def test_the_share_is_decoding_over_what_memory_allows(files: dict[str, Path]) -> None:
    found = speed.measure(files["q8_0"], "q8_0", 1, bandwidth=1e9)
    assert found.share == pytest.approx(found.decode * found.bytes_per_token / 1e9)
    assert (
        0.9 * found.bytes < found.bytes_per_token < found.bytes
    )  # the vocabulary is in the file too


def test_of_an_untied_embedding_one_row_is_read() -> None:
    embedding, layer, head = (
        TensorInfo(name, 0, 0, size)
        for name, size in (("token_embd.weight", 7), ("blk.0.x", 2), ("output.weight", 5))
    )
    assert speed.bytes_per_token([embedding, layer]) == 9
    assert speed.bytes_per_token([embedding, layer, head]) == 7


def test_threads_double_up_to_the_most() -> None:
    assert [speed.thread_counts(n) for n in (1, 2, 3, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]
