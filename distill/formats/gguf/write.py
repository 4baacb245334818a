"""Write a transformers model folder as one GGUF file.

Qwen3.5, Qwen3, Qwen2, Llama and ERNIE 4.5 (dense).
Tensors are read, converted and written one at a time, so that memory holds one of them, not the
model.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from distill.core.files import fsync_folder
from distill.errors import DataError, MismatchError
from distill.formats.gguf.architectures import architecture_of, read_config
from distill.formats.gguf.chat_template import require_same
from distill.formats.gguf.metadata import add_metadata, add_model, add_vocabulary, llama3_factors
from distill.formats.gguf.provenance import Metadata
from distill.formats.gguf.tensor_types import FILE_TYPES
from distill.formats.gguf.tensors import Tensor, planned_tensors
from distill.formats.gguf.vocabulary import Vocabulary, read_vocabulary
from distill.formats.gguf.weights import Weights
from distill.llama_cpp import ggml
from distill.llama_cpp.gguf_header import read_tensor_infos
from distill.models import load
from distill.recipe.sections import Generate

VALUES_A_BLOCK = 1 << 24  # float32 values converted at once: 64 MiB


@dataclass(frozen=True)
class GgufFile:
    """A written file.

    `tensor_bytes`, `bits_per_weight` (of its tensors) and `tensor_types` are read back from it.
    """

    path: Path
    bytes: int
    tensor_bytes: int
    bits_per_weight: float
    tensor_types: dict[str, int]


def write_gguf(
    model_folder: Path,
    out_file: Path,
    file_type: str,
    *,
    metadata: Metadata | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
    types: Mapping[str, Type] | None = None,
    trained: Generate | None = None,
) -> GgufFile:
    """Write `model_folder` to `out_file`, whole or not at all.

    The folder holds config.json, *.safetensors and tokenizer.json. `metadata` are more GGUF keys:
    general.name, general.license, ... (provenance.py). `importance` is an importance matrix by GGUF
    tensor name (imatrix.read); tensors without one are quantized plainly. `types`, by GGUF tensor
    name, take the place of those of llama.cpp's mixture `file_type`. `trained`: how the student's
    prompts were written, which the file's chat template then does on any server.

    Raises MissingError (a file or tensor is not there), MismatchError (an architecture, a RoPE
    variant or a tokenizer that llama.cpp would run differently) and DataError (weights that are not
    finite).
    """
    if file_type not in FILE_TYPES:
        raise MismatchError(
            f"{file_type!r} is not a GGUF type known here; choose one of {', '.join(FILE_TYPES)}"
        )
    config = read_config(model_folder)
    vocabulary = _vocabulary(model_folder, config, trained)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    # a killed run's leftover is written over
    temporary = out_file.with_name(f".{out_file.name}.tmp")
    try:
        with Weights(model_folder) as weights:
            tensors = planned_tensors(config, weights, file_type, types or {})
            writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture_of(config)])
            add_model(writer, config, file_type)
            add_vocabulary(writer, vocabulary)
            num_weights = sum(math.prod(tensor.shape) for tensor in tensors)
            writer.add_size_label(gguf.size_label(num_weights, 0, 0, 0))
            add_metadata(writer, metadata or {})
            if importance:
                writer.add_uint32("quantize.imatrix.entries_count", len(importance))
            _write(writer, weights, tensors, llama3_factors(config), importance or {})
        _sync(temporary)
        os.replace(temporary, out_file)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(out_file.parent)
    return describe(out_file)


def describe(path: Path) -> GgufFile:
    """Return size and tensor types as a GGUF file says. Raises DataError if it cannot be read."""
    tensors = read_tensor_infos(path)
    tensor_bytes = sum(tensor.bytes for tensor in tensors)
    num_weights = sum(tensor.num_weights for tensor in tensors)
    types = Counter(Type(tensor.type_id).name for tensor in tensors)
    return GgufFile(
        path, path.stat().st_size, tensor_bytes, 8 * tensor_bytes / num_weights, dict(types)
    )


def _vocabulary(model_folder: Path, config: Any, trained: Generate | None) -> Vocabulary:
    vocabulary = read_vocabulary(model_folder, config.vocab_size)
    if trained is None or not vocabulary.chat_template:
        return vocabulary
    template = require_same(load.load_tokenizer(str(model_folder)), trained)
    return replace(vocabulary, chat_template=template)


def _write(
    writer: gguf.GGUFWriter,
    weights: Weights,
    tensors: list[Tensor],
    rope_factors: np.ndarray | None,
    importance: Mapping[str, np.ndarray],
) -> None:
    """Write the header, then the tensors one by one."""
    if rope_factors is not None:
        writer.add_tensor_info(
            "rope_freqs.weight",
            rope_factors.shape,
            rope_factors.dtype,
            rope_factors.nbytes,
            Type.F32,
        )
    for tensor in tensors:
        num_rows = math.prod(tensor.shape[:-1])
        num_bytes = num_rows * ggml.row_bytes(tensor.type, tensor.shape[-1])
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, tensor.type
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if rope_factors is not None:
            writer.write_tensor_data(rope_factors)
        for tensor in tensors:
            writer.write_tensor_data(_encode(weights, tensor, importance.get(tensor.name)))
    finally:
        writer.close()


def _encode(weights: Weights, tensor: Tensor, importance_C: np.ndarray | None) -> np.ndarray:
    """Return the tensor's bytes in its type, uint8, converted a block of rows at a time.

    Raises DataError if a value is not finite, or too large for float16.
    """
    source = weights.slice_of(tensor.source)
    rows = tensor.change(source[:]) if tensor.change else source
    num_rows = tensor.shape[0]
    num_columns = math.prod(tensor.shape[1:])
    if importance_C is not None and tensor.columns is not None:
        importance_C = importance_C[tensor.columns]
    step = max(1, VALUES_A_BLOCK // num_columns)
    parts = []
    for first in range(0, num_rows, step):
        last = min(first + step, num_rows)
        block = rows[first:last].reshape(last - first, num_columns)
        parts.append(_converted(weights.folder, tensor, block, importance_C).reshape(-1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _converted(
    folder: Path, tensor: Tensor, rows: Any, importance_C: np.ndarray | None
) -> np.ndarray:
    import torch

    dtypes = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
    dtype = dtypes.get(tensor.type)
    values = rows.to(dtype or torch.float32).contiguous()
    if not bool(values.isfinite().all()):
        reason = "has values that are not finite: train again"
        if bool(rows.isfinite().all()):
            reason = "does not fit float16: take the format bf16 instead"
        raise DataError(f"{folder}: tensor {tensor.source} {reason}")
    if dtype is None:
        return ggml.quantize(values.numpy(), tensor.type, importance_C)
    return values.view(torch.uint8).numpy()


def _sync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())
