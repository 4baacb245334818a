"""Answers of a transformers model to a list of prompts, a seed for each request.

Which prompts are in the list decides the floating-point result, so callers fix that; then the same
prompts give the same answers, whatever was finished before a kill.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from distill.models.divided import Part, part_of, together
from distill.models.sampling import Sampling
from distill.models.slots import Rolling, has_slots

NUCLEUS = 256  # likeliest ids among which top-p is looked for first

OnFinished = Callable[[int, list[int], str], None]


@together
def answer(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    sampling: Sampling,
    pad_id: int,
    on_finished: OnFinished,
    vocab_size: int | None = None,
    num_slots: int | None = None,
    known_lengths: Mapping[int, int] | None = None,
) -> None:
    """Answer `prompts` (token ids), `num_slots` at once (None: all).

    Calls `on_finished(index, answer ids, "stop" | "length")` for each, as soon as it ends. Answer
    ids include the stop token and are below `vocab_size`: the rows of an embedding that stand for
    no token (Qwen3 has 267 of them) are never drawn.

    `known_lengths` (index -> tokens) are answers that an earlier call with the same arguments gave:
    they need not be computed again. Where a model cannot do without (see slots.py) they are, and
    are reported once more.
    """
    num_slots, known = num_slots or len(prompts), known_lengths or {}
    part = part_of(model)
    if part is not None:
        on_finished = part.heard(on_finished)
    with torch.inference_mode():
        if has_slots(model):
            rolling = Rolling(
                model,
                prompts,
                num_slots=num_slots,
                max_new_tokens=sampling.max_new_tokens,
                stop_ids=sampling.stop_ids,
                pad_id=pad_id,
                known_lengths=known,
            )
            drawer = Drawer(seeds, sampling, vocab_size)
            rolling.run(drawer if part is None else _as_led(part, drawer), on_finished)
            return
        for first in range(0, len(prompts), num_slots):
            rows = range(first, min(first + num_slots, len(prompts)))
            if all(i in known for i in rows):
                continue
            _answer_batch(
                model,
                [prompts[i] for i in rows],
                seeds=[seeds[i] for i in rows],
                sampling=sampling,
                pad_id=pad_id,
                vocab_size=vocab_size,
                on_finished=_shifted(on_finished, first),
            )


def _as_led(part: Part, drawer: "Drawer") -> Callable[..., list[int]]:
    """Return the drawer of a model that several ranks hold: all take the tokens that their leader draws."""

    def draw_with_all(logits_NV: Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
        return part.agreed(len(places), lambda: drawer(logits_NV, places))

    return draw_with_all


def _shifted(on_finished: OnFinished, first: int) -> OnFinished:
    """Return the callback for a batch whose indices begin at `first`."""
    return lambda index, ids, reason: on_finished(first + index, ids, reason)


class Drawer:
    """Draw the next token of each row.

    It is the likeliest, or the one that the request's own uniform number for that step says.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, vocab_size: int | None):
        self.sampling, self.vocab_size = sampling, vocab_size
        # of the requests in flight only: there may be many more
        self._uniform_T = lru_cache(1024)(
            lambda index: uniform(seeds[index], sampling.max_new_tokens).numpy()
        )

    def __call__(self, logits_NV: Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
        """Return N ids below `vocab_size`.

        `places`: (number of the request, number of the token within its answer) of each row.
        """
        logits_NV = logits_NV[:, : self.vocab_size].float()
        if self.sampling.temperature == 0:
            return logits_NV.argmax(-1).tolist()
        uniform_N = torch.tensor(
            [self._uniform_T(index)[step] for index, step in places], dtype=torch.float32
        )
        return draw(logits_NV, uniform_N.to(logits_NV.device), self.sampling)[:, 0].tolist()


def uniform(seed: int, num_tokens: int) -> Tensor:
    """Return a request's uniform numbers [tokens] in [0, 1), float64, whoever draws for it."""
    return torch.rand(
        num_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _answer_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    sampling: Sampling,
    pad_id: int,
    on_finished: OnFinished,
    vocab_size: int | None,
) -> None:
    """Answer one batch by transformers' own generate: for every kind of cache.

    Left-padded, until its longest answer ends.
    """
    width = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), width), pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=pad_id,
    )
    processors: list[LogitsProcessor] = []
    if vocab_size is not None:
        processors.append(_OnlyTokens(vocab_size))
    if sampling.temperature > 0:
        processors.append(_SeededSampler(seeds, sampling, width))
    if (part := part_of(model)) is not None:
        processors.append(_AsLed(part))
    watcher = _Finished(width, sampling, on_finished, len(prompts))
    model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList([watcher]),
    )


class _Finished(StoppingCriteria):
    """Report each answer once, when it ends; stop nothing."""

    def __init__(self, width: int, sampling: Sampling, on_finished: OnFinished, num_rows: int):
        self.width, self.on_finished = width, on_finished
        self.max_new_tokens = sampling.max_new_tokens
        self.stop_ids = set(sampling.stop_ids)
        self.open = set(range(num_rows))

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        last = input_ids[:, -1].tolist()
        at_limit = input_ids.shape[1] - self.width >= self.max_new_tokens
        for row in sorted(self.open):
            if last[row] in self.stop_ids or at_limit:
                reason = "stop" if last[row] in self.stop_ids else "length"
                self.on_finished(row, input_ids[row, self.width :].tolist(), reason)
                self.open.discard(row)
        return torch.zeros(len(last), dtype=torch.bool, device=input_ids.device)


class _OnlyTokens(LogitsProcessor):
    """Leave nothing to the ids from `vocab_size` on."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, self.vocab_size :] = -torch.inf
        return scores


class _SeededSampler(LogitsProcessor):
    """Draw each row's token by inverse CDF with that row's own uniforms.

    Only that token is left: argmax then takes it.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, width: int):
        self.sampling, self.width = sampling, width
        self.uniform_BN = torch.stack([uniform(s, sampling.max_new_tokens) for s in seeds])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        uniform_B = self.uniform_BN[:, input_ids.shape[1] - self.width].to(
            scores.device, torch.float32
        )
        chosen_B1 = draw(scores, uniform_B, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_B1, 0.0)


class _AsLed(LogitsProcessor):
    """Leave only the token of each row that the leader of the ranks takes."""

    def __init__(self, part: Part):
        self.part = part

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen = self.part.agreed(len(scores), lambda: scores.argmax(-1).tolist())
        chosen_B1 = torch.tensor(chosen, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_B1, 0.0)


def draw(scores_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Return token ids [B, 1] drawn from logits with one uniform number in [0, 1) a row.

    At the sampling's temperature, top-k first and then top-p.
    """
    num_ids = scores_BV.shape[1]
    if sampling.top_k and sampling.top_k < num_ids:
        values, ids = scores_BV.topk(sampling.top_k)
        return ids.gather(1, _drawn(_probabilities(values, sampling), uniform_B, sampling))
    if sampling.top_p == 1:
        return _drawn(_probabilities(scores_BV, sampling), uniform_B, sampling)
    if scores_BV.device.type != "cpu" or num_ids <= NUCLEUS:
        return _drawn_of_all(scores_BV, uniform_B, sampling)
    return _drawn_of_likeliest(scores_BV, uniform_B, sampling)


def _drawn_of_likeliest(scores_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Return the same with top-p, from the likeliest ids: a CPU sorts them all 30 times as slowly.

    Rows where that many ids do not hold the nucleus are drawn from all.
    """
    values_BK, ids_BK = scores_BV.topk(NUCLEUS)
    # equal ones by their ids, as a stable sort of all has them
    ids_BK = ids_BK.sort(-1).values
    values_BK, order_BK = scores_BV.gather(1, ids_BK).sort(dim=-1, descending=True, stable=True)
    ids_BK = ids_BK.gather(1, order_BK)
    total_B1 = (scores_BV.float() / sampling.temperature).logsumexp(-1, keepdim=True)
    p_BK = (values_BK.float() / sampling.temperature - total_B1).exp()
    # of those that equal the last some may be missing
    is_whole_B = p_BK.masked_fill(values_BK == values_BK[:, -1:], 0.0).sum(-1) > sampling.top_p
    chosen_B1 = ids_BK.gather(1, _drawn(p_BK, uniform_B, sampling))
    others = (~is_whole_B).nonzero()[:, 0]
    if len(others):
        chosen_B1[others] = _drawn_of_all(scores_BV[others], uniform_B[others], sampling)
    return chosen_B1


def _drawn_of_all(scores_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    values_BV, ids_BV = scores_BV.sort(descending=True, stable=True)
    return ids_BV.gather(1, _drawn(_probabilities(values_BV, sampling), uniform_B, sampling))


def _probabilities(scores_BV: Tensor, sampling: Sampling) -> Tensor:
    return torch.softmax(scores_BV.float() / sampling.temperature, -1)


def _drawn(p_BN: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Return the places [B, 1] that are drawn; with top-p `p_BN` must descend."""
    if sampling.top_p < 1:
        before_BN = p_BN.cumsum(-1) - p_BN
        p_BN = p_BN.masked_fill(before_BN >= sampling.top_p, 0.0)
    cumulative_BN = p_BN.cumsum(-1)
    target_B1 = uniform_B[:, None] * cumulative_BN[:, -1:]
    place_B1 = torch.searchsorted(cumulative_BN, target_B1, right=True)
    place_B1 = place_B1.clamp(max=p_BN.shape[1] - 1)
    # rounding at the very end of the sum may point at an id without mass: take the likeliest then
    has_mass_B1 = p_BN.gather(1, place_B1) > 0
    return torch.where(has_mass_B1, place_B1, p_BN.argmax(-1, keepdim=True))
