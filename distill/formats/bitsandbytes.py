"""bitsandbytes folders: nf4 (4 bits, double quantization) and int8, which plain transformers loads.

On CPUs with AVX512-bf16, bitsandbytes repacks 4-bit weights at their first forward, and what is saved after that comes
back wrong. So a folder is written before any forward, and models that we load ourselves have the repacking off. Whoever
loads the folder with plain transformers on such a CPU gets scales that are rounded to bfloat16 (measured on a random
model: 0.0001 nats of KL to the unpacked one, where nf4 itself costs 0.03).
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from distill.errors import MismatchError, MissingError
from distill.models.load import keep_unpacked, quantization_config, refuse_unquantized
from distill.recipe.sections import BITSANDBYTES

BLOCK = 64  # inputs that share a scale in nf4; the CPU's packed form cannot cut a block between two rows
PACKED_ROWS = 32  # outputs that the CPU's packed form keeps together
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "LICENSE",
)


def write_bnb(model_folder: Path, out_folder: Path, quantization: str) -> int:
    """Quantize the linear layers of `model_folder` into `out_folder`, tokenizer included; bytes of its weights.

    Embedding, head (also a tied one) and norms stay 16-bit: float16 where the model is float16, else bfloat16. Reload
    with `AutoModelForCausalLM.from_pretrained(out_folder)`. Raises MissingError (no such model) and MismatchError
    (already quantized, or widths that nf4 cannot take).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if quantization not in BITSANDBYTES:
        raise MismatchError(
            f"{quantization!r} is not a bitsandbytes format; choose one of {', '.join(BITSANDBYTES)}"
        )
    if not (model_folder / "config.json").is_file() or not any(model_folder.glob("*.safetensors")):
        raise MissingError(
            f"{model_folder}: no config.json with *.safetensors; a transformers model folder is needed"
        )
    config = AutoConfig.from_pretrained(model_folder)
    if getattr(config, "quantization_config", None) is not None:
        raise MismatchError(f"{model_folder}: is quantized already; quantize the 16-bit model")
    dtype = torch.float16 if config.dtype == torch.float16 else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        model_folder,
        quantization_config=quantization_config(quantization, dtype),
        dtype=dtype,
        device_map={"": "cpu"},
        use_safetensors=True,
    )
    refuse_unquantized(model, quantization, model_folder)
    if quantization == "nf4":
        _refuse_odd_widths(model_folder, model)
    keep_unpacked(model)
    model.save_pretrained(out_folder)
    for name in COPIED:
        if (model_folder / name).is_file():
            shutil.copy2(model_folder / name, out_folder / name)
    return sum(p.stat().st_size for p in out_folder.glob("*.safetensors"))


def load_bnb(folder: Path, device: str = "cpu") -> Any:
    """A folder of `write_bnb` in evaluation mode. Raises MissingError where it is not one.

    int8 layers compute with float16 activations, whatever the rest of the model uses.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise MissingError(
            f"{folder}: no config.json; write the folder with `distill quantize` first"
        )
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None) is None:
        raise MissingError(
            f"{folder}: its config.json has no quantization_config; it is not a bitsandbytes folder"
        )
    dtype = config.dtype or torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, use_safetensors=True
    )
    keep_unpacked(model)
    # says at every layer of every forward that int8 casts to float16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return model.eval()


def _refuse_odd_widths(folder: Path, model: Any) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit) and (
            module.in_features % BLOCK or module.out_features % PACKED_ROWS
        ):
            raise MismatchError(
                f"{folder}: {name} is {module.in_features} -> {module.out_features}; nf4 needs inputs in multiples of "
                f"{BLOCK} and outputs in multiples of {PACKED_ROWS}, or it fails on CPUs with AVX512. Use int8 or GGUF"
            )
