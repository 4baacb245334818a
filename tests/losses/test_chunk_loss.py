"""What each kind of target means to the loss: draws, top-k with its bucket, distributions."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_helpers import (
    DIVERGENCES,
    NUM_TOKENS,
    VOCAB,
    ZERO_CASES,
    inputs,
    sampled,
    targets_of,
    teacher_logp,
    top_k,
)
from torch import Tensor

from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets


# Not of what draws estimate: see test_estimates.py.
@pytest.mark.parametrize(("kind", "divergence", "parameters"), ZERO_CASES)
def test_own_teacher_costs_nothing_and_one_that_is_a_token_late_does(
    kind: str, divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels = inputs()
    own_logp = (hidden @ weight.T).log_softmax(-1).detach()
    options: dict[str, Any] = {"divergence": divergence, "divergence_parameters": parameters}
    for logp, low, high in ((own_logp, -1e-12, 1e-12), (own_logp.roll(1, 0), 1.0, math.inf)):
        loss, parts = linear_head_loss(
            hidden,
            Head(weight),
            labels,
            targets_of(kind, logp),
            soft_weight=1.0,
            hard_weight=0.0,
            **options,
        )
        assert low <= parts["soft"].item() <= high
        if (
            divergence != "total_variation"
        ):  # |p − q| has a kink at equals: there rounding alone chooses the sign
            (gradient,) = torch.autograd.grad(loss, hidden)
            assert bool(gradient.abs().max() < 1e-10) == (high < 1)


def test_a_tail_bucket_is_never_above_dense_and_rises_to_it() -> None:
    hidden, weight, labels = inputs()
    logp = teacher_logp()

    def each_token(targets: Targets) -> list[float]:
        return [
            linear_head_loss(
                hidden[n : n + 1],
                Head(weight),
                labels[n : n + 1],
                targets[n : n + 1],
                soft_weight=1.0,
                hard_weight=0.0,
            )[0].item()
            for n in range(NUM_TOKENS)
        ]

    rows = [each_token(top_k(logp, k)) for k in (1, 3, 8, VOCAB - 1)] + [
        each_token(DenseTargets(logp))
    ]
    for coarser, finer in itertools.pairwise(rows):
        assert all(a <= b + 1e-12 for a, b in zip(coarser, finer, strict=True))
    assert rows[-2] == pytest.approx(rows[-1])  # one id in the bucket: all of them are known
    assert sum(rows[0]) < 0.9 * sum(rows[-1])


def test_draws_have_the_dense_gradient_and_divergence_on_average() -> None:
    logp_1V = teacher_logp(1, 12)
    copies = 20_000
    targets = sampled(logp_1V.expand(copies, -1), num_draws=50)
    hidden, weight, _ = inputs()
    hidden_1H, weight = hidden[:1].detach(), weight[:12].detach()
    labels = torch.zeros(copies, dtype=torch.int64)

    def gradient(targets: Targets, num: int) -> tuple[Tensor, Tensor]:
        hidden_NH = hidden_1H.repeat(num, 1).requires_grad_()
        loss, parts = linear_head_loss(
            hidden_NH, Head(weight), labels[:num], targets, soft_weight=1.0, hard_weight=0.0
        )
        return torch.autograd.grad(loss, hidden_NH)[0], parts["soft"] / num

    drawn_NH, drawn_kl = gradient(targets, copies)
    dense_1H, dense_kl = gradient(DenseTargets(logp_1V), 1)
    top = logp_1V.topk(4)
    biased_1H, _ = gradient(SampledTargets(top.indices, top.values.softmax(-1)), 1)
    standard_error_H = drawn_NH.std(0) / math.sqrt(copies)
    assert ((drawn_NH.mean(0) - dense_1H[0]).abs() < 5 * standard_error_H).all()
    assert drawn_kl.item() == pytest.approx(dense_kl.item(), abs=0.02)
    # the test can fail: the renormalised top 4, which keep most of the mass, are far outside
    assert ((biased_1H[0] - dense_1H[0]).abs() > 20 * standard_error_H).any()


@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_fillers_are_not_read(kind: str) -> None:
    hidden, weight, labels = inputs()
    targets = targets_of(kind, teacher_logp())
    assert isinstance(targets, SampledTargets | TopKTargets)
    ids = F.pad(targets.ids_NK, (0, 3), value=-1)
    if isinstance(targets, SampledTargets):
        filled = SampledTargets(
            ids, F.pad(targets.weights_NK, (0, 3), value=math.nan), targets.entropy_N
        )
    else:
        filled = TopKTargets(
            ids, F.pad(targets.logp_NK, (0, 3), value=math.nan), targets.tail_logp_N
        )
    results = []
    for each in (targets, filled):
        loss, _ = linear_head_loss(
            hidden, Head(weight), labels, each, soft_weight=0.7, hard_weight=0.4
        )
        results.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("divergence", "parameters"), DIVERGENCES)
def test_a_token_of_which_nothing_is_known_has_no_soft_loss(
    divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels = inputs()
    known = top_k(teacher_logp())
    ids, logp, tail = known.ids_NK.clone(), known.logp_NK.clone(), known.tail_logp_N.clone()
    ids[4:7], logp[4:7], tail[4:7] = -1, math.nan, 0.0

    def loss_of(
        targets: Targets | None, soft: float, hard: float, rows: slice | list[int]
    ) -> tuple[Tensor, ...]:
        loss, _ = linear_head_loss(
            hidden[rows],
            Head(weight),
            labels[rows],
            targets,
            soft_weight=soft,
            hard_weight=hard,
            divergence=divergence,
            divergence_parameters=parameters,
        )
        return loss, *torch.autograd.grad(loss, (hidden, weight))

    found = loss_of(TopKTargets(ids, logp, tail), 0.7, 0.4, slice(None))
    rest = [i for i in range(NUM_TOKENS) if not 4 <= i < 7]
    soft = loss_of(TopKTargets(ids[rest], logp[rest], tail[rest]), 0.7, 0.0, rest)
    hard = loss_of(None, 0.0, 0.4, slice(None))
    for both, only_soft, only_hard in zip(found, soft, hard, strict=True):
        torch.testing.assert_close(both, only_soft + only_hard, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("divergence", "parameters"), DIVERGENCES)
def test_a_vanishing_tail_stays_finite_in_float32(
    divergence: str, parameters: dict[str, float]
) -> None:
    hidden = torch.eye(2, dtype=torch.float32)
    weight = torch.zeros(VOCAB, 2).index_put(
        (torch.tensor([0, 1]),), torch.tensor([[300.0, 0.0], [0.0, 300.0]])
    )
    certain = TopKTargets(torch.tensor([[0], [0]]), torch.zeros(2, 1), torch.full((2,), -math.inf))
    unsure = TopKTargets(torch.tensor([[0], [0]]), torch.full((2, 1), -0.7), torch.full((2,), -0.7))
    for targets in (certain, unsure):
        tensors = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss, _ = linear_head_loss(
            tensors[0],
            Head(tensors[1]),
            torch.tensor([0, 0]),
            targets,
            soft_weight=1.0,
            hard_weight=0.0,
            divergence=divergence,
            divergence_parameters=parameters,
        )
        loss.backward()
        assert loss.isfinite()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)
