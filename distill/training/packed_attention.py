"""Attention in packed rows without a mask: each sequence is attended to by itself.

transformers makes the mask of a packed row from its position ids, dense: [B, 1, T, T]. A CPU then
computes all T x T scores, no flash kernel of a GPU can be used, and torch keeps a copy of it in
numbers for each layer's backward. With `use` a note of where the sequences lie takes its place
(`Sequences`): every layer hands it on, as it would a mask, to `attention`, which asks for one
sequence after the other, and on a GPU in 16 bits for all of them at once (torch's varlen_attn).

A layer whose sliding window is shorter than a sequence has its mask as ever, and so has every
forward that is told of no sequences. `attention_of` says whether a training can do without.

B: rows, T: tokens of a row, S: sequences of all rows, their padding's among them; H: heads, K: heads
of keys and values, D: their width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from distill.errors import shown
from distill.models.load import Placement
from distill.recipe.sections import Train

NAME = "distill_by_sequence"  # among transformers' attention implementations
# tokens of a row: the shortest that clearly won on a CPU (BENCHMARKS.md). Shorter ones won 0 to 8 %
# of a step, and so keep their numbers
CPU_MIN_LENGTH = 2048
SAME = 1e-4  # two ways of one float32 forward differ by less, in shares of the largest value
SAME_IN_16_BITS = 2e-2
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")
# what some attentions do beside; torch's own function, too, would leave it out without a word
NOT_PLAIN = ("softcap", "s_aux", "indices", "block_indices")


@dataclass(frozen=True)
class Attention:
    """Whether sequences are attended to by themselves; `told`: how, or why not, for people."""

    by_sequence: bool
    told: str


class Sequences:
    """Where the sequences of packed rows lie, by their position ids [B, T]; it stands for a mask.

    A sequence ends where the next position is not one more, as transformers has it. `heads`: the
    (H, K, D, D of the values) of the layers that asked.
    """

    def __init__(self, position_ids_BT: Tensor) -> None:
        self.shape = position_ids_BT.shape
        self.device = position_ids_BT.device
        before_B1 = position_ids_BT[:, :1]  # 0 steps after itself: so each row begins anew
        self.begins_BT = torch.diff(position_ids_BT, prepend=before_B1, dim=-1) != 1
        self.heads: set[tuple[int, int, int, int]] = set()

    @cached_property
    def lengths(self) -> list[int]:
        """Return the tokens of each sequence, row after row."""
        starts_S = self.begins_BT.flatten().nonzero().flatten()
        end = starts_S.new_tensor([self.begins_BT.numel()])
        return torch.diff(starts_S, append=end).tolist()

    @cached_property
    def starts(self) -> Tensor:
        """Return where each begins in the rows laid end to end, and the end: int32 [S + 1]."""
        ends_S = torch.tensor([0, *self.lengths]).cumsum(0)
        return ends_S.to(self.device, torch.int32)

    @cached_property
    def mask_B1TT(self) -> Tensor:
        """Return the mask that this stands for: bool, whether a token (rows) sees another."""
        number_BT = self.begins_BT.cumsum(1)
        same_BTT = number_BT[:, :, None] == number_BT[:, None, :]
        return same_BTT.tril()[:, None]


_told: ContextVar[Sequences | None] = ContextVar("sequences", default=None)


@contextmanager
def telling(position_ids_BT: Tensor) -> Iterator[Sequences]:
    """Tell the forward within the block of its rows' sequences; it asks where `use` was called."""
    sequences = Sequences(position_ids_BT)
    token = _told.set(sequences)
    try:
        yield sequences
    finally:
        _told.reset(token)


def use(model: Any) -> None:
    """Have `model` attend by `attention` from now on. Without `telling` nothing else changes."""
    model.set_attn_implementation(NAME)


def mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool = False,
    **options: Any,
) -> Tensor | Sequences | None:
    """Return what stands for the causal mask of the rows that were told of, else transformers' own.

    The arguments are those of transformers' mask functions. local_size: a sliding window or a
    chunk; use_vmap: the model has a rule of its own.
    """
    sequences = _told.get()
    is_plain = attention_mask is None and not use_vmap and not allow_is_bidirectional_skip
    if sequences is not None and is_plain and kv_length == q_length:
        is_told = sequences.shape == (batch_size, q_length)
        is_packed = is_told and len(sequences.lengths) > batch_size
        if is_packed and (local_size is None or local_size >= max(sequences.lengths)):
            return sequences
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        **options,
    )


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Sequences | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return (attention [B, T, H, D], None) as transformers' own function for torch's attention.

    query: [B, H, T, D], key and value: [B, K, T, D]. Where dropout or a bias of positions is asked
    for, the sequences are made a mask of. Raises NotImplementedError for what is in NOT_PLAIN.
    """
    left_out = [name for name in NOT_PLAIN if options.get(name) is not None]
    if left_out:
        raise NotImplementedError(f"its attention asks for {', '.join(left_out)}")
    sequences = attention_mask
    is_plain = not dropout and position_bias is None
    if isinstance(sequences, Sequences) and is_plain:
        sequences.heads.add((query.shape[1], key.shape[1], query.shape[-1], value.shape[-1]))
        dtype = _dtype_of_products(query)
        q, k, v = (x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query, key, value))
        together = query.is_cuda and dtype.itemsize == 2
        attend = _all_at_once if together else _one_by_one
        attended = attend(q, k, v, sequences, scaling)
        return attended.unflatten(0, sequences.shape), None
    if isinstance(sequences, Sequences):
        sequences = sequences.mask_B1TT
    return sdpa_attention_forward(
        module,
        query,
        key,
        value,
        sequences,
        dropout=dropout,
        scaling=scaling,
        position_bias=position_bias,
        **options,
    )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)


def attention_of(model: Any, options: Train, placement: Placement) -> Attention:
    """Return how a training of `model` attends in packed rows; tried on the model itself.

    model: in float32, where it lies before it is trained or divided over ranks.
    """
    on_cpu = placement.device == "cpu"
    if on_cpu and options.max_length < CPU_MIN_LENGTH:
        return _masked(f"rows of {options.max_length} tokens are short for a CPU")
    if not on_cpu and placement.dtype == "float32":
        return _masked("passes are in float32")
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return _masked(f"{type(model).__name__} has an attention of its own")
    if any(getattr(config, name, 0) for name in DROPOUTS):
        return _masked("attention has dropout")
    sequences = _tried(model)
    if isinstance(sequences, str):
        return _masked(f"{type(model).__name__} needs one: {sequences}")
    if on_cpu:
        return Attention(
            True, "without a mask, one sequence after the other" + _but(config, options)
        )
    device = torch.device("cuda", torch.cuda.current_device())
    problem = kernel_problem(sequences.heads, device, getattr(torch, placement.dtype))
    if problem is not None:
        return _masked(problem)
    return Attention(True, "without a mask, by torch's varlen_attn" + _but(config, options))


def _but(config: Any, options: Train) -> str:
    """Return what is to be said of layers with a window shorter than a row."""
    window = getattr(config, "sliding_window", None)
    if not window or window >= options.max_length:
        return ""
    return f"; layers with a window of {window} tokens have one where a sequence is longer"


def _masked(reason: str) -> Attention:
    return Attention(False, f"with a mask ({reason})")


@torch.no_grad()
def _tried(model: Any) -> Sequences | str:
    """Return the sequences of a short packed row, or why `model` does not make the same of it without a mask.

    It attends afterwards as before, and so does each of its parts.
    """
    ids_BT = (
        torch.arange(2, 14, device=model.device)[None] % model.config.get_text_config().vocab_size
    )
    positions_BT = torch.arange(6, device=model.device).repeat(2)[None]
    before = _attentions(model)
    was_training = model.training
    model.eval()
    try:
        with telling(positions_BT) as sequences:
            expected = _hidden_states(model, ids_BT, positions_BT)
            use(model)
            found = _hidden_states(model, ids_BT, positions_BT)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's own code does with a mask, this one is none
        return shown(error)
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
        model.train(was_training)
    if not sequences.heads:
        return "no layer asked for its attention"
    if not _are_close(found, expected, SAME):
        return "without a mask its hidden states differ"
    return sequences


def _attentions(model: Any) -> list[tuple[Any, str | None]]:
    """Return each config of a model and of its parts, with the attention that it says."""
    parts = [model, *(m for m in model.modules() if isinstance(m, PreTrainedModel))]
    configs = {id(part.config): part.config for part in parts}
    texts = [config.get_text_config() for config in configs.values()]
    configs |= {id(text): text for text in texts}
    return [(config, config._attn_implementation_internal) for config in configs.values()]


def _hidden_states(model: Any, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
    found = model.base_model(input_ids=ids_BT, position_ids=positions_BT, use_cache=False)
    return found.last_hidden_state


def kernel_problem(
    heads: Iterable[tuple[int, int, int, int]], device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return why varlen_attn cannot be used for such heads there, None if it can; it is tried.

    Forward and backward, of two sequences, beside one after the other.
    """
    sequences = Sequences(torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]], device=device))
    for num_heads, num_kv_heads, width, value_width in heads:
        generator = torch.Generator().manual_seed(0)
        shapes = [(num_heads, width), (num_kv_heads, width), (num_kv_heads, value_width)]
        tokens = [torch.randn(8, *shape, generator=generator) for shape in shapes]
        found = []
        try:
            for attend in (_all_at_once, _one_by_one):
                inputs = [x.to(device, dtype).requires_grad_() for x in tokens]
                q, k, v = inputs
                attended = attend(q, k, v, sequences, None)
                found.append([attended, *torch.autograd.grad(attended.square().sum(), inputs)])
        except Exception as error:  # of whatever kind a kernel refuses its inputs with
            return f"varlen_attn: {shown(error)}"
        if not all(_are_close(a, b, SAME_IN_16_BITS) for a, b in zip(*found, strict=True)):
            return f"varlen_attn differs for heads of {width} numbers"
    return None


def _are_close(found: Tensor, expected: Tensor, share: float) -> bool:
    return bool((found - expected).abs().max() <= share * (1 + expected.abs().max()))


def _dtype_of_products(query: Tensor) -> torch.dtype:
    """Return the type that torch's attention would multiply in here: autocast's, if it is on."""
    kind = query.device.type
    if query.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return query.dtype


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scaling: float | None
) -> Tensor:
    """Return the attention of each sequence, one call a sequence.

    All are of the tokens of all rows: [B * T, heads, D], as is what is returned.
    """
    parts = [x.split(sequences.lengths) for x in (query, key, value)]
    attended = [
        scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in part),
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for part in zip(*parts, strict=True)
    ]
    return torch.cat([x[0].transpose(0, 1) for x in attended])


def _all_at_once(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scaling: float | None
) -> Tensor:
    """Return the same by one call of a flash kernel, which is for GPUs and types of 16 bits."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(sequences.lengths)
    attended = varlen_attn(
        query,
        key,
        value,
        sequences.starts,
        sequences.starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)  # it returns more only where that is asked for
    return attended
