"""The keys of a GGUF file: the model's shape and RoPE, its vocabulary, and what the caller adds.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from distill.errors import MismatchError
from distill.formats.gguf import qwen3_5
from distill.formats.gguf.architectures import head_dim
from distill.formats.gguf.provenance import Metadata
from distill.formats.gguf.tensor_types import FILE_TYPES
from distill.formats.gguf.vocabulary import Vocabulary


def add_model(writer: gguf.GGUFWriter, config: Any, file_type: str) -> None:
    """Write the model's shape, its RoPE and the file's type."""
    rope = config.rope_parameters
    width = head_dim(config)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(FILE_TYPES[file_type][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
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
    """Write YaRN's keys.

    llama.cpp scales cosines by attn_factor times its own 1 + 0.1 ln(factor), and reads
    yarn_attn_factor, which its converter writes, nowhere; so the whole of transformers' factor goes
    into attn_factor.
    """
    rope = config.rope_parameters
    original = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    factor = rope["factor"] or config.max_position_embeddings / original
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(original)
    usual = _yarn_scale(factor, 1.0)
    wanted = _attention_factor(rope, factor)
    if wanted != usual:
        writer.add_rope_scaling_attn_factors(wanted / usual)


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """Return by how much transformers scales cosines and sines."""
    given = rope.get("attention_factor")
    if given is not None:
        return given
    mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return _yarn_scale(factor, mscale) / _yarn_scale(factor, mscale_all_dim)
    return _yarn_scale(factor, 1.0)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def llama3_factors(config: Any) -> np.ndarray | None:
    """Return Llama 3's stretched RoPE frequencies as divisors [head_dim / 2], float32.

    None for other variants. Short wavelengths stay, those beyond original / low_freq_factor are
    divided by `factor`, between them is a ramp.
    """
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    width, original = head_dim(config), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequencies = rope["rope_theta"] ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    turns = original * frequencies / (2 * math.pi)  # full turns within the original context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / (keep + (1.0 - keep) / rope["factor"])).astype(np.float32)


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
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
        _require_text("tokenizer.chat_template", vocabulary.chat_template)
        writer.add_chat_template(vocabulary.chat_template)


def add_metadata(writer: gguf.GGUFWriter, metadata: Metadata) -> None:
    """Write more keys.

    Raises MismatchError for one that the model decides, and for text that a file cannot hold.
    """
    for key, value in metadata.items():
        if any(key in keys for keys in writer.kv_data):
            raise MismatchError(
                f"metadata: the key {key} is decided by the model, not by the caller; leave it out"
            )
        if isinstance(value, list):
            _require_text(key, "".join(value))
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            _require_text(key, value)
            writer.add_string(key, value)


def _require_text(key: str, text: str) -> None:
    """Raise MismatchError for what llama.cpp would not read back: it ends a text at NUL."""
    cannot = sorted({character for character in text if character == "\0" or _is_half(character)})
    if cannot:
        raise MismatchError(
            f"{key}: holds U+{ord(cannot[0]):04X}, which a GGUF file cannot; remove it from the "
            "recipe, or from the chat template"
        )


def _is_half(character: str) -> bool:
    """Return whether it is a surrogate, half a character of UTF-16, which UTF-8 has not."""
    return "\ud800" <= character <= "\udfff"
