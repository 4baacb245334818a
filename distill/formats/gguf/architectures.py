"""The model families that GGUF files are written of, and what their configs may not say.

llama.cpp runs each family by code of its own. What a transformers config says beyond that is
refused: the file would answer otherwise than the student.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from distill.errors import MismatchError, MissingError
from distill.formats.gguf import qwen3_5
from distill.models.load import config_of
from distill.models.model_files import require_config

ARCHITECTURES = {
    "Qwen3_5ForCausalLM": gguf.MODEL_ARCH.QWEN35,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Ernie4_5ForCausalLM": gguf.MODEL_ARCH.ERNIE4_5,
}
# published as a part of a model that sees; what we train and save of it is the language model
LANGUAGE_MODELS = {"Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM"}
ROPE_TYPES = ("default", "linear", "yarn", "llama3")


def architecture_of(config: Any) -> gguf.MODEL_ARCH:
    """Return GGUF's architecture of a config that `read_config` let pass."""
    return ARCHITECTURES[config.architectures[0]]


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def read_config(folder: Path) -> Any:
    """Return the transformers config of a model folder.

    Raises MissingError if there is none, DataError if it cannot be read, and MismatchError if
    llama.cpp has no counterpart for what it says.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; a transformers model folder is needed")
    names = require_config(folder).get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise MismatchError(
            f"{path}: architecture {names[0]} cannot be written to GGUF here; "
            f"known: {', '.join(ARCHITECTURES)}. nf4 and int8 take any dense one; "
            "quantize/w16a16 is a folder that transformers and vLLM read as it is"
        )
    config = config_of(folder)
    if reasons := problems(config, names[0]):
        raise MismatchError(f"{path}: llama.cpp's {names[0]} has no {'; no '.join(reasons)}")
    return config


def problems(config: Any, architecture: str) -> list[str]:
    """Return what a transformers config says that llama.cpp's counterpart does not have."""
    is_quantized = getattr(config, "quantization_config", None) is not None
    reasons = {
        f"hidden_act {config.hidden_act} (silu is needed)": config.hidden_act != "silu",
        "attention_bias true": getattr(config, "attention_bias", False),
        "mlp_bias true": getattr(config, "mlp_bias", False),
        "use_bias true": getattr(config, "use_bias", False),
        "sliding-window attention": getattr(config, "use_sliding_window", False),
        **_width_problems(config, architecture),
        "quantization_config (export from the 16-bit model)": is_quantized,
        **_rope_problems(config.rope_parameters or {}, architecture),
    }
    if architecture == "Qwen3_5ForCausalLM":
        reasons |= qwen3_5.problems(config)
    return [text for text, holds in reasons.items() if holds]


def _width_problems(config: Any, architecture: str) -> dict[str, bool]:
    width = config.num_attention_heads * head_dim(config)
    text = f"heads x head_dim {width}, hidden_size {config.hidden_size} (must be equal in Qwen2)"
    return {text: architecture == "Qwen2ForCausalLM" and width != config.hidden_size}


def _rope_problems(rope: Mapping[str, Any], architecture: str) -> dict[str, bool]:
    kind = rope.get("rope_type", "default")
    share = rope.get("partial_rotary_factor", 1.0)
    return {
        f"rope_type {rope.get('rope_type')}": kind not in ROPE_TYPES,
        **_yarn_problems(rope),
        "rope_type llama3 (only its Llama has it)": kind == "llama3"
        and architecture != "LlamaForCausalLM",
        f"partial_rotary_factor {share}": share != 1.0 and architecture != "Qwen3_5ForCausalLM",
    }


def _yarn_problems(rope: Mapping[str, Any]) -> dict[str, bool]:
    """Return what of YaRN llama.cpp does not read from a file of these families.

    GGUF has keys for it all the same.
    """
    if rope.get("rope_type") != "yarn":
        return {}
    truncate, fast, slow = rope.get("truncate"), rope.get("beta_fast"), rope.get("beta_slow")
    return {
        f"rope_parameters.truncate {truncate} (true is needed)": not rope.get("truncate", True),
        f"rope_parameters.beta_fast {fast} (32 is needed)": (fast or 32) != 32,
        f"rope_parameters.beta_slow {slow} (1 is needed)": (slow or 1) != 1,
    }
