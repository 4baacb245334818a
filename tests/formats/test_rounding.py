"""What is trained on is what the file holds: to the last bit, for every type."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill.formats import rounding
from distill.formats.bitsandbytes import load_bnb, write_bnb
from distill.formats.gguf.tensors import tensors_of
from distill.formats.gguf.write import write_gguf


@pytest.mark.parametrize(
    "name", ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "q3_k_m", "q2_k", "tq2_0"]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_rounded_weights_are_the_files(
    model_folder: Callable[..., Path], tmp_path: Path, name: str, weighted: bool
) -> None:
    folder = model_folder("qwen3", trained=True)
    matrices = {t.name: t for t in tensors_of(folder, name) if len(t.shape) == 2}
    rng = np.random.default_rng(0)
    importance = (
        {n: rng.exponential(size=t.shape[1]).astype(np.float32) for n, t in matrices.items()}
        if weighted
        else None
    )
    write_gguf(folder, tmp_path / "file.gguf", name, importance=importance)
    roundings = rounding.gguf_roundings(folder, name, importance)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(roundings) == len(matrices) == 15
    for tensor in gguf.GGUFReader(tmp_path / "file.gguf").tensors:
        if tensor.name not in matrices:
            continue
        in_file = gguf.quants.dequantize(tensor.data, Type(tensor.tensor_type))
        source = matrices[tensor.name].source
        found = roundings[source](model.get_parameter(source).data)
        np.testing.assert_array_equal(found.numpy(), in_file.reshape(found.shape))
        assert not torch.equal(found, model.get_parameter(source).data)


def test_rounded_weights_are_the_nf4_folders(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    folder = model_folder("qwen3", trained=True)
    write_bnb(folder, tmp_path, "nf4")
    model, stored = (
        AutoModelForCausalLM.from_pretrained(folder),
        dict(load_bnb(tmp_path).named_parameters()),
    )
    num_packed = 0
    for name, function in rounding.nf4_roundings(model).items():
        found, weight = function(model.get_parameter(name).data), stored[name]
        is_packed = weight.dtype == torch.uint8
        num_packed += is_packed
        in_file = dequantize_4bit(weight.data, weight.quant_state) if is_packed else weight.data
        assert torch.equal(found, in_file.float()), name
    assert num_packed == 14  # seven in each of two layers; no embedding, no head


@pytest.mark.parametrize("weighted", [False, True])
def test_columns_that_the_file_has_in_another_order_are_rounded_in_that_order(
    model_folder: Callable[..., Path], tmp_path: Path, weighted: bool
) -> None:
    folder = model_folder("qwen3.5", linear_num_value_heads=8)
    tensor = next(t for t in tensors_of(folder, "q2_k") if t.columns is not None)
    assert tensor.columns is not None and not np.array_equal(
        tensor.columns, np.arange(tensor.shape[1])
    )
    weights = np.random.default_rng(0).exponential(size=tensor.shape[1]).astype(np.float32)
    importance = {tensor.name: weights} if weighted else None
    write_gguf(folder, tmp_path / "file.gguf", "q2_k", importance=importance)
    stored = next(
        t for t in gguf.GGUFReader(tmp_path / "file.gguf").tensors if t.name == tensor.name
    )
    in_file = gguf.quants.dequantize(stored.data, Type(stored.tensor_type)).reshape(tensor.shape)
    weight = load_file(folder / "model.safetensors")[tensor.source]
    found = rounding.gguf_roundings(folder, "q2_k", importance)[tensor.source](weight.float())
    np.testing.assert_array_equal(found.numpy()[:, tensor.columns], in_file)
