"""The tensors of a GGUF file: which a model folder has, their names, order and types there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from distill.errors import MismatchError
from distill.formats.gguf import qwen3_5
from distill.formats.gguf.architectures import architecture_of, read_config
from distill.formats.gguf.tensor_types import Mixture
from distill.formats.gguf.weights import Weights

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Tensor:
    """One tensor to write.

    `change` makes of the stored tensor what llama.cpp wants, of this `shape`; `columns`: the order
    of its columns there, which an importance matrix has to follow.
    """

    source: str
    name: str
    shape: tuple[int, ...]
    type: Type
    change: Callable[[Any], Any] | None = None
    columns: np.ndarray | None = None

    @property
    def is_matrix(self) -> bool:
        """Return whether it is quantized; vectors stay in float32."""
        return len(self.shape) == 2


def tensors_of(model_folder: Path, file_type: str) -> list[Tensor]:
    """Return the tensors that a file of this type would hold. Raises as `write_gguf` does."""
    with Weights(model_folder) as weights:
        return planned_tensors(read_config(model_folder), weights, file_type, {})


def matrix_types(model_folder: Path, file_type: str) -> dict[str, Type]:
    """Return the type of each matrix in a file of this type, by GGUF tensor name."""
    return {t.name: t.type for t in tensors_of(model_folder, file_type) if t.is_matrix}


def planned_tensors(
    config: Any, weights: Weights, file_type: str, types: Mapping[str, Type]
) -> list[Tensor]:
    """Return every tensor of the file in writing order.

    `types`, by GGUF tensor name, take the place of those of the mixture `file_type`. Raises
    MissingError if the folder lacks a tensor, and MismatchError if it has one with no place.
    """
    mixture = Mixture(
        file_type,
        config.num_hidden_layers,
        config.num_attention_heads // config.num_key_value_heads,
        config.tie_word_embeddings,
    )
    names = gguf.get_tensor_name_map(architecture_of(config), config.num_hidden_layers)
    tensors = []
    for source in _sources(config):
        shape = weights.shape(source)
        name = names.get_name(
            source.replace(".dt_bias", ".dt_proj.bias"), try_suffixes=(".weight", ".bias")
        )
        assert name is not None, source
        kind = Type.F32
        if len(shape) == 2:
            kind = types.get(name, mixture.type_of(name, shape[-1]))
        tensors.append(_as_llama_wants_it(Tensor(source, name, shape, kind), config))
    _refuse_leftovers(config, weights, {tensor.source for tensor in tensors})
    return tensors


def _as_llama_wants_it(tensor: Tensor, config: Any) -> Tensor:
    """Return the tensor with the change that its family needs."""
    arch = architecture_of(config)
    if arch == gguf.MODEL_ARCH.LLAMA:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if (projection := tensor.source.split(".")[-2]) in heads:
            return replace(tensor, change=partial(_llama_rows, heads=heads[projection]))
    if arch == gguf.MODEL_ARCH.QWEN35:
        shape = tensor.shape
        if len(shape) == 3:  # the convolution has a middle dimension of one
            shape = (shape[0], shape[2])
        return replace(
            tensor,
            shape=shape,
            change=qwen3_5.change_of(tensor.source, config),
            columns=qwen3_5.columns_of(tensor.source, config),
        )
    return tensor


def _refuse_leftovers(config: Any, weights: Weights, sources: set[str]) -> None:
    """Raise MismatchError if the folder holds a tensor that is not among `sources`."""
    leftovers = {
        name for name in weights.names() - sources if not name.endswith("rotary_emb.inv_freq")
    }
    if config.tie_word_embeddings and HEAD in leftovers:
        _require_copy(weights)
        leftovers.discard(HEAD)
    if leftovers:
        raise MismatchError(
            f"{weights.folder}: tensor {min(leftovers)} has no place in a "
            f"{architecture_of(config).name} file ({len(leftovers)} such); remove it"
        )


def _require_copy(weights: Weights) -> None:
    """Raise MismatchError if the head that the folder holds is not the embedding."""
    import torch

    head, embedding = (weights.slice_of(name)[:] for name in (HEAD, EMBEDDING))
    if not torch.equal(head, embedding):
        raise MismatchError(
            f"{weights.folder}: {HEAD} is not the embedding, though config.json ties them; set its "
            "tie_word_embeddings to false"
        )


def _sources(config: Any) -> Iterator[str]:
    """Yield transformers' names of all tensors of the architecture."""
    yield EMBEDDING
    for layer in range(config.num_hidden_layers):
        yield from _attention_sources(config, layer)
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
        yield HEAD


def _attention_sources(config: Any, layer: int) -> Iterator[str]:
    architecture = config.architectures[0]
    if architecture == "Qwen3_5ForCausalLM":
        yield from qwen3_5.sources(config, layer)
        return
    attention = f"model.layers.{layer}.self_attn"
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield f"{attention}.{part}.weight"
        if architecture == "Qwen2ForCausalLM" and part != "o_proj":
            yield f"{attention}.{part}.bias"
    if architecture == "Qwen3ForCausalLM":
        yield f"{attention}.q_norm.weight"
        yield f"{attention}.k_norm.weight"


def _llama_rows(weight: Any, heads: int) -> Any:
    """Return the rows of Llama's q or k reordered.

    transformers rotates halves of a head, llama.cpp neighbouring pairs.
    """
    return weight[np.arange(len(weight)).reshape(heads, 2, -1).transpose(0, 2, 1).reshape(-1)]
