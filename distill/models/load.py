"""Load models and tokenizers. Nothing is chosen in silence: what was taken is returned."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DataError, MismatchError, MissingError, RecipeError
from distill.models.find import local_folder


@dataclass(frozen=True)
class Placement:
    """Where a model runs and in which type; printed at the start of a stage."""

    device: str
    dtype: str
    quantization: str = "none"

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}" + (
            "" if self.quantization == "none" else f", {self.quantization}"
        )


def placement(device: str, dtype: str, quantization: str = "none") -> Placement:
    """Resolve `auto`; raise RecipeError for a device that is not there (never another one instead)."""
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise RecipeError(
            "device: cuda was asked for, but torch sees no GPU; set device: cpu or auto"
        )
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    return Placement(device, dtype, quantization)


def quiet() -> None:
    """No progress bars of transformers: stages have their own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_tokenizer(
    location: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> Any:
    from transformers import AutoTokenizer

    folder = local_folder(location, revision, weights=False, code=trust_remote_code)
    if trust_remote_code:
        refuse_foreign_code(folder)
    refuse_tiktoken(location, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(
            f"{location}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    if tokenizer.vocab_size <= 1:  # what transformers makes of a folder without a tokenizer
        raise MissingError(
            f"{location}: no tokenizer in it; fetch its tokenizer.json and tokenizer_config.json"
        )
    if not tokenizer.is_fast:
        raise MismatchError(
            f"{location}: only a slow tokenizer is there; a tokenizer.json is needed"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def refuse_tiktoken(location: str, folder: Path) -> None:
    """Raise MismatchError, with the ways out, for a folder (Kimi K2's) whose vocabulary only code from its repository can read."""
    if (folder / "tiktoken.model").is_file() and not (folder / "tokenizer.json").is_file():
        raise MismatchError(
            f"{location}: it has a tiktoken.model, which only code from its repository can read, and no tokenizer.json. To learn from "
            "its text alone, with the student's own tokenizer, no tokenizer of the teacher is needed: teacher.server=URL "
            "teacher.server_gives=text capture.signal=none train.soft_weight=0 train.hard_weight=1. Else convert it (transformers' "
            "TikTokenConverter) and put the tokenizer.json and its chat template beside the model"
        )


def load_model(
    location: str,
    where: Placement,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_rank: int = 0,
) -> Any:
    """A causal language model in evaluation mode. Weights come from safetensors only.

    Raises MissingError (no such folder, no safetensors), DataError (half a download), MismatchError (weights that are not those
    of config.json: transformers would make up what is missing) and RecipeError (an impossible quantization).
    """
    import torch
    from transformers import AutoModelForCausalLM

    quiet()
    folder = local_folder(location, revision, code=trust_remote_code)
    if trust_remote_code:
        refuse_foreign_code(folder)
    if not any(folder.glob("*.safetensors")):
        raise MissingError(
            f"{folder}: no *.safetensors; other weight files can run code and are not read: convert it"
        )
    refuse_torn(folder)
    device = f"cuda:{local_rank}" if where.device == "cuda" else "cpu"
    config = quantization_config(where.quantization, getattr(torch, where.dtype))
    known = _known_config(folder)
    try:
        # attention: left to transformers, which takes sdpa where the family has it (gpt-oss, with its sinks, has not)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, where.dtype),
            device_map={"": device},
            quantization_config=config,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({"config": known} if known else {}),
        )
    except (OSError, ValueError) as error:
        raise MissingError(f"{location}: cannot be loaded: {str(error).splitlines()[0]}") from None
    model, found = loaded
    made_up = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if made_up:
        raise MismatchError(
            f"{location}: {len(made_up)} of its weights are missing, or of another shape than config.json says ({made_up[0]}, ...); "
            "fetch the whole folder again"
        )
    refuse_unquantized(model, where.quantization, location)
    keep_unpacked(model)
    return model.eval()


def refuse_torn(folder: Path) -> None:
    """Raise DataError if a file of weights is cut short, or the pointer that git without LFS leaves in its place."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: not a whole file of weights ({error}); fetch it again"
            ) from None


def refuse_foreign_code(folder: Path) -> None:
    """Raise MismatchError if a config of the folder would run code of another repository (`auto_map: owner/name--..`):
    teacher.revision pins this one only."""
    for path in sorted(folder.glob("*config.json")):
        names = json.loads(path.read_text(encoding="utf-8")).get("auto_map", {})
        for name in [
            n
            for v in names.values()
            for n in (v if isinstance(v, list) else [v])
            if n and "--" in n
        ]:
            raise MismatchError(
                f"{path}: auto_map names code of another repository ({name}), which no revision pins; copy that code into "
                "the model's folder, or set teacher.trust_remote_code to false"
            )


def refuse_unquantized(model: Any, quantization: str, location: object) -> None:
    """Raise MismatchError if bitsandbytes left a layer's bigger weights as they are: it packs linear layers, and the
    experts of a mixture are one tensor for all of them. The memory that was asked for would not be saved."""
    if quantization == "none":
        return
    left = [
        (p.numel(), name)
        for name, p in model.named_parameters()
        if p.ndim == 3 and p.is_floating_point()
    ]
    if left:
        whole = sum(
            p.numel() * (2 if str(p.dtype) == "torch.uint8" else 1) for p in model.parameters()
        )
        raise MismatchError(
            f"{location}: {quantization} leaves {sum(n for n, _ in left) / whole:.0%} of its weights as they are (experts: "
            f"{max(left)[1]}); load it with quantization none, or serve it quantized (teacher.server)"
        )


# Architectures that transformers has under another name than the checkpoint's own config.json gives
SAME_ARCHITECTURE = {"kimi_k2": "deepseek_v3"}


def _known_config(folder: Path) -> Any:
    """The transformers config where config.json's model_type is a known one by another name, else None."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if values.get("model_type") not in SAME_ARCHITECTURE:
        return None
    from transformers import AutoConfig

    kind = SAME_ARCHITECTURE[values.pop("model_type")]
    values.pop("auto_map", None)  # the checkpoint's own code is not needed
    return AutoConfig.for_model(kind, **values)


def keep_unpacked(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward on CPUs with AVX512-bf16: a folder saved after
    that is wrong. Must come before the first forward; changes nothing in other models."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - torch types attributes as tensors


def quantization_config(quantization: str, compute_dtype: Any) -> Any:
    """transformers' BitsAndBytesConfig for `nf4` (double quantization) or `int8`; None for `none`."""
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def stop_ids(model: Any) -> list[int]:
    """Ids that end an answer, by the model's generation config."""
    found = model.generation_config.eos_token_id
    return [] if found is None else found if isinstance(found, list) else [found]
