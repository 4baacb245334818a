"""bitsandbytes folders: nf4 (4 bits, double quantization) and int8, which plain transformers loads.

On CPUs with AVX512-bf16, bitsandbytes repacks 4-bit weights at their first forward, and what is
saved after that comes back wrong. So a folder is written before any forward, and models that we
load ourselves have the repacking off. Whoever loads the folder with plain transformers on such a
CPU gets scales that are rounded to bfloat16 (measured on a random model: 0.0001 nats of KL to the
unpacked one, where nf4 itself costs 0.03).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import MismatchError, MissingError
from distill.formats.base import FolderFormat, Rounding
from distill.formats.export import Export
from distill.formats.folders import (
    copy_tokenizer,
    sixteen_bits,
    unquantized_config,
    weight_bytes,
    written_config,
)
from distill.models import load
from distill.models.saving import save_model

# inputs that share a scale in nf4; the CPU's packed form cannot cut a block between two rows
BLOCK = 64
PACKED_ROWS = 32  # outputs that the CPU's packed form keeps together


def write_bnb(model_folder: Path, out_folder: Path, quantization: str) -> int:
    """Quantize the linear layers of `model_folder` into `out_folder`, tokenizer included.

    Returns the bytes of its weights. Embedding, head (also a tied one) and norms stay 16-bit:
    float16 if the model is float16, else bfloat16. Reload with
    `AutoModelForCausalLM.from_pretrained(out_folder)`. Raises MissingError (no such model) and
    MismatchError (already quantized, or widths that nf4 cannot take).
    """
    names = [format.name for format in FORMATS]
    if quantization not in names:
        raise MismatchError(
            f"{quantization!r} is not a bitsandbytes format; choose one of {', '.join(names)}"
        )
    dtype = sixteen_bits(unquantized_config(model_folder))
    model = load.from_folder(
        model_folder,
        quantization_config=load.quantization_config(quantization, dtype),
        dtype=dtype,
        device_map={"": "cpu"},
    )
    load.refuse_unquantized(model, quantization, model_folder)
    _refuse_incompatible_widths(model_folder, model)
    save_model(model, out_folder)
    copy_tokenizer(model_folder, out_folder)
    return weight_bytes(out_folder)


def load_bnb(folder: Path) -> Any:
    """Load a folder of `write_bnb` in evaluation mode, on the CPU.

    int8 layers compute with float16 activations, whatever the rest of the model uses. Raises
    MissingError if it is no such folder.
    """
    import torch

    config = written_config(folder)
    if getattr(config, "quantization_config", None) is None:
        raise MissingError(
            f"{folder}: its config.json has no quantization_config; it is not a bitsandbytes folder"
        )
    model = load.from_folder(folder, dtype=config.dtype or torch.bfloat16, device_map={"": "cpu"})
    # says at every layer of every forward that int8 casts to float16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return model


def _refuse_incompatible_widths(folder: Path, model: Any) -> None:
    """Raise MismatchError if a 4-bit layer's widths do not fit the CPU's packed form."""
    from bitsandbytes.nn.modules import Linear4bit

    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        if module.in_features % BLOCK or module.out_features % PACKED_ROWS:
            raise MismatchError(
                f"{folder}: {name} is {module.in_features} -> {module.out_features}; nf4 needs "
                f"inputs in multiples of {BLOCK} and outputs in multiples of {PACKED_ROWS}, or it "
                "fails on CPUs with AVX512. Use int8 or GGUF"
            )


@dataclass(frozen=True, kw_only=True)
class BitsAndBytes(FolderFormat):
    """A folder that bitsandbytes quantized."""

    runtime: str = "transformers + bitsandbytes"
    load = staticmethod(load_bnb)

    def fill(self, export: Export, model_folder: Path, folder: Path) -> None:
        write_bnb(model_folder, folder, self.name)

    def roundings(self, export: Export, model: Any) -> Mapping[str, Rounding]:
        from distill.formats.rounding import nf4_roundings

        return nf4_roundings(model)


FORMATS = (
    BitsAndBytes(name="nf4", bytes_per_weight=0.7, row_multiple=BLOCK, recoverable=True),
    BitsAndBytes(name="int8", bytes_per_weight=1.1),
)
