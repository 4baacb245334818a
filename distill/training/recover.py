"""Quantization-aware distillation: the student learns to be itself with rounded weights.

Each step runs the model with every weight as the file will hold it, takes the gradient there, and
applies it to the latent weights that are rounded next (straight-through: Bengio et al. 2013, arXiv
1308.3432). The loss is the KL divergence from the 16-bit student's own distribution at the answer
tokens of stored samples: cross-entropy to their text would move the student away from itself.
Weights are rounded by the very code that writes the file, so nothing is lost at export.

T: answer tokens of a sample, H: the student's hidden width, V: the ids that its tokenizer has.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distill.core import shutdown
from distill.core.processes import launched_rank
from distill.core.progress import Progress
from distill.errors import TrainingError
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import HeadTargets
from distill.models.batching import batches_by_length
from distill.models.head import head_of
from distill.models.score import TokenSequence, answer_hidden_states
from distill.training.batches import Batch, collate
from distill.training.schedule import learning_rate

Round = Callable[[Tensor], Tensor]  # a latent weight to the one that the file will hold

BATCH_TOKENS = 2048
POOL_VALUES = 256 << 20  # numbers of the 16-bit student's hidden states, 16 bits each: 512 MiB
# Steps between roundings; meanwhile the rounding error stays (half the time, little lost).
REFRESH_EVERY = 4
WARMUP_SHARE = 0.05
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class RecoveryPlan:
    """How long and how fast to train; `seed` orders the samples.

    learning_rate: the peak, as a share of what rounding does to each tensor (root mean square).
    AdamW moves a weight by about its learning rate a step, and a weight must move as far as the
    grid is coarse before it is rounded otherwise: one number for every format, every tensor and
    every size of model.
    """

    num_steps: int
    learning_rate: float
    seed: int

    def rate_share(self, step: int) -> float:
        """Return the share of the peak that `step` has."""
        return learning_rate(1.0, step, self.num_steps, warmup_share=WARMUP_SHARE)


def recover(
    model: Any,
    sequences: Sequence[TokenSequence],
    roundings: Mapping[str, Round],
    plan: RecoveryPlan,
    *,
    pad_id: int,
    vocab_size: int,
    label: str,
) -> list[float]:
    """Train the float32 `model` in place; return the loss of each step, nats a token.

    Afterwards the model holds the latent weights. `roundings`: by parameter name. Samples are used
    from the first on, as many as their hidden states fit in 512 MiB. Nothing is saved on the way: a
    run that is killed begins this anew, and ends alike. Raises TrainingError where the loss is not
    finite.
    """
    head = head_of(model)
    pool = SamplePool(model, sequences, head, plan.num_steps, pad_id=pad_id, vocab_size=vocab_size)
    rounded = _train_only(model, roundings)
    latent = _LatentWeights(rounded)
    peaks = {p: plan.learning_rate * latent.rms_error(p) for p in rounded}
    groups = [{"params": [p]} for p in peaks]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    losses = []
    with Progress(label, plan.num_steps, "steps", shown=launched_rank() == 0) as bar:
        for step, batch in zip(range(plan.num_steps), pool.batches(plan.seed), strict=False):
            with latent.rounded(refresh=step % REFRESH_EVERY == 0):
                loss_sum, num_tokens = _loss_sum(model, head, pool, batch, vocab_size)
                (loss_sum / num_tokens).backward()
            losses.append(float(loss_sum.detach()) / num_tokens)
            norm = float(torch.nn.utils.clip_grad_norm_(rounded, MAX_GRAD_NORM))
            _require_finite(label, step, losses[-1], norm)
            for group, peak in zip(optimizer.param_groups, peaks.values(), strict=True):
                group["lr"] = peak * plan.rate_share(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.advance(1, note=f"{losses[-1]:.4f} nats")
            shutdown.check()
    return losses


@contextmanager
def with_rounded_weights(model: Any, roundings: Mapping[str, Round]) -> Iterator[None]:
    """Round the model's weights once, as the file holds them, within the block."""
    with _LatentWeights(_by_parameter(model, roundings)).rounded(refresh=True):
        yield


class SamplePool:
    """The samples that are learnt from, and what the 16-bit student predicts for them.

    No more samples than the steps will see. hidden: [T, H] a sample, at its answer tokens. head:
    a copy of the student's, cut to the rows of V ids, which stays when that is trained.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequence[TokenSequence],
        head: Head,
        num_steps: int,
        *,
        pad_id: int,
        vocab_size: int,
    ) -> None:
        self.pad_id = pad_id
        weight_VH = head.weight.detach()[:vocab_size].clone()
        bias_V = None if head.bias is None else head.bias.detach()[:vocab_size].clone()
        self.head = replace(head, weight=weight_VH, bias=bias_V)
        width = model.config.get_text_config().hidden_size
        num_tokens = min(POOL_VALUES // width, num_steps * BATCH_TOKENS)
        self.samples = _first_samples(sequences, num_tokens)
        hidden: dict[int, Tensor] = {}
        lengths = [len(s.ids) for s in self.samples]
        for batch in batches_by_length(lengths, BATCH_TOKENS):
            states = answer_hidden_states(model, [self.samples[i] for i in batch], pad_id)
            for i, hidden_TH in zip(batch, states, strict=True):
                hidden[i] = _compact(hidden_TH.cpu())
        self.hidden = [hidden[i] for i in range(len(self.samples))]

    def rows(self, batch: Sequence[int]) -> Batch:
        """Return the samples of these numbers, a row each."""
        samples = [self.samples[i] for i in batch]
        return collate([[(s.ids, s.answer_start)] for s in samples], self.pad_id)

    def targets(self, batch: Sequence[int]) -> HeadTargets:
        """Return what the 16-bit student predicts at their answer tokens."""
        hidden_NH = torch.cat([self.hidden[i] for i in batch])
        return HeadTargets(hidden_NH.to(self.head.weight.device, torch.float32), self.head)

    def batches(self, seed: int) -> Iterator[list[int]]:
        """Yield numbers of samples, about BATCH_TOKENS together, pass after pass without end."""
        epoch = 0
        while True:
            order = list(range(len(self.samples)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            yield from self._batches_in(order)
            epoch += 1

    def _batches_in(self, order: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        longest = 0
        for i in order:
            length = len(self.samples[i].ids)
            longest = max(longest, length)
            if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
                yield batch
                batch = []
                longest = length
            batch.append(i)
        yield batch


def _first_samples(sequences: Sequence[TokenSequence], num_tokens: int) -> list[TokenSequence]:
    """Return the first sequences whose answers have `num_tokens` together; one at least."""
    samples: list[TokenSequence] = []
    for sequence in sequences:
        if num_tokens < sequence.num_answer_tokens and samples:
            break
        num_tokens -= sequence.num_answer_tokens
        samples.append(sequence)
    return samples


def _compact(hidden_TH: Tensor) -> Tensor:
    """Return the states in float16, or as they are where a number is too large for it.

    Its rounding is far below what is to be won back.
    """
    half_TH = hidden_TH.half()
    return half_TH if half_TH.isfinite().all() else hidden_TH


def _loss_sum(
    model: Any, head: Head, pool: SamplePool, batch: list[int], vocab_size: int
) -> tuple[Tensor, int]:
    """Return (KL divergence from the 16-bit student, summed over answer tokens; their number)."""
    rows = pool.rows(batch).to(model.device)
    hidden_BTH = model.base_model(
        input_ids=rows.input_ids_BT, position_ids=rows.position_ids_BT, use_cache=False
    ).last_hidden_state
    loss_sum, _ = linear_head_loss(
        hidden_BTH.flatten(0, 1)[rows.positions_N],
        head,
        rows.labels_N,
        pool.targets(batch),
        soft_weight=1.0,
        hard_weight=0.0,
        vocab_size=vocab_size,
    )
    return loss_sum, len(rows.labels_N)


def _require_finite(label: str, step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise TrainingError(
        f"{label}, step {step + 1}: loss {loss}, gradient norm {norm}: not finite; "
        "lower quantize.recover_learning_rate"
    )


class _LatentWeights:
    """Swaps latent weights and rounded ones.

    A tied weight is one parameter, and so one weight in both places.
    """

    def __init__(self, roundings: Mapping[Any, Round]):
        self._roundings = roundings
        self._error: dict[Any, Tensor] = {}

    def rms_error(self, parameter: Any) -> float:
        """Return the root mean square of what rounding does to this weight."""
        error = self._roundings[parameter](parameter.data) - parameter.data
        return float(error.square().mean().sqrt())

    @contextmanager
    def rounded(self, *, refresh: bool) -> Iterator[None]:
        """Put rounded weights in place of the latent ones within the block.

        refresh: round anew; else add the rounding error of the last time.
        """
        latent = [(parameter, parameter.data) for parameter in self._roundings]
        try:
            for parameter, function in self._roundings.items():
                if refresh or parameter not in self._error:
                    self._error[parameter] = function(parameter.data) - parameter.data
                parameter.data = parameter.data + self._error[parameter]
            yield
        finally:
            for parameter, data in latent:
                parameter.data = data


def _by_parameter(model: Any, roundings: Mapping[str, Round]) -> dict[Any, Round]:
    parameters = dict(model.named_parameters())
    return {parameters[name]: function for name, function in roundings.items()}


def _train_only(model: Any, roundings: Mapping[str, Round]) -> dict[Any, Round]:
    """Freeze the parameters that are not rounded; return the roundings of the others.

    What is not rounded stays as it is, and its gradient clips nothing.
    """
    rounded = _by_parameter(model, roundings)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in rounded)
    return rounded
