"""The budget: never exceeded, filled where it helps most, and no worse than llama.cpp's own mixtures of that size."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.errors import DataError
from distill.formats.gguf import mixed
from distill.formats.gguf.mixed import Option
from distill.formats.gguf.tensors import tensors_of
from distill.formats.gguf.write import describe, write_gguf
from distill.llama_cpp import ggml
from distill.models.score import TokenSequence

KINDS = (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q6_K, Type.Q8_0)


def some_options(seed: int) -> dict[str, list[Option]]:
    rng = np.random.default_rng(seed)
    options = {}
    for name in "abcde":
        sizes = np.sort(rng.integers(10, 200, len(KINDS)))
        nats = np.sort(rng.exponential(size=len(KINDS)))[::-1] * rng.choice([0.01, 1.0])
        options[name] = [
            Option(k, int(b), float(n)) for k, b, n in zip(KINDS, sizes, nats, strict=True)
        ]
    return options


@pytest.mark.parametrize("seed", range(20))
def test_what_is_taken_fits_and_is_the_best_for_its_own_bytes(seed: int) -> None:
    options = some_options(seed)
    smallest = sum(min(o.bytes for o in mine) for mine in options.values())
    largest = sum(max(o.bytes for o in mine) for mine in options.values())
    for max_bytes in (smallest, (smallest + largest) // 2, largest):
        types = mixed.fill(options, max_bytes)
        taken = [next(o for o in mine if o.type == types[name]) for name, mine in options.items()]
        assert sum(o.bytes for o in taken) <= max_bytes
        combinations = [
            c for c in itertools.product(*options.values()) if sum(o.bytes for o in c) <= max_bytes
        ]
        best = min(sum(o.nats for o in c) for c in combinations)
        steepest = max(  # the greedy filling may miss the last step that did not fit, and no more
            a.nats - b.nats for mine in options.values() for a in mine for b in mine
        )
        assert best <= sum(o.nats for o in taken) <= best + steepest
    assert sum(o.nats for o in taken) == pytest.approx(best), (
        "with room for everything nothing is left out"
    )


def test_a_budget_below_the_smallest_types_is_an_error_that_says_how_much_is_needed() -> None:
    options = {"a": [Option(Type.Q2_K, 3_000_000, 1.0)], "b": [Option(Type.Q4_K, 1_500_000, 0.5)]}
    with pytest.raises(
        DataError,
        match=r"quantize.budget_mb: the smallest types take 4.50 MB, vocabulary and vectors leave room for 4.00",
    ):
        mixed.fill(options, 4_000_000)


def test_a_type_that_costs_more_bytes_and_more_nats_is_never_taken() -> None:
    hull = mixed._hull(
        [
            Option(Type.Q4_0, 45, 0.30),
            Option(Type.Q4_K, 45, 0.20),
            Option(Type.Q5_0, 55, 0.25),
            Option(Type.Q8_0, 85, 0.0),
        ]
    )
    assert [o.type for o in hull] == [Type.Q4_K, Type.Q8_0]


@pytest.fixture(scope="module")
def meter(model_folder: Callable[..., Path], sentences: list[str]) -> mixed.SensitivityMeter:
    folder = model_folder("llama", trained=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = [TokenSequence(tokenizer(text).input_ids, 1) for text in sentences]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return mixed.SensitivityMeter(model, sequences, 512, tokenizer.pad_token_id, len(tokenizer))


def test_a_whole_model_is_no_nats_from_itself_and_the_weights_come_back(
    meter: mixed.SensitivityMeter, model_folder: Callable[..., Path]
) -> None:
    tensors = [
        t for t in tensors_of(model_folder("llama", trained=True), "q2_k") if len(t.shape) == 2
    ]
    before = {t.source: meter.model.get_parameter(t.source).clone() for t in tensors}
    assert abs(meter.nats()) < 1e-6
    with mixed.rounded(meter.model, tensors, {t.name: t.type for t in tensors}, {}):
        assert meter.nats() > 1e-4  # the tied head is rounded, too, on one side alone
    assert abs(meter.nats()) < 1e-6
    assert all(
        torch.equal(meter.model.get_parameter(name), values) for name, values in before.items()
    )


def test_the_file_holds_what_was_chosen_fits_and_is_no_further_from_the_student_than_the_stock_mixtures(
    meter: mixed.SensitivityMeter, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder("llama", trained=True)
    tensors = tensors_of(folder, "q4_k_m")
    stock = {
        name: {t.name: t.type for t in tensors_of(folder, name) if len(t.shape) == 2}
        for name in mixed.STOCK
    }
    vectors = mixed.bytes_of([t for t in tensors if len(t.shape) == 1], {})
    room = mixed.bytes_of(tensors, stock["q4_k_m"])
    steps: list[str] = []
    chosen = mixed.choose(meter, tensors, stock, {}, room, steps.append)
    assert {"by tensor", "q4_k_m", "iq4_nl", "q4_0", "q2_k"} <= set(
        chosen.nats
    ) and "q8_0" not in chosen.nats
    assert chosen.nats[chosen.name] == min(chosen.nats.values())
    assert steps[15:] == list(chosen.nats)
    written = write_gguf(folder, tmp_path / "mixed.gguf", "q4_k_m", types=chosen.types)
    on_disk = describe(tmp_path / "mixed.gguf").tensor_types
    assert on_disk == written.tensor_types
    counts = {kind.name: list(chosen.types.values()).count(kind) for kind in chosen.types.values()}
    assert {k: v for k, v in on_disk.items() if k != "F32"} == counts
    sizes = {t.name: t for t in tensors}
    num_bytes = sum(
        sizes[n].shape[0] * ggml.row_bytes(k, sizes[n].shape[1]) for n, k in chosen.types.items()
    )
    assert num_bytes + vectors <= room
