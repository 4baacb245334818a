"""A transformers model folder as one GGUF file: Qwen3.5, Qwen3, Qwen2, Llama and ERNIE 4.5 (dense).

Tensors are read, converted and written one at a time, so that memory holds one of them, not the model.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from distill.core.files import fsync_folder
from distill.errors import DataError, MismatchError, MissingError
from distill.formats.gguf import qwen3_5
from distill.formats.gguf.chat_template import require_same
from distill.formats.gguf.provenance import Metadata
from distill.formats.gguf.tensor_types import FILE_TYPES, Mixture
from distill.formats.gguf.vocabulary import Vocabulary, read_vocabulary
from distill.llama_cpp import ggml
from distill.llama_cpp.gguf_header import read_declared
from distill.models import load
from distill.recipe.sections import Generate

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
VALUES_A_BLOCK = 1 << 24  # float32 values converted at once: 64 MiB


@dataclass(frozen=True)
class GgufFile:
    """A written file: `tensor_bytes`, `bits_per_weight` (of its tensors) and `tensor_types` are read back from it."""

    path: Path
    bytes: int
    tensor_bytes: int
    bits_per_weight: float
    tensor_types: dict[str, int]


@dataclass(frozen=True)
class Tensor:
    """One tensor to write. `change` makes of the stored tensor what llama.cpp wants, of this `shape`; `columns`: the order of
    its columns there, which an importance matrix has to follow."""

    source: str
    name: str
    shape: tuple[int, ...]
    type: Type
    change: Callable[[Any], Any] | None = None
    columns: np.ndarray | None = None


def write_gguf(
    model_folder: Path,
    out_file: Path,
    file_type: str,
    *,
    metadata: Metadata | None = None,
    importance: dict[str, np.ndarray] | None = None,
    types: Mapping[str, Type] | None = None,
    trained: Generate | None = None,
) -> GgufFile:
    """Write `model_folder` (config.json, *.safetensors, tokenizer.json) to `out_file`, whole or not at all.

    `metadata` are more GGUF keys: general.name, general.license, general.languages, ... (lineage.py).
    `importance` is an importance matrix by GGUF tensor name (imatrix.read); tensors without one are quantized plainly.
    `types`, by GGUF tensor name, take the place of those of llama.cpp's mixture `file_type`.
    `trained`: how the student's prompts were written, which the file's chat template then does on any server.
    Raises MissingError (a file or tensor is not there), MismatchError (an architecture, a RoPE variant or a tokenizer
    that llama.cpp would run differently) and DataError (weights that are not finite).
    """
    if file_type not in FILE_TYPES:
        raise MismatchError(
            f"{file_type!r} is not a GGUF type known here; choose one of {', '.join(FILE_TYPES)}"
        )
    config = _config(model_folder)
    vocabulary = read_vocabulary(model_folder, config.vocab_size)
    if trained is not None and vocabulary.chat_template:
        vocabulary = replace(
            vocabulary, chat_template=require_same(load.load_tokenizer(str(model_folder)), trained)
        )
    out_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_file.with_name(
        f".{out_file.name}.tmp"
    )  # a killed run's leftover is written over
    try:
        with _Weights(model_folder) as weights:
            tensors = _tensors(config, weights, file_type, types or {})
            writer = gguf.GGUFWriter(
                temporary, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.architectures[0]]]
            )
            _add_model(writer, config, file_type)
            _add_vocabulary(writer, vocabulary)
            writer.add_size_label(
                gguf.size_label(sum(math.prod(t.shape) for t in tensors), 0, 0, 0)
            )
            for key, value in (metadata or {}).items():
                _add_metadata(writer, key, value)
            if importance:
                writer.add_uint32("quantize.imatrix.entries_count", len(importance))
            _write(writer, weights, tensors, config, importance or {})
        _sync(temporary)
        os.replace(temporary, out_file)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(out_file.parent)
    return describe(out_file)


def tensors_of(model_folder: Path, file_type: str) -> list[Tensor]:
    """The tensors that a file of this type would hold, and their types. Raises as `write_gguf` does."""
    with _Weights(model_folder) as weights:
        return _tensors(_config(model_folder), weights, file_type, {})


def describe(path: Path) -> GgufFile:
    """Size and tensor types of a GGUF file, as they stand in it. Raises DataError where it cannot be read."""
    tensors = read_declared(path)
    tensor_bytes = sum(t.bytes for t in tensors)
    bits = 8 * tensor_bytes / sum(t.num_weights for t in tensors)
    return GgufFile(
        path,
        path.stat().st_size,
        tensor_bytes,
        bits,
        dict(Counter(Type(t.type_id).name for t in tensors)),
    )


def _config(folder: Path) -> Any:
    """The transformers config, refused where llama.cpp has no counterpart for what it says."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; a transformers model folder is needed")
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise MismatchError(
            f"{path}: architecture {names[0]} cannot be written to GGUF here; known: {', '.join(ARCHITECTURES)}. "
            "nf4 and int8 take any dense one; quantize/w16a16 is a folder that transformers and vLLM read as it is"
        )
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, StrictDataclassError) as error:
        raise DataError(
            f"{path}: cannot be read: {' '.join(str(error).split())}; save the model again"
        ) from None
    found = problems(config, names[0])
    if found:
        raise MismatchError(f"{path}: llama.cpp's {names[0]} has no {'; no '.join(found)}")
    return config


def problems(config: Any, architecture: str) -> list[str]:
    """What a transformers config says that llama.cpp's counterpart does not have."""
    width = config.num_attention_heads * _head_dim(config)
    rope = config.rope_parameters or {}
    reasons = {
        f"hidden_act {config.hidden_act} (silu is needed)": config.hidden_act != "silu",
        "attention_bias true": getattr(config, "attention_bias", False),
        "mlp_bias true": getattr(config, "mlp_bias", False),
        "use_bias true": getattr(config, "use_bias", False),
        "sliding-window attention": getattr(config, "use_sliding_window", False),
        f"heads x head_dim {width}, hidden_size {config.hidden_size} (must be equal in Qwen2)": architecture
        == "Qwen2ForCausalLM"
        and width != config.hidden_size,
        "quantization_config (export from the 16-bit model)": getattr(
            config, "quantization_config", None
        )
        is not None,
        f"rope_type {rope.get('rope_type')}": rope.get("rope_type", "default") not in ROPE_TYPES,
        **_yarn_problems(rope),
        "rope_type llama3 (only its Llama has it)": rope.get("rope_type") == "llama3"
        and architecture != "LlamaForCausalLM",
        f"partial_rotary_factor {rope.get('partial_rotary_factor')}": rope.get(
            "partial_rotary_factor", 1.0
        )
        != 1.0
        and architecture != "Qwen3_5ForCausalLM",
    }
    if architecture == "Qwen3_5ForCausalLM":
        reasons |= qwen3_5.problems(config)
    return [text for text, wrong in reasons.items() if wrong]


def _yarn_problems(rope: Mapping[str, Any]) -> dict[str, bool]:
    """What of YaRN llama.cpp does not read from a file of our architectures, though GGUF has keys for it."""
    if rope.get("rope_type") != "yarn":
        return {}
    return {
        f"rope_parameters.truncate {rope.get('truncate')} (true is needed)": not rope.get(
            "truncate", True
        ),
        f"rope_parameters.beta_fast {rope.get('beta_fast')} (32 is needed)": (
            rope.get("beta_fast") or 32
        )
        != 32,
        f"rope_parameters.beta_slow {rope.get('beta_slow')} (1 is needed)": (
            rope.get("beta_slow") or 1
        )
        != 1,
    }


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _tensors(
    config: Any, weights: "_Weights", file_type: str, types: Mapping[str, Type]
) -> list[Tensor]:
    """Every tensor of the file in writing order. Raises where the folder lacks one, or has one with no place."""
    arch = ARCHITECTURES[config.architectures[0]]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    mixture = Mixture(
        file_type,
        config.num_hidden_layers,
        config.num_attention_heads // config.num_key_value_heads,
        config.tie_word_embeddings,
    )
    tensors = []
    for source in _sources(config):
        shape = weights.shape(source)
        name = names.get_name(
            source.replace(".dt_bias", ".dt_proj.bias"), try_suffixes=(".weight", ".bias")
        )
        assert name is not None, source
        kind = types.get(name, mixture.type_of(name, shape[-1])) if len(shape) == 2 else Type.F32
        change, columns = None, None
        if arch == gguf.MODEL_ARCH.LLAMA and (projection := source.split(".")[-2]) in heads:
            change = partial(_llama_rows, heads=heads[projection])
        elif arch == gguf.MODEL_ARCH.QWEN35:
            change, columns = qwen3_5.change_of(source, config), qwen3_5.columns_of(source, config)
            shape = tuple(
                n for i, n in enumerate(shape) if len(shape) < 3 or i != 1
            )  # the convolution's middle
        tensors.append(Tensor(source, name, shape, kind, change, columns))
    left = {
        n
        for n in weights.names() - {t.source for t in tensors}
        if not n.endswith("rotary_emb.inv_freq")
    }
    if config.tie_word_embeddings:
        left.discard("lm_head.weight")
    if left:
        raise MismatchError(
            f"{weights.folder}: tensor {min(left)} has no place in a {arch.name} file ({len(left)} such); remove it"
        )
    return tensors


def _sources(config: Any) -> Iterator[str]:
    """transformers' names of all tensors of the architecture."""
    kind = config.architectures[0]
    yield "model.embed_tokens.weight"
    for layer in range(config.num_hidden_layers):
        for part in (
            ("q_proj", "k_proj", "v_proj", "o_proj") if kind != "Qwen3_5ForCausalLM" else ()
        ):
            yield f"model.layers.{layer}.self_attn.{part}.weight"
            if kind == "Qwen2ForCausalLM" and part != "o_proj":
                yield f"model.layers.{layer}.self_attn.{part}.bias"
        if kind == "Qwen3_5ForCausalLM":
            yield from qwen3_5.sources(config, layer)
        if kind == "Qwen3ForCausalLM":
            yield f"model.layers.{layer}.self_attn.q_norm.weight"
            yield f"model.layers.{layer}.self_attn.k_norm.weight"
        for part in (
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
            "input_layernorm",
            "post_attention_layernorm",
        ):
            yield f"model.layers.{layer}.{part}.weight"
    yield "model.norm.weight"
    if not config.tie_word_embeddings:
        yield "lm_head.weight"


class _Weights:
    """The safetensors files of a folder, one or many, read lazily."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = ExitStack()
        self._stored: dict[str, tuple[Any, str]] = {}  # name -> file, name in it

    def __enter__(self) -> "_Weights":
        from safetensors import SafetensorError, safe_open

        index = self.folder / "model.safetensors.index.json"
        names = sorted(p.name for p in self.folder.glob("*.safetensors"))
        if index.is_file():
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        if not names:
            raise MissingError(
                f"{self.folder}: no *.safetensors; save the model with save_pretrained()"
            )
        for name in names:
            path = self.folder / name
            if not path.is_file():
                raise MissingError(
                    f"{path}: no such file, though {index.name} names it; copy the whole folder again"
                )
            try:
                opened = self._stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise DataError(
                    f"{path}: not a whole safetensors file ({error}); copy it again"
                ) from None
            for stored in opened.keys():  # noqa: SIM118 - it is no dict
                # a language model that was a part of a larger one keeps that name
                self._stored[stored.replace("model.language_model.", "model.", 1)] = opened, stored
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def names(self) -> set[str]:
        return set(self._stored)

    def slice_of(self, name: str) -> Any:
        if name not in self._stored:
            raise MissingError(
                f"{self.folder}: tensor {name} is not in its safetensors files; save the model again"
            )
        opened, stored = self._stored[name]
        return opened.get_slice(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.slice_of(name).get_shape())


def _add_model(writer: gguf.GGUFWriter, config: Any, file_type: str) -> None:
    head_dim = _head_dim(config)
    rope = config.rope_parameters
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(FILE_TYPES[file_type][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    if config.architectures[0] == "Qwen3_5ForCausalLM":
        qwen3_5.add_keys(writer, config)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope.get("rope_type") == "yarn":
        _add_yarn(writer, config)


def _add_yarn(writer: gguf.GGUFWriter, config: Any) -> None:
    """YaRN's keys. llama.cpp scales cosines by attn_factor times its own 1 + 0.1 ln(factor), and reads yarn_attn_factor, which
    its converter writes, nowhere; so the whole of transformers' factor goes into attn_factor."""
    rope = config.rope_parameters
    original = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    factor = rope["factor"] or config.max_position_embeddings / original
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(original)
    usual = _yarn_scale(factor, 1.0)
    wanted = rope.get("attention_factor")
    if wanted is None:
        both = rope.get("mscale"), rope.get("mscale_all_dim")
        wanted = (
            _yarn_scale(factor, both[0]) / _yarn_scale(factor, both[1])
            if both[0] and both[1]
            else usual
        )
    if wanted != usual:
        writer.add_rope_scaling_attn_factors(wanted / usual)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _llama3_factors(config: Any) -> np.ndarray | None:
    """Llama 3's stretched RoPE frequencies as divisors [head_dim / 2], float32; None for other variants.

    Short wavelengths stay, those beyond original / low_freq_factor are divided by `factor`, between them is a ramp.
    """
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    head_dim, original = _head_dim(config), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequencies = rope["rope_theta"] ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = original * frequencies / (2 * math.pi)  # full turns within the original context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / (keep + (1.0 - keep) / rope["factor"])).astype(np.float32)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    add = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "pad": writer.add_pad_token_id,
        "eot": writer.add_eot_token_id,
        "eom": writer.add_eom_token_id,
        "unk": writer.add_unk_token_id,
    }
    for name, number in vocabulary.special_ids.items():
        add[name](number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: str | int | list[str]) -> None:
    if any(key in keys for keys in writer.kv_data):
        raise MismatchError(
            f"metadata: the key {key} is decided by the model, not by the caller; leave it out"
        )
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_string(key, value)


def _write(
    writer: gguf.GGUFWriter,
    weights: _Weights,
    tensors: list[Tensor],
    config: Any,
    importance: dict[str, np.ndarray],
) -> None:
    factors = _llama3_factors(config)
    if factors is not None:
        writer.add_tensor_info(
            "rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes, Type.F32
        )
    for t in tensors:
        num_bytes = math.prod(t.shape[:-1]) * ggml.row_bytes(t.type, t.shape[-1])
        writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), num_bytes, t.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for t in tensors:
            writer.write_tensor_data(_encode(weights, t, importance.get(t.name)))
    finally:
        writer.close()


def _encode(weights: _Weights, tensor: Tensor, importance_C: np.ndarray | None) -> np.ndarray:
    """The tensor's bytes in its type, uint8, converted a block of rows at a time."""
    source = weights.slice_of(tensor.source)
    num_rows = tensor.shape[0]
    rows = tensor.change(source[:]) if tensor.change else source
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

    dtype = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}.get(
        tensor.type
    )
    values = rows.to(dtype or torch.float32).contiguous()
    if not bool(values.isfinite().all()):
        whole = bool(rows.isfinite().all())
        reason = (
            "does not fit float16: write bf16"
            if whole
            else "has values that are not finite: train again"
        )
        raise DataError(f"{folder}: tensor {tensor.source} {reason}")
    if dtype is None:
        return ggml.quantize(values.numpy(), tensor.type, importance_C)
    return values.view(torch.uint8).numpy()


def _llama_rows(weight: Any, heads: int) -> Any:
    """The rows of Llama's q or k reordered: transformers rotates halves of a head, llama.cpp neighbouring pairs."""
    return weight[np.arange(len(weight)).reshape(heads, 2, -1).transpose(0, 2, 1).reshape(-1)]


def _sync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())
