"""Quantization-aware distillation: the student learns to be itself with rounded weights.

Each step runs the model with every weight as the file will hold it, takes the gradient there, and applies it to the
latent weights that are rounded next (straight-through: Bengio et al. 2013, arXiv 1308.3432). The loss is the KL divergence
from the 16-bit student's own distribution at the answer tokens of stored samples: cross-entropy to their text would
move the student away from itself. Weights are rounded by the very code that writes the file, so nothing is lost at export.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.core import shutdown
from distill.core.progress import Progress
from distill.errors import TrainingError
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import HeadTargets
from distill.models.batching import batches_by_length
from distill.models.head import head_of
from distill.models.score import TokenSequence, answer_hidden_states
from distill.training.batches import collate

Round = Callable[[Tensor], Tensor]  # a latent weight to the one that the file will hold

BATCH_TOKENS = 2048
POOL_VALUES = 256 << 20  # numbers of the 16-bit student's hidden states, 16 bits each: 512 MiB
REFRESH_EVERY = (
    4  # steps between roundings; meanwhile the rounding error stays (half the time, little lost)
)
WARMUP_SHARE = 0.05
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast; `seed` orders the samples.

    `learning_rate`: the peak, as a share of what rounding does to each tensor (root mean square). AdamW moves a weight by about its
    learning rate a step, and a weight must move as far as the grid is coarse before it is rounded otherwise: one number
    for every format, every tensor and every size of model.
    """

    num_steps: int
    learning_rate: float
    seed: int


def recover(
    model: Any,
    sequences: Sequence[TokenSequence],
    roundings: Mapping[str, Round],
    plan: Plan,
    *,
    pad_id: int,
    vocab_size: int,
    label: str,
) -> list[float]:
    """Train the float32 `model` in place; afterwards it holds the latent weights. The loss of each step, nats a token.

    `roundings`: by parameter name. Samples are used from the first on, as many as their hidden states fit in 512 MiB. Nothing is
    saved on the way: a run that is killed begins this anew, and ends alike. Raises TrainingError where the loss is not finite.
    """
    pool, hidden = _pool(model, sequences, pad_id, plan.num_steps)
    head = head_of(model)
    whole_VH = head.weight.detach()[:vocab_size].clone()  # stays as it is when the head is trained
    parameters = dict(model.named_parameters())
    rounded = {parameters[name]: function for name, function in roundings.items()}
    for (
        parameter
    ) in parameters.values():  # what is not rounded stays as it is, and its gradient clips nothing
        parameter.requires_grad_(parameter in rounded)
    latent = _Latent(rounded)
    peaks = {p: plan.learning_rate * latent.rms_error(p) for p in rounded}
    optimizer = torch.optim.AdamW(
        [{"params": [p]} for p in peaks], betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    losses = []
    with Progress(label, plan.num_steps, "steps") as bar:
        for step, batch in zip(range(plan.num_steps), _batches(pool, plan.seed), strict=False):
            rows = collate([[(pool[i].ids, pool[i].answer_start)] for i in batch], pad_id).to(
                model.device
            )
            teacher = HeadTargets(
                torch.cat([hidden[i] for i in batch]).to(model.device, torch.float32),
                whole_VH,
                head.scale,
                head.softcap,
            )
            with latent.as_in_the_file(refresh=step % REFRESH_EVERY == 0):
                states_BTH = model.base_model(
                    input_ids=rows.input_ids_BT, position_ids=rows.position_ids_BT, use_cache=False
                ).last_hidden_state
                loss, _ = linear_head_loss(
                    states_BTH.flatten(0, 1)[rows.positions_N],
                    head.weight,
                    rows.labels_N,
                    teacher,
                    soft_weight=1.0,
                    hard_weight=0.0,
                    vocab_size=vocab_size,
                    logit_scale=head.scale,
                    softcap=head.softcap,
                )
                (loss / len(rows.labels_N)).backward()
            losses.append(float(loss.detach()) / len(rows.labels_N))
            norm = float(torch.nn.utils.clip_grad_norm_(rounded, MAX_GRAD_NORM))
            if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
                raise TrainingError(
                    f"{label}, step {step + 1}: loss {losses[-1]}, gradient norm {norm}: not finite; lower quantize.recover_learning_rate"
                )
            for group, peak in zip(optimizer.param_groups, peaks.values(), strict=True):
                group["lr"] = peak * _rate(step, plan.num_steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.advance(1, note=f"{losses[-1]:.4f} nats")
            shutdown.check()
    return losses


@contextmanager
def as_in_the_file(model: Any, roundings: Mapping[str, Round]) -> Iterator[None]:
    """The model with its weights rounded once, as the file holds them."""
    parameters = dict(model.named_parameters())
    with _Latent(
        {parameters[name]: function for name, function in roundings.items()}
    ).as_in_the_file(refresh=True):
        yield


class _Latent:
    """Swaps latent weights and rounded ones; a tied weight is one parameter, and so one weight in both places."""

    def __init__(self, rounded: Mapping[Any, Round]):
        self._rounded = rounded
        self._error: dict[Any, Tensor] = {}

    def rms_error(self, parameter: Any) -> float:
        """Root mean square of what rounding does to this weight."""
        return float(
            (self._rounded[parameter](parameter.data) - parameter.data).square().mean().sqrt()
        )

    @contextmanager
    def as_in_the_file(self, *, refresh: bool) -> Iterator[None]:
        kept = [(p, p.data) for p in self._rounded]
        try:
            for parameter, function in self._rounded.items():
                if refresh or parameter not in self._error:
                    values = function(parameter.data)
                    self._error[parameter] = values - parameter.data
                parameter.data = parameter.data + self._error[parameter]
            yield
        finally:
            for parameter, data in kept:
                parameter.data = data


def _pool(
    model: Any, sequences: Sequence[TokenSequence], pad_id: int, num_steps: int
) -> tuple[list[TokenSequence], list[Tensor]]:
    """The samples that are learnt from, no more than the steps will see, and the hidden states [T, H] of the 16-bit student at
    their answer tokens."""
    pool: list[TokenSequence] = []
    room = min(POOL_VALUES // model.config.get_text_config().hidden_size, num_steps * BATCH_TOKENS)
    for s in sequences:
        if room < s.num_answer_tokens and pool:
            break
        room -= s.num_answer_tokens
        pool.append(s)
    hidden: dict[int, Tensor] = {}
    for batch in batches_by_length([len(s.ids) for s in pool], BATCH_TOKENS):
        states = answer_hidden_states(model, [pool[i] for i in batch], pad_id)
        hidden |= {i: _compact(h.cpu()) for i, h in zip(batch, states, strict=True)}
    return pool, [hidden[i] for i in range(len(pool))]


def _compact(hidden_TH: Tensor) -> Tensor:
    """In float16, whose rounding is far below what is to be won back; as they are where a number is too large for it."""
    half_TH = hidden_TH.half()
    return half_TH if half_TH.isfinite().all() else hidden_TH


def _batches(pool: Sequence[TokenSequence], seed: int) -> Iterator[list[int]]:
    """Numbers of samples, about BATCH_TOKENS together, pass after pass without end."""
    epoch = 0
    while True:
        order = list(range(len(pool)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        batch: list[int] = []
        longest = 0
        for i in order:
            longest = max(longest, len(pool[i].ids))
            if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
                yield batch
                batch, longest = [], len(pool[i].ids)
            batch.append(i)
        yield batch
        epoch += 1


def _rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then cosine to 0."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
