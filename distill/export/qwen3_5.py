"""Qwen3.5 (dense) in GGUF's terms: most layers have linear attention (gated delta net), every n-th has full attention.

What llama.cpp's `qwen35` wants otherwise than transformers stores it: norms as 1 + w, the decay as -exp(A_log), the
convolution without its middle dimension. Students of 0.8 B and 2 B have as many value heads as key heads; where there
are more, llama.cpp wants them in another order, which is not written here.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gguf

MROPE_SECTIONS = [11, 11, 10, 0]  # of the family; for text alone all positions are one, whatever they are


def problems(config: Any) -> dict[str, bool]:
    """Reasons to refuse, and whether each holds."""
    interval = full_attention_interval(config)
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    return {
        f"layer_types with full attention elsewhere than in every n-th layer ({', '.join(config.layer_types[:8])}, ...)":
            any((kind == "full_attention") != ((i + 1) % interval == 0) for i, kind in enumerate(config.layer_types)),
        f"linear_num_value_heads {values} with linear_num_key_heads {keys} (must be equal here)": keys != values,
    }  # fmt: skip


def full_attention_interval(config: Any) -> int:
    kinds = config.layer_types
    return kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1


def sources(config: Any, layer: int) -> Iterator[str]:
    """transformers' names of a layer's attention tensors."""
    if config.layer_types[layer] == "full_attention":
        for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            yield f"model.layers.{layer}.self_attn.{part}.weight"
        return
    for part in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "norm", "out_proj"):
        yield f"model.layers.{layer}.linear_attn.{part}.weight"
    yield f"model.layers.{layer}.linear_attn.A_log"
    yield f"model.layers.{layer}.linear_attn.dt_bias"


def change_of(source: str) -> Callable[[Any], Any] | None:
    """What is done with this tensor before it is written."""
    if source.endswith("A_log"):
        return lambda weight: -weight.float().exp()
    if source.endswith("conv1d.weight"):
        return lambda weight: weight.squeeze(1)
    if source.endswith("norm.weight") and not source.endswith("linear_attn.norm.weight"):
        return lambda weight: weight.float() + 1
    return None


def add_keys(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(full_attention_interval(config))
    sections = config.rope_parameters.get("mrope_section") or MROPE_SECTIONS
    writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])
