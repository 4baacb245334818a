"""llama.cpp takes the cores that are free, and computes the same on any number of them."""

import time

import numpy as np
import pytest
from core_helpers import busy_cores
from server_helpers import TEACHER

from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.llama_cpp.threads import spare_threads

IDS = [i % 1000 for i in range(7, 200)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_gguf(TEACHER, tmp_path_factory.mktemp("gguf") / "q8_0.gguf", "q8_0").path


def test_beside_other_processes_it_takes_one_thread(path):
    """As many as cores, each of which waited for the others, took a hundred times as long."""
    with (
        busy_cores(),
        LlamaModel(path, num_threads=2, context_length=128) as llama,
    ):
        end = time.monotonic() + 20
        while llama.num_threads == 2 and time.monotonic() < end:
            llama.generate([IDS[:20]] * 4, 8, [])
        assert llama.num_threads == 1
        start = time.monotonic()
        llama.generate([IDS[:20]] * 60, 8, [])
        assert time.monotonic() - start < 10


def test_the_number_of_threads_does_not_change_what_is_computed(path):
    logits = []
    for num_threads in (1, 2, 3):
        with LlamaModel(
            path, num_threads=num_threads, context_length=256, exact_threads=True
        ) as llama:
            blocks = [block.copy() for _, block in llama.logit_blocks(IDS, 0)]
            logits.append(np.concatenate(blocks))
    assert (logits[0] == logits[1]).all() and (logits[0] == logits[2]).all()


def test_a_measurement_has_the_threads_that_its_row_names(path):
    with (
        busy_cores(),
        LlamaModel(path, num_threads=2, context_length=64, exact_threads=True) as llama,
    ):
        llama.generate([IDS[:5]], 2, [])
        assert llama.num_threads == 2


def test_chat_and_serve_look_before_they_begin():
    with busy_cores():
        assert spare_threads(2) == 1
