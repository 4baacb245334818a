"""How large a model is, from its config.json or the catalogue; no weights are loaded."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.catalog import catalog
from distill.chat.tokenizers import with_way_out
from distill.errors import MismatchError, MissingError
from distill.models import find
from distill.models.families import EXPERTS, SHARED_EXPERTS, first_of
from distill.recipe import Recipe
from distill.recipe.sections import Student
from distill.shaping.layers import num_kept_of
from distill.teachers import connect


@dataclass(frozen=True)
class Size:
    """A model's numbers. `kv_width`: numbers in the keys (or the values) of one token and layer."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_width: int
    is_local: bool

    @property
    def head(self) -> int:
        """Return the parameters of the output head."""
        return self.hidden * self.vocabulary


UNKNOWN_SIZE = Size(0, 0, 0, 0, 0, True)


def size_of(recipe: Recipe, model: str, revision: str | None) -> Size:
    """Return a model's size, from config.json if that is on this machine, else from the catalogue.

    Raises MissingError if neither knows the model, MismatchError if it is no language model.
    """
    location = recipe.model_location(model)
    try:
        config = find.read_config(location, revision)
    except MissingError:
        return _size_in_catalog(recipe, model, revision)
    try:
        return _size_from(config)
    except KeyError as error:
        raise MismatchError(
            f"{location}: its config.json says nothing of {error}: "
            "not a language model of a kind that is known"
        ) from None
    except (TypeError, ArithmeticError, AttributeError):
        raise MismatchError(
            f"{location}: its config.json has sizes that are no numbers; fetch it again"
        ) from None


def _size_in_catalog(recipe: Recipe, model: str, revision: str | None) -> Size:
    known = catalog.find(model)
    if known is None or known.params is None or known.shape is None or None in known.shape[:2]:
        fetch = ["hf", "download", model, "config.json"]
        fetch += ["--revision", revision] if revision else []
        raise MissingError(
            f"{recipe.source}: model {model!r} is neither on this machine nor in the catalogue, so "
            f"its size is not known; fetch that first: `{shlex.join(fetch)}`"
        )
    layers, hidden, _, kv_heads, head_dim = known.shape
    kv_width = (kv_heads or 8) * (head_dim or 128)
    return Size(known.params, layers or 1, hidden or 1, known.width or 151_936, kv_width, False)


def teacher_size(recipe: Recipe) -> Size:
    """Return the teacher's size; UNKNOWN_SIZE for a text-only teacher on a server that nobody knows."""
    try:
        return size_of(recipe, recipe.teacher.model, recipe.teacher.revision)
    except MissingError as error:
        if connect(recipe).text_only:
            return UNKNOWN_SIZE
        raise with_way_out(recipe, error) from None


def student_size(recipe: Recipe, teacher: Size, vocabulary: int | None = None) -> Size:
    """Return the size of the student that `initialize` will make.

    `vocabulary`: how many tokens it keeps, None: all.
    """
    size = _with_all_tokens(recipe, teacher)
    if vocabulary is None:
        return size
    fewer = size.vocabulary - min(vocabulary, size.vocabulary)
    parameters = size.parameters - fewer * size.hidden * num_tables(recipe)
    return replace(size, parameters=parameters, vocabulary=size.vocabulary - fewer)


def num_tables(recipe: Recipe) -> int:
    """Return how many rows of weights the student has for a token: embedding, and head if not tied."""
    student = recipe.student
    if student.model is None:
        return 1
    try:
        config = find.read_config(recipe.model_location(student.model), student.revision)
    except MissingError:
        return 1
    config = config.get("text_config") or config
    return 1 if config.get("tie_word_embeddings", False) else 2


def _with_all_tokens(recipe: Recipe, teacher: Size) -> Size:
    shape = recipe.student
    if shape.method == "random":
        config = {
            "hidden_size": shape.hidden_size,
            "num_hidden_layers": shape.num_layers,
            "vocab_size": teacher.vocabulary,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "intermediate_size": shape.intermediate_size,
            "tie_word_embeddings": True,
        }
        return _size_from(config)
    base = _narrowed(recipe, size_of(recipe, shape.model or "", shape.revision))
    if shape.method == "base":
        return base
    kept = num_kept_of(base.layers, shape.layer_share)
    without_embedding_and_last_norm = base.parameters - base.head - base.hidden
    per_layer = without_embedding_and_last_norm // base.layers
    parameters = base.parameters - (base.layers - kept) * per_layer
    return Size(parameters, kept, base.hidden, base.vocabulary, base.kv_width, base.is_local)


def _narrowed(recipe: Recipe, base: Size) -> Size:
    """Return the size of the student's model with the feed-forward and the experts of the student."""
    student = recipe.student
    if student.ffn_width is None and student.num_experts is None:
        return base
    try:
        config = find.read_config(recipe.model_location(student.model or ""), student.revision)
    except MissingError:
        return _narrowed_in_catalog(student, base)
    config = config.get("text_config") or config
    cut: dict[str, int] = {}
    if student.ffn_width is not None:
        cut["intermediate_size"] = student.ffn_width
    if student.num_experts is not None:
        cut |= {name: student.num_experts for name in EXPERTS if config.get(name)}
    removed = _size_from(config).parameters - _size_from({**config, **cut}).parameters
    return replace(base, parameters=base.parameters - removed)


def _narrowed_in_catalog(student: Student, base: Size) -> Size:
    """Return the same where config.json is not here: of a dense model whose width is not known.

    A layer's parameters beyond its attention are its feed-forward's. How many experts a mixture has
    the catalogue does not say; it then counts as whole.
    """
    known = catalog.find(student.model or "")
    if student.ffn_width is None or known is None or known.shape is None:
        return base
    _, hidden, heads, kv_heads, head_dim = known.shape
    if known.active or not (hidden and heads and kv_heads and head_dim):
        return base
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    layer = (base.parameters - base.head) / base.layers
    removed = max(0.0, layer - attention - 3 * hidden * student.ffn_width)
    return replace(base, parameters=base.parameters - int(base.layers * removed))


def _size_from(config: Mapping[str, Any]) -> Size:
    config = (
        config.get("text_config") or config
    )  # Qwen3.5: the language model is one part of several
    hidden = config["hidden_size"]
    layers = config["num_hidden_layers"]
    vocabulary = config["vocab_size"]
    attention, kv_width = _attention_size(config)
    dense_width = config.get("intermediate_size", 0)
    expert_width = config.get("moe_intermediate_size") or dense_width
    experts = first_of(config, EXPERTS)
    mixture = 3 * hidden * expert_width * (experts + first_of(config, SHARED_EXPERTS))
    num_dense = layers
    if experts:
        dense_first = config.get("first_k_dense_replace") or config.get("moe_layer_start_index")
        num_dense = min(layers, dense_first or 0)
    feed_forward = num_dense * 3 * hidden * dense_width + (layers - num_dense) * mixture
    total = layers * (attention + 2 * hidden) + feed_forward
    copies = 1 if config.get("tie_word_embeddings", False) else 2
    return Size(total + hidden * vocabulary * copies, layers, hidden, vocabulary, kv_width, True)


def _attention_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (parameters of a layer's attention, width of the keys that its cache holds for a token)."""
    if config.get("kv_lora_rank"):
        return _latent_attention_size(config)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_width = (config.get("num_key_value_heads") or heads) * head_dim
    return hidden * (2 * heads * head_dim + 2 * kv_width), kv_width


def _latent_attention_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same of DeepSeek's and Kimi's; transformers' cache holds full keys and values."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    value, rank = config["v_head_dim"], config["kv_lora_rank"]
    query = nope + rope
    queries = hidden * heads * query
    if q_rank := config.get("q_lora_rank"):
        queries = q_rank * (hidden + heads * query)
    keys = hidden * (rank + rope) + rank * heads * (nope + value)
    return queries + keys + heads * value * hidden, heads * (query + value) // 2
