"""What folders for transformers share: the models they are made of, the tokenizer's files."""

import shutil
from pathlib import Path
from typing import Any

from distill.errors import MismatchError, MissingError
from distill.models.load import config_of

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "LICENSE",
)
FURTHER_TEMPLATES = "additional_chat_templates/*.jinja"  # as transformers saves them


def unquantized_config(model_folder: Path) -> Any:
    """Return the transformers config of a model that can be quantized.

    Raises MissingError if there is no model, and MismatchError if it is quantized already.
    """
    if not (model_folder / "config.json").is_file() or not any(model_folder.glob("*.safetensors")):
        raise MissingError(
            f"{model_folder}: no config.json with *.safetensors; "
            "a transformers model folder is needed"
        )
    config = config_of(model_folder)
    if getattr(config, "quantization_config", None) is not None:
        raise MismatchError(f"{model_folder}: is quantized already; quantize the 16-bit model")
    return config


def written_config(folder: Path) -> Any:
    """Return the transformers config of a written folder. Raises MissingError if there is none."""
    if not (folder / "config.json").is_file():
        raise MissingError(
            f"{folder}: no config.json; write the folder with `distill quantize RECIPE` first"
        )
    return config_of(folder)


def sixteen_bits(config: Any) -> Any:
    """Return the torch dtype of what stays in 16 bits: the model's own, or bfloat16."""
    import torch

    return torch.float16 if config.dtype == torch.float16 else torch.bfloat16


def copy_tokenizer(model_folder: Path, out_folder: Path) -> None:
    """Copy the tokenizer's files, the chat templates and the licence."""
    further = [path.relative_to(model_folder) for path in model_folder.glob(FURTHER_TEMPLATES)]
    for name in (*map(Path, COPIED), *further):
        if (model_folder / name).is_file():
            (out_folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(model_folder / name, out_folder / name)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the folder's safetensors files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
