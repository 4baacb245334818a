"""Load models and tokenizers. Nothing is chosen in silence: what was taken is returned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.teams import Team
from distill.errors import DataError, MismatchError, MissingError, RecipeError, shown
from distill.models import divided, on_disk, spread
from distill.models.find import local_folder
from distill.models.json_files import read_json_object, token_ids
from distill.models.loaded_weights import (
    refuse_not_finite,
    refuse_other_weights,
    refuse_too_many_layers,
    refuse_unknown_packing,
    require_possible,
    untie_other_head,
)
from distill.models.model_files import (
    require_config,
    require_own_weights,
    stored_tensors,
    weight_files,
)


@dataclass(frozen=True)
class Placement:
    """Where a model runs and in which type; printed at the start of a stage."""

    device: str
    dtype: str
    quantization: str = "none"
    spread: bool = False  # over all GPUs of this process, and this machine's memory (spread.py)
    num_parts: int = 1  # of several ranks that hold one each (divided.py)
    layers_on_disk: bool = False  # each is read when it runs (on_disk.py); in float32, on the CPU

    def __str__(self) -> str:
        quantization = "" if self.quantization == "none" else f", {self.quantization}"
        spread = ", layers spread" if self.spread else ""
        parts = f", in {self.num_parts} parts" if self.num_parts > 1 else ""
        return f"{self.device}, {self.dtype}{quantization}{spread}{parts}"


def placement(device: str, dtype: str, quantization: str = "none") -> Placement:
    """Resolve `auto`; raise RecipeError for a device that is not there (never take another)."""
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
    """Turn off transformers' progress bars: stages have their own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_tokenizer(
    location: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> Any:
    """Return a fast tokenizer that pads on the left.

    Raises MissingError where there is none, DataError where its files are broken, and MismatchError
    where it has not what is needed.
    """
    from transformers import AutoTokenizer

    folder = local_folder(location, revision, weights=False, code=trust_remote_code)
    if trust_remote_code:
        refuse_foreign_code(folder)
    refuse_tiktoken(location, folder)
    if (folder / "config.json").exists():
        require_config(folder)
    if (folder / "tokenizer_config.json").exists():
        read_json_object(folder / "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        tokenizer("a")  # some of what its files say is first read here
    except Exception as error:  # whatever foreign files bring about is their fault
        reason = f"its tokenizer cannot be loaded ({type(error).__name__}: {shown(error)})"
        if not (folder / "tokenizer.json").exists():
            raise MissingError(f"{location}: {reason}; fetch its tokenizer.json") from None
        read_json_object(folder / "tokenizer.json")
        raise DataError(
            f"{location}: {reason}; fetch tokenizer.json and tokenizer_config.json again"
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
    if tokenizer.pad_token_id is None:
        raise MismatchError(
            f"{location}: its tokenizer has no token that ends a text or fills a row; set eos_token or "
            "pad_token in its tokenizer_config.json"
        )
    return tokenizer


def refuse_tiktoken(location: str, folder: Path) -> None:
    """Raise MismatchError for a folder whose vocabulary only code from its repository can read.

    Such is Kimi K2's. The error names the ways out.
    """
    if (folder / "tiktoken.model").is_file() and not (folder / "tokenizer.json").is_file():
        raise MismatchError(
            f"{location}: it has a tiktoken.model, which only code from its repository can read, and no "
            "tokenizer.json. To learn from its text alone, with the student's own tokenizer, no tokenizer "
            "of the teacher is needed: teacher.server=URL teacher.server_gives=text capture.signal=none "
            "train.soft_weight=0 train.hard_weight=1. Else convert it (transformers' TikTokenConverter) "
            "and put the tokenizer.json and its chat template beside the model"
        )


def load_model(
    location: str,
    where: Placement,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_rank: int | None = None,
    team: Team | None = None,
) -> Any:
    """Return a causal language model in evaluation mode. Weights come from safetensors only.

    `local_rank`: the number of the GPU, where it is on one; None: the one that is this process's.
    `team`: of which each rank takes a part of it; None: it is whole here.

    Raises what `from_folder` raises; MissingError also where there is no such folder, and
    MismatchError where the quantization would leave most weights as they are, or layers that are to
    be spread have no room.
    """
    import torch

    quiet()
    folder = local_folder(location, revision, code=trust_remote_code)
    if trust_remote_code:
        refuse_foreign_code(folder)
    if team is not None:
        return _own_part(folder, where, team, trust_remote_code=trust_remote_code)
    # attention: left to transformers, which takes sdpa where the family has it (gpt-oss, with
    # its sinks, has not)
    model = from_folder(
        folder,
        trust_remote_code=trust_remote_code,
        dtype=getattr(torch, where.dtype),
        quantization_config=quantization_config(where.quantization, getattr(torch, where.dtype)),
        layers_on_disk=where.layers_on_disk,
        **placing(where, local_rank),
    )
    refuse_unquantized(model, where.quantization, location)
    if where.spread:
        spread.refuse_disk(location, model)
    return model


def _own_part(
    folder: Path, where: Placement, team: Team, *, trust_remote_code: bool = False
) -> Any:
    """Return this rank's part of the model of a folder; no rank of the team waits for another."""
    import torch

    config = known_config(folder) or config_of(folder, trust_remote_code=trust_remote_code)
    divided.require_divisible(folder, config, team.members.num)
    device = torch.device("cpu")
    if where.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    with divided.placed_on(team, device):
        model = from_folder(
            folder,
            trust_remote_code=trust_remote_code,
            dtype=getattr(torch, where.dtype),
            distributed_config=divided.division(config, team.members.num),
        )
    setattr(model, divided.PART, divided.Part(team.members))
    return model


def placing(where: Placement, local_rank: int | None) -> dict[str, Any]:
    """Return what transformers is told of where the layers go; `local_rank`: see `load_model`.

    bitsandbytes packs weights on a GPU, and nothing in this machine's memory beside one.
    """
    import torch

    if where.spread:
        on_host = where.quantization == "none"
        return {"device_map": "auto", "max_memory": spread.room_for_weights(on_host=on_host)}
    if where.device != "cuda":
        return {"device_map": {"": "cpu"}}
    number = torch.cuda.current_device() if local_rank is None else local_rank
    return {"device_map": {"": f"cuda:{number}"}}


def from_folder(
    folder: Path,
    *,
    trust_remote_code: bool = False,
    layers_on_disk: bool = False,
    **options: Any,
) -> Any:
    """Return transformers' model of a folder, in evaluation mode, with `options` for its loader.

    `layers_on_disk`: leave the layers in the files, where the model is not packed and has no others.

    This is the one way by which weights are loaded here. Raises MissingError (no weights in
    safetensors), DataError (half a download, an index that names other files, broken values, NaN or
    infinite weights) and MismatchError (weights that are not those of config.json, or beyond the
    type that is asked for).
    """
    from transformers import AutoModelForCausalLM

    values = require_config(folder)
    require_own_weights(folder)
    require_generation_config(folder)
    stored = stored_tensors(weight_files(folder))
    refuse_too_many_layers(folder, values, stored)
    refuse_unknown_packing(folder, values)
    known = known_config(folder)
    config = known or config_of(folder, trust_remote_code=trust_remote_code)
    require_possible(folder, config, stored, trust_remote_code=trust_remote_code)
    if known is not None:
        options["config"] = known
    layers_on_disk = layers_on_disk and values.get("quantization_config") is None
    loaded: Any = None
    try:
        if layers_on_disk:
            loaded = on_disk.without_layers(folder, config, stored)
            layers_on_disk = on_disk.can_be_read(loaded[0])
        if not layers_on_disk:
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise MissingError(f"{folder}: cannot be loaded: {str(error).splitlines()[0]}") from None
    model, notes = loaded
    missing = [*notes["missing_keys"], *(key for key, *_ in notes["mismatched_keys"])]
    refuse_other_weights(folder, model, missing, notes["unexpected_keys"], values)
    refuse_not_finite(folder, model, stored)
    if layers_on_disk:
        on_disk.attach(folder, model, stored)
    untie_other_head(folder, model)
    keep_unpacked(model)
    if spread.is_spread(model):
        spread.bring_to_head(model)
    return model.eval()


def require_generation_config(folder: Path) -> None:
    """Raise DataError if there is a generation_config.json that is none: transformers may skip it."""
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.exists():
        return
    token_ids(path, read_json_object(path).get("eos_token_id"))
    try:
        GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever foreign values bring about is their fault
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {shown(error)}); fetch it again"
        ) from None


def config_of(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the transformers config of a folder.

    Raises MissingError without one, DataError if its values are no model's.
    """
    from transformers import AutoConfig

    require_config(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever foreign values bring about is their fault
        raise DataError(
            f"{folder / 'config.json'}: cannot be read ({type(error).__name__}: {shown(error)}); "
            "fetch it again"
        ) from None


def refuse_foreign_code(folder: Path) -> None:
    """Raise MismatchError if a config of the folder would run code of another repository.

    It is written `auto_map: owner/name--..`; teacher.revision pins this one only.
    """
    for path in sorted(folder.glob("*config.json")):
        auto_map = read_json_object(path).get("auto_map") or {}
        if not isinstance(auto_map, dict):
            raise DataError(f"{path}: auto_map {shown(auto_map)} is no object; fetch it again")
        for names in auto_map.values():
            for name in names if isinstance(names, list) else [names]:
                if name and "--" in str(name):
                    raise MismatchError(
                        f"{path}: auto_map names code of another repository ({name}), which no revision "
                        "pins; copy that code into the model's folder, or set "
                        "teacher.trust_remote_code to false"
                    )


def refuse_unquantized(model: Any, quantization: str, location: object) -> None:
    """Raise MismatchError if bitsandbytes left a layer's bigger weights as they are.

    It packs linear layers, and the experts of a mixture are one tensor for all of them. The memory
    that was asked for would not be saved.
    """
    if quantization == "none":
        return
    left = [
        (p.numel(), name)
        for name, p in model.named_parameters()
        if p.ndim == 3 and p.is_floating_point()
    ]
    if left:
        total = sum(
            p.numel() * (2 if str(p.dtype) == "torch.uint8" else 1) for p in model.parameters()
        )
        share = sum(num for num, _ in left) / total
        raise MismatchError(
            f"{location}: {quantization} leaves {share:.0%} of its weights as they are (experts: "
            f"{max(left)[1]}); load it with quantization none, or serve it quantized (teacher.server)"
        )


# Architectures that transformers has under another name than the checkpoint's own config.json gives
SAME_ARCHITECTURE = {"kimi_k2": "deepseek_v3"}


def known_config(folder: Path) -> Any:
    """Return the transformers config where config.json's model_type is a known one by another name.

    None for all others.
    """
    values = read_json_object(folder / "config.json")
    if values.get("model_type") not in SAME_ARCHITECTURE:
        return None
    from transformers import AutoConfig

    model_type = SAME_ARCHITECTURE[values.pop("model_type")]
    values.pop("auto_map", None)  # the checkpoint's own code is not needed
    return AutoConfig.for_model(model_type, **values)


def keep_unpacked(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward on CPUs with AVX512-bf16.

    A folder saved after that is wrong. This must come before the first forward; it changes nothing
    in other models.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - torch types attributes as tensors


def quantization_config(quantization: str, compute_dtype: Any) -> Any:
    """Return the BitsAndBytesConfig for `nf4` (double quantization) or `int8`; None for `none`."""
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
    """Return the ids that end an answer, by the model's generation config."""
    return token_ids(type(model).__name__, model.generation_config.eos_token_id)
