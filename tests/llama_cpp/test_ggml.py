"""ggml's quantizer through ctypes: sizes, errors bounded by type, and byte equality with an independent quantizer."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from distill.errors import DistillError
from distill.llama_cpp import ggml

# root mean square error over that of the values, for normally distributed weights
LARGEST_ERROR = {
    "Q8_0": 0.006,
    "Q6_K": 0.02,
    "Q5_K": 0.04,
    "Q5_0": 0.05,
    "Q5_1": 0.05,
    "Q4_K": 0.08,
    "Q4_0": 0.1,
    "IQ4_NL": 0.09,
    "Q3_K": 0.17,
    "Q2_K": 0.33,
    "TQ2_0": 0.85,
}


def normal(num_rows: int, num_columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_rows, num_columns)).astype(np.float32)


@pytest.mark.parametrize("name", LARGEST_ERROR)
def test_dequantized_weights_are_near_the_source(name: str) -> None:
    kind, values = Type[name], normal(20, 512)
    packed = ggml.quantize(values, kind)
    assert packed.shape == (20, ggml.row_bytes(kind, 512))
    error = gguf.quants.dequantize(packed, kind) - values
    assert np.sqrt((error**2).mean()) < LARGEST_ERROR[name]


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0", "Q5_1"])
def test_bytes_equal_those_of_the_gguf_package(name: str) -> None:
    values = normal(7, 96)
    np.testing.assert_array_equal(
        ggml.quantize(values, Type[name]), gguf.quants.quantize(values, Type[name])
    )


def test_rows_are_quantized_alike_whether_one_thread_has_them_or_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = normal(10, 256)
    together = ggml.quantize(values, Type.Q4_K)
    monkeypatch.setattr(ggml, "FLOATS_A_TASK", 3 * 256)
    np.testing.assert_array_equal(ggml.quantize(values, Type.Q4_K), together)


def test_rows_that_do_not_fit_the_block_are_an_error() -> None:
    with pytest.raises(ValueError, match="rows of 96 cannot be cut into blocks of 256"):
        ggml.quantize(normal(2, 96), Type.Q4_K)


def test_a_missing_wheel_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml.util, "find_spec", lambda _name: None)
    with pytest.raises(DistillError, match="pip install xllamacpp=="):
        ggml.library.__wrapped__()
