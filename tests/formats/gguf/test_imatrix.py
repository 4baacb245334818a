"""The importance matrix: sums checked by hand, the file read back, and less weighted error for the bits that it steers."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM

from distill.formats.gguf import imatrix
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp import ggml

SEQUENCES = [[5, 6, 7, 8, 9], [40, 41, 42], [300, 2, 300, 4]]


def test_sums_are_the_squared_inputs_of_every_token_and_survive_the_file(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("qwen3", trained=True)).eval()
    sums, num_tokens = imatrix.collect(model, SEQUENCES, gguf.MODEL_ARCH.QWEN3)
    assert (
        num_tokens == 12 and len(sums) == 14
    )  # seven matrices in each of two layers; no embedding, no head
    with torch.no_grad():
        first = [
            model.model.layers[0]
            .input_layernorm(model.model.embed_tokens(torch.tensor(ids)))
            .double()
            for ids in SEQUENCES
        ]
    expected = torch.cat(first).square().sum(0).numpy()
    np.testing.assert_allclose(sums["blk.0.attn_q.weight"], expected, rtol=1e-5)
    imatrix.write(tmp_path / "i.gguf", sums, num_tokens, len(SEQUENCES), "texts")
    found = imatrix.read(tmp_path / "i.gguf")
    assert found.keys() == sums.keys()
    np.testing.assert_allclose(
        found["blk.1.ffn_down.weight"], sums["blk.1.ffn_down.weight"] / 12, rtol=1e-6
    )
    fields = gguf.GGUFReader(tmp_path / "i.gguf").fields
    assert fields["general.type"].contents() == "imatrix" and fields[
        "imatrix.datasets"
    ].contents() == ["texts"]
    assert fields["imatrix.chunk_count"].contents() == 3


@pytest.mark.parametrize("name", ["Q5_K", "Q4_K", "Q4_0", "IQ4_NL", "Q3_K", "Q2_K"])
def test_the_weighted_error_falls(name: str) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((20, 512)).astype(np.float32)
    importance = np.exp(2 * random.standard_normal(512)).astype(np.float32)
    errors = [
        (
            importance
            * (
                gguf.quants.dequantize(ggml.quantize(values, Type[name], weights), Type[name])
                - values
            )
            ** 2
        ).mean()
        for weights in (None, importance)
    ]
    assert errors[1] < 0.95 * errors[0]


def test_importance_that_does_not_fit_is_refused() -> None:
    values = np.ones((2, 256), np.float32)
    for wrong in (np.ones(128), np.full(256, np.nan), np.full(256, -1.0)):
        with pytest.raises(ValueError, match="256 finite numbers >= 0"):
            ggml.quantize(values, Type.Q4_0, wrong)


def test_a_file_uses_it_for_the_named_tensors_alone(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder("qwen3", trained=True)
    weights = {"blk.0.ffn_up.weight": np.linspace(0.01, 9, 256, dtype=np.float32)}
    written = [
        write_gguf(folder, tmp_path / f"{n}.gguf", "q2_k", importance=i).path
        for n, i in enumerate((None, weights))
    ]
    plain, steered = ({t.name: t.data for t in gguf.GGUFReader(path).tensors} for path in written)
    assert [name for name in plain if not np.array_equal(plain[name], steered[name])] == [
        "blk.0.ffn_up.weight"
    ]
