"""Qwen3.5 (dense) in GGUF's terms.

Most layers have linear attention (gated delta net), every n-th has full attention.

What llama.cpp's `qwen35` wants otherwise than transformers stores it: norms as 1 + w, the decay as
-exp(A_log), the convolution without its middle dimension. Where there are more value heads than key
heads (4 B and larger), transformers keeps those of one key head together, and llama.cpp wants the
first of each key head, then the second of each, and so on.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np

# of the family; for text alone all positions are one, whatever they are
MROPE_SECTIONS = [11, 11, 10, 0]


def problems(config: Any) -> dict[str, bool]:
    """Return the reasons to refuse a config, and whether each holds."""
    interval = full_attention_interval(config)
    is_irregular = any(
        (kind == "full_attention") != ((i + 1) % interval == 0)
        for i, kind in enumerate(config.layer_types)
    )
    first_layers = ", ".join(config.layer_types[:8])
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    heads = f"linear_num_value_heads {values} with linear_num_key_heads {keys}"
    return {
        "layer_types with full attention elsewhere than in every n-th layer "
        f"({first_layers}, ...)": is_irregular,
        f"{heads} (must be a multiple)": values % keys > 0,
    }


def full_attention_interval(config: Any) -> int:
    """Return n, where every n-th layer has full attention."""
    kinds = config.layer_types
    return kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1


def sources(config: Any, layer: int) -> Iterator[str]:
    """Yield transformers' names of a layer's attention tensors."""
    if config.layer_types[layer] == "full_attention":
        for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            yield f"model.layers.{layer}.self_attn.{part}.weight"
        return
    for part in (
        "in_proj_qkv",
        "in_proj_z",
        "in_proj_b",
        "in_proj_a",
        "conv1d",
        "norm",
        "out_proj",
    ):
        yield f"model.layers.{layer}.linear_attn.{part}.weight"
    yield f"model.layers.{layer}.linear_attn.A_log"
    yield f"model.layers.{layer}.linear_attn.dt_bias"


def change_of(source: str, config: Any) -> Callable[[Any], Any] | None:
    """Return what is done with this tensor before it is written; None: nothing."""
    rows, columns = _rows(source, config), columns_of(source, config)
    if source.endswith("A_log"):
        return lambda weight: -weight.float().exp()[rows]
    if source.endswith("conv1d.weight"):
        return lambda weight: weight.squeeze(1)[rows]
    if source.endswith("norm.weight") and not source.endswith("linear_attn.norm.weight"):
        return lambda weight: weight.float() + 1
    if rows is not None:
        return lambda weight: weight[rows]
    return None if columns is None else lambda weight: weight[:, columns]


def columns_of(source: str, config: Any) -> np.ndarray | None:
    """Return the order in which a matrix's columns are written; None: as they are."""
    if source.endswith("linear_attn.out_proj.weight") and _values_per_key(config) > 1:
        return _value_heads(config, config.linear_value_head_dim)
    return None


def _rows(source: str, config: Any) -> np.ndarray | None:
    part = source.partition(".linear_attn.")[2].removesuffix(".weight")
    if part in ("in_proj_qkv", "conv1d"):  # queries and keys stay
        before = 2 * config.linear_num_key_heads * config.linear_key_head_dim
        values = before + _value_heads(config, config.linear_value_head_dim)
        return np.concatenate([np.arange(before), values])
    if part == "in_proj_z":
        return _value_heads(config, config.linear_value_head_dim)
    if part in ("in_proj_a", "in_proj_b", "A_log", "dt_bias"):
        return _value_heads(config, 1)
    return None


def _values_per_key(config: Any) -> int:
    return config.linear_num_value_heads // config.linear_num_key_heads


def _value_heads(config: Any, width: int) -> np.ndarray:
    """Return the indices of the value heads' entries, `width` each, in llama.cpp's order."""
    numbers = np.arange(config.linear_num_value_heads * width)
    return (
        numbers.reshape(config.linear_num_key_heads, _values_per_key(config), width)
        .transpose(1, 0, 2)
        .reshape(-1)
    )


def add_keys(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the keys that this family has beside those of all."""
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(full_attention_interval(config))
    sections = config.rope_parameters.get("mrope_section") or MROPE_SECTIONS
    writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])
