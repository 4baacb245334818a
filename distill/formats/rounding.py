"""Round the weights of a model as a file of a format holds them.

Quantization-aware distillation trains on such weights. GGUF types are rounded by ggml's own code
and read back by gguf's, nf4 by bitsandbytes' own; so what is trained is what is written, to the
last bit, and there is no second description of a format that could differ.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from distill.formats.gguf.tensors import tensors_of
from distill.llama_cpp import ggml


def as_stored(
    values_RC: np.ndarray,
    kind: Type,
    importance_C: np.ndarray | None = None,
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """Return float32 rows as they are read back from a GGUF file that holds them in this type.

    `columns`: their order there, where it is another (a block of a row is rounded together).
    """
    if columns is not None:
        ordered_C = None if importance_C is None else importance_C[columns]
        written_RC = as_stored(values_RC[:, columns], kind, ordered_C)
        return written_RC[:, np.argsort(columns)]
    if kind == Type.F16:
        return values_RC.astype(np.float16).astype(np.float32)
    return gguf.quants.dequantize(ggml.quantize(values_RC, kind, importance_C), kind)


def gguf_roundings(
    student: Path, file_type: str, importance: Mapping[str, np.ndarray] | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what a file of this type makes of each matrix, by parameter name."""
    importance = importance or {}
    # Rows are rounded one by one, so their other order in a Llama file makes no difference
    return {
        t.source: partial(
            _through_ggml,
            kind=t.type,
            importance_C=importance.get(t.name),
            columns=t.columns,
        )
        for t in tensors_of(student, file_type)
        if t.is_matrix
    }


def _through_ggml(
    weight: Tensor, kind: Type, importance_C: np.ndarray | None, columns: np.ndarray | None
) -> Tensor:
    values_RC = weight.detach().float().cpu().numpy()
    return torch.from_numpy(as_stored(values_RC, kind, importance_C, columns)).to(weight)


def nf4_roundings(model: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what an nf4 folder makes of each weight of a float32 `model`, by parameter name.

    Linear layers but the head go through bitsandbytes, all else through bfloat16.
    """
    head = model.get_output_embeddings()
    linear = {
        f"{n}.weight"
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head
    }
    return {
        name: _through_nf4 if name in linear else _through_bfloat16
        for name, _ in model.named_parameters()
    }


def _through_nf4(weight: Tensor) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(
        weight.detach().bfloat16(), quant_type="nf4", compress_statistics=True
    )
    return dequantize_4bit(packed, state).to(weight)


def _through_bfloat16(weight: Tensor) -> Tensor:
    return weight.detach().bfloat16().to(weight)
