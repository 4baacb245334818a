"""Continuous batching (rolling decoding): a fixed number of slots, refilled as they become free.

Each slot has its own place in the key/value cache. So no answer waits for the longest of its batch,
nothing is computed for rows that have ended, and the cache is written in place instead of being
copied for every token. For models whose cache is keys and values of all positions; a sliding window
or a recurrent state has no place of its own for a row.

What is computed when (the schedule) follows from the prompts and from how long their answers are.
Where `known_lengths` says how long answers of an earlier, killed run were, their rows are kept in
the schedule, so that the others get matrices of the very same shape and thus the very same
floating-point results, but passes in which only known rows take part are skipped: a kill costs the
rows that were in flight, not the whole list.

On a GPU a step is a recorded graph (graphed_step.py) where the model's can be.
"""

import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from distill.models.graphed_step import GraphedStep, can_record

# Slots are refilled once a share of them is free, so that prompts are read together: a sixteenth.
# Beside recorded steps reading is slow, since it is not recorded (as long as eight steps of 36
# layers): a quarter.
REFILL_SHARE, REFILL_SHARE_GRAPHED = 16, 4
NEEDED_ARGUMENTS = {
    "attention_mask",
    "position_ids",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
}


def has_slots(model: Any) -> bool:
    """Return whether rows can be placed in the model's cache.

    Every layer of it must hold keys and values of all positions.
    """
    if not set(inspect.signature(model.forward).parameters) >= NEEDED_ARGUMENTS:
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def rows_are_independent(model: Any) -> bool:
    """Return whether a row's floating-point result is free of other rows, at equal shapes.

    Not so where experts take tokens from all rows, and in LLM.int8, which looks for outliers over
    all of them.
    """
    if getattr(model, "is_loaded_in_8bit", False) or any(p.ndim == 3 for p in model.parameters()):
        return False
    return not any("expert" in name for name, _ in model.named_modules())


@dataclass
class _Row:
    """An answer in flight, in the slot that its place in the list of rows says."""

    index: int
    num_prompt: int
    known_length: int | None
    ids: list[int] = field(default_factory=list)
    num_ids: int = 0  # of a known row only the number is kept

    @property
    def num_cached(self) -> int:
        return self.num_prompt + self.num_ids - 1  # the newest token is not in the cache yet


class Rolling:
    """Prompts in order through `num_slots` slots. See `run`."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        num_slots: int,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        pad_id: int,
        known_lengths: Mapping[int, int],
    ):
        self.model, self.prompts, self.pad_id = model, prompts, pad_id
        self.num_slots, self.max_new_tokens = min(num_slots, len(prompts)), max_new_tokens
        self.stop_ids = set(stop_ids)
        known = known_lengths if rows_are_independent(model) else {}
        self.known_lengths = {index: min(length, max_new_tokens) for index, length in known.items()}
        self.rows: list[_Row] = []
        longest = max(map(len, prompts)) + max_new_tokens
        layers: list[Any] = [
            _SlotLayer(self.num_slots, longest) for _ in DynamicCache(config=model.config).layers
        ]
        self.cache = Cache(layers=layers)
        self.layers = layers
        graphed = can_record(model) and rows_are_independent(model)
        self.step = (
            GraphedStep(model, self.cache, layers, self.num_slots, longest, pad_id)
            if graphed
            else self._step_of_rows
        )
        self.refill_share = REFILL_SHARE_GRAPHED if graphed else REFILL_SHARE

    def run(self, draw: Any, on_finished: Any) -> None:
        """Answer all prompts.

        `draw(logits_NV, [(index of prompt, number of its token)])` returns N token ids;
        `on_finished(index, ids, reason)` is called as an answer ends.
        """
        waiting = deque(range(len(self.prompts)))
        while waiting or self.rows:
            free = self.num_slots - len(self.rows)
            if waiting and (not self.rows or free * self.refill_share >= self.num_slots):
                self._admit([waiting.popleft() for _ in range(min(free, len(waiting)))], draw)
            else:
                self._step(draw)
            self._release(on_finished)

    def _admit(self, indices: list[int], draw: Any) -> None:
        """Read some prompts together, left-padded, and give each a slot."""
        new = [_Row(i, len(self.prompts[i]), self.known_lengths.get(i)) for i in indices]
        if any(row.known_length is None for row in new):
            width = max(row.num_prompt for row in new)
            ids_NT = torch.full((len(new), width), self.pad_id)
            mask_NT = torch.zeros_like(ids_NT)
            for n, row in enumerate(new):
                ids_NT[n, width - row.num_prompt :] = torch.tensor(self.prompts[row.index])
                mask_NT[n, width - row.num_prompt :] = 1
            cache: Any = DynamicCache(config=self.model.config)
            logits_NV = self._forward(
                ids_NT, mask_NT.to(self.model.device), (mask_NT.cumsum(1) - 1).clamp(min=0), cache
            )
            for slots, read in zip(self.layers, cache.layers, strict=True):
                slots.place(len(self.rows), read.keys, read.values, [row.num_prompt for row in new])
            self._append(new, draw, logits_NV)
        else:
            self._append(new, draw, None)
        self.rows += new

    def _step(self, draw: Any) -> None:
        """Append one more token to every row."""
        if all(row.known_length is not None for row in self.rows):
            return self._append(self.rows, draw, None)
        ids = [row.ids[-1] if row.ids else self.pad_id for row in self.rows]
        logits_NV = self.step(ids, [row.num_cached for row in self.rows])[: len(self.rows)]
        return self._append(self.rows, draw, logits_NV)

    def _step_of_rows(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Return logits [N, V] after `ids`, the newest token of each row, at `positions`."""
        length = max(positions) + 1
        positions_N = torch.tensor(positions, device=self.model.device)
        for layer in self.layers:
            layer.positions_N, layer.length = positions_N, length
        mask_NS = (torch.arange(length, device=self.model.device) <= positions_N[:, None]).long()
        return self._forward(torch.tensor(ids)[:, None], mask_NS, positions_N[:, None], self.cache)

    def _forward(
        self, ids_NT: Tensor, mask_NS: Tensor, positions_NT: Tensor, cache: Cache
    ) -> Tensor:
        """Return logits [N, V] after the last token of each row."""
        device = self.model.device
        return self.model(
            input_ids=ids_NT.to(device),
            attention_mask=mask_NS,
            position_ids=positions_NT.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _append(self, rows: list[_Row], draw: Any, logits_NV: Tensor | None) -> None:
        """Append a token to each row; one that is known, or whose pass was skipped, only grows."""
        if logits_NV is not None:
            for row, token in zip(
                rows, draw(logits_NV, [(row.index, row.num_ids) for row in rows]), strict=True
            ):
                if row.known_length is None:
                    row.ids.append(token)
        for row in rows:
            row.num_ids += 1

    def _release(self, on_finished: Any) -> None:
        """Report what has ended and free its slot.

        The last row moves there, so that rows stay side by side.
        """
        for slot in reversed(range(len(self.rows))):
            row = self.rows[slot]
            if row.known_length is not None:
                if row.num_ids < row.known_length:
                    continue
            elif row.ids[-1] in self.stop_ids or row.num_ids >= self.max_new_tokens:
                on_finished(
                    row.index, row.ids, "stop" if row.ids[-1] in self.stop_ids else "length"
                )
            else:
                continue
            last = self.rows.pop()
            if last is not row:
                self.rows[slot] = last
                for layer in self.layers:
                    layer.move(len(self.rows), slot, last.num_cached)


class _SlotLayer(DynamicLayer):
    """Keys and values [slots, heads, positions, width]; each row writes at its own position."""

    def __init__(self, num_slots: int, num_positions: int):
        super().__init__()
        self.num_slots, self.num_positions = num_slots, num_positions
        self.positions_N = torch.empty(0)
        self.length = 1

    def _room(self, read: Tensor) -> Tensor:
        # zeros: what a skipped row would have written must at least be finite
        return read.new_zeros((self.num_slots, read.shape[1], self.num_positions, read.shape[3]))

    def place(
        self, first: int, keys_NHTD: Tensor, values_NHTD: Tensor, lengths: Sequence[int]
    ) -> None:
        """Put left-padded rows into the slots from `first` on, without their padding."""
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = (
                self._room(keys_NHTD),
                self._room(values_NHTD),
                True,
            )
        assert self.keys is not None and self.values is not None
        for n, length in enumerate(lengths):
            self.keys[first + n, :, :length] = keys_NHTD[n, :, -length:]
            self.values[first + n, :, :length] = values_NHTD[n, :, -length:]

    def move(self, source: int, target: int, length: int) -> None:
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        rows_N = torch.arange(len(key_states), device=key_states.device)
        positions_N = self.positions_N.to(key_states.device)  # of a spread model's other devices
        self.keys[rows_N, :, positions_N] = key_states[:, :, 0]
        self.values[rows_N, :, positions_N] = value_states[:, :, 0]
        return self.keys[: len(rows_N), :, : self.length], self.values[
            : len(rows_N), :, : self.length
        ]

    def get_seq_length(self) -> int:
        return self.length - 1  # what the token to come sees before itself
