"""The weights of a model as a file of a format holds them: what quantization-aware distillation trains on.

GGUF types are rounded by ggml's own code and read back by gguf's, nf4 by bitsandbytes' own; so what is trained is what is
written, to the last bit, and there is no second description of a format that could differ.
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
    """Float32 rows as they are read back from a GGUF file that holds them in this type; `columns`: their order there, where it is
    another (a block of a row is rounded together)."""
    if columns is not None:
        written_RC = as_stored(
            values_RC[:, columns], kind, None if importance_C is None else importance_C[columns]
        )
        return written_RC[:, np.argsort(columns)]
    if kind == Type.F16:
        return values_RC.astype(np.float16).astype(np.float32)
    return gguf.quants.dequantize(ggml.quantize(values_RC, kind, importance_C), kind)


def gguf_roundings(
    student: Path, file_type: str, importance: Mapping[str, np.ndarray] | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Parameter name -> what a file of this type makes of it, for every matrix of the model folder `student`."""
    # Rows are rounded one by one, so their other order in a Llama file makes no difference
    return {
        t.source: partial(
            _through_ggml,
            kind=t.type,
            importance_C=(importance or {}).get(t.name),
            columns=t.columns,
        )
        for t in tensors_of(student, file_type)
        if len(t.shape) == 2
    }


def _through_ggml(
    weight: Tensor, kind: Type, importance_C: np.ndarray | None, columns: np.ndarray | None
) -> Tensor:
    return torch.from_numpy(
        as_stored(weight.detach().float().cpu().numpy(), kind, importance_C, columns)
    ).to(weight)


def nf4_roundings(model: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Parameter name -> what an nf4 folder makes of a float32 `model`: linear layers but the head through bitsandbytes, all
    else bfloat16."""
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
