"""One decoding step of all slots as a CUDA graph: recorded for each cache length, then replayed.

A step of a small batch is hundreds of kernels of some microseconds, which Python cannot start as
fast as a GPU ends them; a replay starts them all at once. A graph has fixed shapes, so every slot
takes part whether it holds a row or not (an empty one computes a token that nobody reads), and the
cache is read up to a multiple of LENGTH_STEP positions, the rest masked.

S: slots, L: positions of the cache that a step reads, V: rows of the head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.models.divided import part_of
from distill.models.spread import is_spread

LENGTH_STEP = 128  # positions: more means fewer graphs to record, and more masked positions to read
NUM_WARM_UPS = 2  # passes before a graph is recorded: libraries set themselves up in them


def can_record(model: Any) -> bool:
    """Return whether a step is always the same kernels, on one GPU that can record them.

    Attention other than sdpa takes no mask of four dimensions. Callers ask for rows that are
    independent (slots.py): experts and LLM.int8 look at values to decide what to compute.
    """
    return (
        model.device.type == "cuda"
        and not is_spread(model)
        and part_of(model) is None
        and model.config.get_text_config()._attn_implementation == "sdpa"
    )


class GraphedStep:
    """A step that is called with the newest token of each row, and its position.

    It returns the logits [S, V] of all slots, the rows' first.
    `layers` are the model's cache, of `num_positions` positions each; they write at their
    `positions_N` and read up to their `length`. The result is overwritten by the next call.
    """

    def __init__(
        self,
        model: Any,
        cache: Any,
        layers: Sequence[Any],
        num_slots: int,
        num_positions: int,
        pad_id: int,
    ):
        self.model, self.cache, self.layers = model, cache, layers
        self.num_positions, self.pad_id = num_positions, pad_id
        self.inputs_2S = torch.empty(
            2, num_slots, dtype=torch.long, device=model.device
        )  # tokens, positions
        self.logits_SV: Tensor | None = None
        self.graphs: dict[int, Any] = {}
        self.memory: Any = None  # one pool for all graphs, since no two run at once

    def __call__(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        num_empty = self.inputs_2S.shape[1] - len(ids)
        # an empty slot writes at its position 0, which whoever gets the slot writes anew
        self.inputs_2S.copy_(
            torch.tensor([[*ids, *[self.pad_id] * num_empty], [*positions, *[0] * num_empty]])
        )
        length = self.length_for(max(positions))
        if length not in self.graphs:
            self.graphs[length] = self._record(length)
        self.graphs[length].replay()
        assert self.logits_SV is not None
        return self.logits_SV

    def length_for(self, position: int) -> int:
        return min(self.num_positions, -(-(position + 1) // LENGTH_STEP) * LENGTH_STEP)

    def compute(self, length: int) -> None:
        """Compute what a graph holds: `inputs_2S` to `logits_SV`, with `length` cache positions."""
        ids_S, positions_S = self.inputs_2S.unbind()
        for layer in self.layers:
            layer.positions_N, layer.length = positions_S, length
        seen_SL = torch.arange(length, device=positions_S.device) <= positions_S[:, None]
        logits_SV = self.model(
            input_ids=ids_S[:, None],
            attention_mask=seen_SL[:, None, None],
            position_ids=positions_S[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if self.logits_SV is None:
            self.logits_SV = torch.empty_like(logits_SV)
        self.logits_SV.copy_(logits_SV)

    def _record(self, length: int) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):  # writes what the replay will write again
                self.compute(length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory):
            self.compute(length)
        self.memory = self.memory or graph.pool()
        return graph
