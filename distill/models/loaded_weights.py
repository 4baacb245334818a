"""What is checked of a model before and after transformers loads it.

transformers makes up what is missing and drops what has no place, and says so in a table. Nothing
is made up or dropped here. Numbers that are none are found at the speed of memory (20 GB/s on two
cores, one pass), not after a night of answers that never end.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.errors import DataError, MismatchError, shown
from distill.models.divided import own
from distill.models.model_files import StoredTensor

# numbers that a config may describe beyond those in the files: what is missing is made up in memory
# before it is told, 1 GiB of float32
ROOM = 1 << 28
# what no model of today computes with: buffers that older versions saved, scales of a cache that we
# do not have in 8 bits
HARMLESS = r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$|\.[kv]_scale$"
# parts of a model that sees and hears, of which the language model is loaded
OTHER_SENSES = r"(^|\.)(visual|vision_\w+|audio_\w+|multi_modal_projector|embed_(vision|audio))\."
SHOWN = 3  # names in a message


class BeyondTypeError(MismatchError):
    """A weight is finite in its file, and infinite in the type that it was loaded in."""


def refuse_too_many_layers(
    folder: Path, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Raise MismatchError if config.json, as read, says more layers than there are tensors.

    transformers would make as many before it looks.
    """
    num_layers = (values.get("text_config") or values).get("num_hidden_layers") or 0
    if num_layers > len(stored):
        raise MismatchError(
            f"{folder / 'config.json'}: says {num_layers:,} layers, and the files hold "
            f"{len(stored):,} tensors; fetch the whole folder again"
        )


def refuse_unknown_packing(folder: Path, values: Mapping[str, Any]) -> None:
    """Raise MismatchError if config.json names a quantization that transformers would skip."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    packing = values.get("quantization_config")
    if packing is None:
        return
    method = packing.get("quant_method", "bitsandbytes" if "load_in_8bit" in packing else None)
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING and method != "bitsandbytes":
        raise MismatchError(
            f"{folder / 'config.json'}: quantization_config has quant_method {shown(method)}, which "
            "transformers does not know; take a model in 16 bits, or serve it (teacher.server)"
        )


def require_possible(
    folder: Path,
    config: Any,
    stored: Mapping[str, StoredTensor],
    *,
    trust_remote_code: bool = False,
) -> None:
    """Raise MismatchError if config.json describes no model, or a far larger one than the files hold.

    `config`: the transformers config. The model is made without memory for its weights.
    """
    path = folder / "config.json"
    model = _without_memory(path, config, trust_remote_code)
    _refuse_two_families(path, config, type(model).__name__)
    described = sum(p.numel() for p in model.parameters())
    held = sum(tensor.size for tensor in stored.values())
    if getattr(config, "quantization_config", None) is not None:
        return  # the files hold several numbers in one
    _refuse_whole_numbers(model, stored)
    if described > held + ROOM:
        raise MismatchError(
            f"{path}: describes a model of {described:,} numbers, and the files hold {held:,}; "
            "fetch the whole folder again"
        )


def _without_memory(path: Path, config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a foreign config brings about is that config's fault
        raise MismatchError(
            f"{path}: no model can be made of it ({type(error).__name__}: {shown(error)}); "
            "fetch it again"
        ) from None


def _refuse_two_families(path: Path, config: Any, loaded: str) -> None:
    """Raise MismatchError if `architectures` names another family's class than `model_type` does."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = (getattr(config, "architectures", None) or [loaded])[0]
    if named != loaded and named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise MismatchError(
            f"{path}: architectures says {shown(named)}, and its model_type {config.model_type!r} "
            f"is a {loaded}: two families; set the one right"
        )


def _refuse_whole_numbers(model: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Raise DataError if a file holds weights as whole numbers: transformers would cast them."""
    weights = {name for name, p in model.named_parameters() if p.is_floating_point()}
    for name, tensor in stored.items():
        if name in weights and tensor.dtype.startswith(("I", "U", "BOOL")):
            raise DataError(
                f"{tensor.file}: {name} is of type {tensor.dtype}, whole numbers, and its config.json "
                "says of no quantization; fetch the whole folder again"
            )


def refuse_other_weights(
    location: object,
    model: Any,
    missing: Iterable[str],
    unexpected: Iterable[str],
    values: Mapping[str, Any],
) -> None:
    """Raise MismatchError if the files lack weights of the model, or hold some without a place.

    `values`: config.json as read.
    """
    other_parts = [OTHER_SENSES] if values.get("text_config") else []
    made_up = sorted(missing)
    if made_up:
        raise MismatchError(
            f"{location}: {len(made_up)} of its weights are missing, or of another shape than "
            f"config.json says ({made_up[0]}, ...); fetch the whole folder again"
        )
    harmless = re.compile("|".join([HARMLESS, *_guessing_heads(model.config), *other_parts]))
    dropped = sorted(name for name in unexpected if not harmless.search(name))
    if dropped:
        raise MismatchError(
            f"{location}: {len(dropped)} of its tensors have no place in a {type(model).__name__} "
            f"as config.json describes it ({', '.join(dropped[:SHOWN])}): config.json is another "
            "model's; fetch the whole folder again"
        )


def _guessing_heads(config: Any) -> Iterator[str]:
    """Yield patterns of the layers that guess tokens ahead, where the config says there are any.

    They stand after the other layers, or in a part of their own; transformers has no place for
    them, and none is needed.
    """
    text_config = config.get_text_config()
    if any("mtp" in key and value for key, value in text_config.to_dict().items()):
        yield r"(^|\.)mtp(_|\.)"
    num_heads = getattr(text_config, "num_nextn_predict_layers", None) or 0
    for number in range(num_heads):
        yield rf"^model\.layers\.{text_config.num_hidden_layers + number}\."


def untie_other_head(location: object, model: Any) -> None:
    """Let the config say that the head is no copy of the embedding, where the file's is not.

    Adapters that were merged into a tied head leave such files. transformers computes with the
    file's head, but what reads the config alone, and what we save, would take the embedding.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is None or head.weight is embedding.weight
    if is_tied or not model.config.tie_word_embeddings:
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    print(
        f"{location}: config.json ties the head to the embedding, and the file holds another head: "
        "the file's is taken (tie_word_embeddings: false)",
        file=sys.stderr,
        flush=True,
    )


def refuse_not_finite(location: object, model: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Raise if a weight of the model is NaN or infinite.

    DataError where it is so in its file; BeyondTypeError where it was only too large for the type
    that it was loaded in. Weights that are packed as they are loaded, or that stay out of the model
    until a pass needs them, are looked at in their files.
    """
    stays_out = any(tensor.is_meta for _, tensor in _persistent(model))
    if stays_out or getattr(model, "hf_quantizer", None) is not None:
        _refuse_not_finite_in_files(location, stored)
    for name, tensor in _persistent(model):
        if tensor.is_meta or is_finite(own(tensor)):
            continue
        _refuse_not_finite_in_files(location, stored)
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise BeyondTypeError(
            f"{location}: {name} holds numbers that are beyond {dtype}; take bfloat16 or float32 for "
            "it (teacher.dtype)"
        )


def _refuse_not_finite_in_files(location: object, stored: Mapping[str, StoredTensor]) -> None:
    from safetensors import safe_open

    by_file: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        if tensor.dtype.startswith(("F", "BF")) and not tensor.dtype.startswith("F4"):
            by_file.setdefault(tensor.file, []).append(name)
    for path, names in by_file.items():
        # one tensor in memory: mapped, all of a file would count as this process's
        with safe_open(path, framework="pt", backend="pread") as file:
            for name in names:
                if not is_finite(file.get_tensor(name)):
                    raise DataError(
                        f"{path}: {name} holds numbers that are NaN or infinite: whoever made the "
                        "file has broken it, or the disk has; fetch it again"
                    )


def _persistent(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parameters and saved buffers with their names."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def is_finite(tensor: Any) -> bool:
    """Return whether no number is NaN or infinite, in one pass and without a copy."""
    import torch

    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.bfloat16)  # types of 8 bits have no minimum
    ends = torch.stack(tensor.aminmax())  # NaN wherever one is
    return bool(ends.isfinite().all())
