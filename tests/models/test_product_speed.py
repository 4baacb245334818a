"""How fast a model's matrices are multiplied in bfloat16: which ones, how many, and for how long."""

import time
from collections import Counter
from pathlib import Path

import pytest
from families import BY_NAME, save
from run_helpers import QUICKSTART

from distill.models import product_speed
from distill.models.product_speed import (
    MOST_NUMBERS,
    MOST_PRODUCTS,
    Matrices,
    matrices_of,
    measured_speedup,
    multiplies_bfloat16,
)

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
CPU = Path("/proc/cpuinfo")


def test_the_matrices_are_those_that_a_token_goes_through():
    matrices = matrices_of(TEACHER)
    assert matrices.head == (1024, 192)  # tied to the embedding
    assert matrices.layers[192, 512] == 6, "one a layer leads back from the feed-forward"
    assert matrices.num_numbers == pytest.approx(2.63e6, rel=0.01)


def test_a_head_of_its_own_counts_once_and_every_expert_counts(tmp_path):
    for name in ("llama", "qwen3-moe"):
        model = save(BY_NAME[name], tmp_path / name)
        vocabulary, width = model.get_output_embeddings().weight.shape
        matrices = matrices_of(tmp_path / name)
        assert matrices.head == (vocabulary, width) and matrices.head not in matrices.layers
        assert bool(matrices.experts) == (name == "qwen3-moe")
        inner = [p for n, p in model.named_parameters() if p.ndim > 1 and len(p) != vocabulary]
        assert matrices.num_numbers == vocabulary * width + sum(
            p.numel() for p in inner if min(p.shape[-2:]) >= 16
        )


@pytest.mark.parametrize("rows", [1, 16, 1536])
def test_an_even_part_of_a_large_model_is_measured(rows):
    large = Matrices({(4096, 4096): 64, (12288, 4096): 72, (1024, 4096): 72}, (151936, 4096))  # pyright: ignore[reportArgumentType]
    some = product_speed._some_of(large, rows)
    room = min(MOST_NUMBERS, MOST_PRODUCTS / rows)
    assert 0.5 * room < some.num_numbers < 1.2 * room
    assert some.head is not None
    share = some.head[0] * some.head[1] / some.num_numbers
    assert share == pytest.approx(151936 * 4096 / large.num_numbers, abs=0.05)


@pytest.mark.parametrize("trains", [False, True])
def test_a_measurement_is_a_ratio_and_takes_no_longer_than_it_may(monkeypatch, trains):
    monkeypatch.setattr(product_speed, "SECONDS", 0.1)
    small = Matrices({(64, 32): 2, (32, 64): 1}, (256, 32))  # pyright: ignore[reportArgumentType]
    start = time.perf_counter()
    assert 0.001 < measured_speedup(small, 64, trains=trains) < 100
    assert time.perf_counter() - start < 5


def test_experts_are_trained_outside_autocast_as_transformers_does(monkeypatch):
    import torch

    seen = []
    linear = torch.nn.functional.linear

    def watched(states, weight):
        seen.append((tuple(weight.shape), torch.is_autocast_enabled("cpu")))
        return linear(states, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    some = Matrices(Counter({(64, 32): 1}), None, Counter({(32, 16): 2}))
    for dtype, is_on in ((torch.float32, False), (torch.bfloat16, True)):
        seen.clear()
        product_speed._training_pass(some, 8, dtype)()
        assert seen == [((32, 16), False)] * 2 + [((64, 32), is_on)]


def test_the_first_pass_of_each_type_does_not_count(monkeypatch):
    """It pays for what is loaded and warmed up; with little time it was all that was measured."""
    import torch

    seconds = {torch.float32: [9.0, 0.3, 0.2], torch.bfloat16: [5.0, 0.1, 0.1]}
    clock = [0.0]

    def make(_, __, dtype):
        def work():
            taken = seconds[dtype].pop(0) if len(seconds[dtype]) > 1 else seconds[dtype][0]
            clock[0] += taken

        return work

    monkeypatch.setattr(product_speed, "_forward_pass", make)
    monkeypatch.setattr(product_speed.time, "perf_counter", lambda: clock[0])
    some = Matrices(Counter({(64, 32): 1}))
    assert measured_speedup(some, 8, trains=False) == pytest.approx(2.0)


def test_torch_knows_whether_this_processor_multiplies_bfloat16():
    if not CPU.is_file() or "flags" not in CPU.read_text():
        pytest.skip("no x86 with Linux: nothing else here says what this processor can do")
    flags = CPU.read_text().partition("flags")[2].partition("\n")[0].split()
    assert multiplies_bfloat16() == bool({"avx512_bf16", "amx_bf16"} & set(flags))


def test_a_torch_that_cannot_say_it_counts_as_no(monkeypatch):
    import torch

    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16()
