"""ggml's own quantizer, called in the shared object of the prebuilt `xllamacpp` wheel.

The tensors are byte for byte those that llama.cpp's `llama-quantize` writes for the same types, and
nobody needs a compiler.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata, util
from pathlib import Path

import numpy as np

from distill.errors import MissingError

TESTED_WHEEL = "2026.10.11549"
FLOATS_A_TASK = 1 << 20  # work for one thread; ctypes releases the interpreter lock meanwhile


@cache
def library() -> ctypes.CDLL:
    """Return llama.cpp's shared object.

    Raises MissingError if `xllamacpp` is absent or does not export the C functions.
    """
    install = f"run `pip install xllamacpp=={TESTED_WHEEL}` (Linux on x86-64 or arm64)"
    path = _shared_object()
    if path is None:
        raise MissingError(f"xllamacpp, which carries llama.cpp, is not installed: {install}")
    lib = ctypes.CDLL(str(path))
    if not hasattr(lib, "ggml_quantize_chunk") or not hasattr(lib, "llama_decode"):
        raise MissingError(
            f"{path} does not export llama.cpp's C functions on this system: {install}"
        )
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.restype = None
    return lib


def _shared_object() -> Path | None:
    spec = util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        for path in Path(folder).iterdir():
            if path.suffix in (".so", ".pyd", ".dylib"):
                return path
    return None


def wheel_version() -> str:
    return metadata.version("xllamacpp")


def row_bytes(type_id: int, num_columns: int) -> int:
    """Return the bytes of one row. Raises ValueError if it is no multiple of the type's block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(type_id)
    block, size = GGML_QUANT_SIZES[kind]
    if num_columns % block:
        raise ValueError(
            f"rows of {num_columns} cannot be cut into blocks of {block} ({kind.name})"
        )
    return num_columns // block * size


def quantize(
    values_RC: np.ndarray, type_id: int, importance_C: np.ndarray | None = None
) -> np.ndarray:
    """Quantize float32 rows [R, C] to `type_id`, a gguf.GGMLQuantizationType.

    Errors are weighed by `importance_C`. Returns uint8 [R, bytes of a row]. Raises ValueError if C
    is not a multiple of the type's block, or the importance not one finite number >= 0 for each
    column.
    """
    lib = library()
    source = np.ascontiguousarray(values_RC, dtype=np.float32)
    num_rows, num_columns = source.shape
    weights_C = None if importance_C is None else _checked(importance_C, num_columns)
    out = np.empty((num_rows, row_bytes(type_id, num_columns)), np.uint8)
    lib.ggml_quantize_init(type_id)
    step = max(1, FLOATS_A_TASK // num_columns)

    def run(first: int) -> int:
        count = min(step, num_rows - first)
        return lib.ggml_quantize_chunk(
            type_id,
            source.ctypes.data,
            out.ctypes.data,
            first * num_columns,
            count,
            num_columns,
            None if weights_C is None else weights_C.ctypes.data,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = sum(pool.map(run, range(0, num_rows, step)))
    if written != out.nbytes:
        raise RuntimeError(
            f"ggml wrote {written} bytes of type {type_id} where {out.nbytes} were expected"
        )
    return out


def _checked(importance_C: np.ndarray, num_columns: int) -> np.ndarray:
    weights_C = np.ascontiguousarray(importance_C, dtype=np.float32)
    is_weight_C = np.isfinite(weights_C) & (weights_C >= 0)
    if weights_C.shape != (num_columns,) or not is_weight_C.all():
        raise ValueError(
            f"importance of shape {weights_C.shape}: {num_columns} finite numbers >= 0 are needed"
        )
    return weights_C
