"""Stop tokens as one class: against plain sums over the class, for every signal and divergence."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_helpers import (
    CASES,
    HIDDEN,
    NUM_TOKENS,
    VOCAB,
    ZERO_CASES,
    inputs,
    labels,
    randn,
    scored,
    targets_of,
    teacher_logp,
    top_k,
)
from torch import Tensor

from distill.errors import MismatchError
from distill.losses.divergences import divergence_by_name
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets

STOPS = [4, 11, 17]
OTHERS = [i for i in range(VOCAB) if i not in STOPS]
every_case = pytest.mark.parametrize(("kind", "divergence", "parameters"), CASES)


def joined(logp_NV: Tensor) -> Tensor:
    """Log-probs [N, V'] of the other ids in order, then of the class."""
    return torch.cat([logp_NV[:, OTHERS], logp_NV[:, STOPS].logsumexp(-1, keepdim=True)], -1)


def parts_of(
    logits_NV: Tensor, targets: Targets, divergence: str, parameters: dict[str, float]
) -> Tensor:
    """The soft loss, plainly: whole distributions, and a loop over positions for stored ids."""
    compare = divergence_by_name(divergence, **parameters)
    logq_NV = logits_NV.log_softmax(-1)
    if isinstance(targets, DenseTargets):
        return compare(joined(logq_NV), joined(targets.logp_NV)).sum()
    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(logits_NV)):
        row: Any = targets[n : n + 1]
        if isinstance(row, SampledTargets) and divergence == "forward_kl":
            assert row.entropy_N is not None
            total = total + drawn(logq_NV[n], row) - row.entropy_N[0]
            continue
        support = row if isinstance(row, TopKTargets) else row.support(labels()[n : n + 1])
        ids, teacher = categories(logq_NV[n], support)
        student = [logq_NV[n][members].logsumexp(0) for members in ids]
        if isinstance(row, SampledTargets) and divergence == "skew_kl":
            total = total + skewed(row, ids, torch.stack(student), teacher, parameters["alpha"])
        else:
            total = total + compare(torch.stack(student), torch.stack(teacher))
    return total


def drawn(logq_V: Tensor, row: SampledTargets) -> Tensor:
    stop = logq_V[STOPS].logsumexp(0)
    pairs = [(i, w) for i, w in zip(row.ids_NK[0].tolist(), row.weights_NK[0], strict=True)]
    return -sum(w * (stop if i in STOPS else logq_V[i]) for i, w in pairs if i >= 0)  # pyright: ignore[reportReturnType]


def skewed(
    row: SampledTargets, ids: list[list[int]], student: Tensor, teacher: list[Tensor], alpha: float
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i, weight in zip(row.ids_NK[0].tolist(), row.weights_NK[0], strict=True):
        if i >= 0:
            (c,) = [c for c, members in enumerate(ids[:-1]) if i in members]
            mixture = alpha * teacher[c].exp() + (1 - alpha) * student[c].exp()
            total = total + weight * (teacher[c] - mixture.log())
    return total


def categories(logq_V: Tensor, support: TopKTargets) -> tuple[list[list[int]], list[Tensor]]:
    """The ids of each category, the bucket last, and the teacher's log-prob of each."""
    said = {
        i: logp
        for i, logp in zip(support.ids_NK[0].tolist(), support.logp_NK[0], strict=True)
        if i >= 0
    }
    tail = support.tail_logp_N[0].exp()
    stored = [i for i in said if i in STOPS]
    ids = [[i] for i in said if i not in STOPS]
    teacher = [said[i] for i in said if i not in STOPS]
    bucket = [i for i in range(VOCAB) if i not in said]
    if stored:
        q_V = logq_V.detach().exp()
        missing = [i for i in STOPS if i not in said]
        others = q_V[[i for i in bucket if i not in STOPS]].sum()
        part = torch.minimum(q_V[missing].sum(), (tail - others).clamp(min=0))
        if support.is_likeliest:
            part = min(part, len(missing) * min(said.values()).exp())
        ids.append(STOPS)
        teacher.append((sum(said[i].exp() for i in stored) + part).log())  # pyright: ignore[reportAttributeAccessIssue]
        tail = tail - part
        bucket = [i for i in bucket if i not in STOPS]
    return [*ids, bucket], [*teacher, tail.log()]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@every_case
def test_loss_and_gradient_are_those_of_the_plain_sums(
    kind: str, divergence: str, parameters: dict[str, float], temperature: float
) -> None:
    hidden, weight, labels_N = inputs()
    targets = targets_of(kind, teacher_logp())
    loss, parts = linear_head_loss(
        hidden,
        Head(weight),
        labels_N,
        targets,
        soft_weight=0.7,
        hard_weight=0.4,
        divergence=divergence,
        divergence_parameters=parameters,
        loss_temperature=temperature,
        chunk_size=5,
        stop_ids=STOPS,
    )
    logits = hidden @ weight.T
    hard = F.cross_entropy(logits, labels_N, reduction="sum")
    soft = parts_of(logits / temperature, targets, divergence, parameters)
    torch.testing.assert_close(parts["soft"], soft.detach(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(parts["hard"], hard.detach(), rtol=1e-9, atol=1e-10)
    found = torch.autograd.grad(loss, (hidden, weight))
    expected = torch.autograd.grad(0.7 * soft + 0.4 * hard, (hidden, weight))
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("kind", "divergence", "parameters"), ZERO_CASES)
def test_own_teacher_costs_nothing(
    kind: str, divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels_N = inputs()
    own_logp = (hidden @ weight.T).log_softmax(-1).detach()
    if kind == "top_k":
        targets = top_k(own_logp, 8)
        num_stored_N = torch.isin(targets.ids_NK, torch.tensor(STOPS)).sum(-1)
        assert set(num_stored_N.tolist()) >= {0, 1, 2}, "none, some and all of them stored"
    else:
        targets = targets_of(kind, own_logp)
    loss, parts = linear_head_loss(
        hidden,
        Head(weight),
        labels_N,
        targets,
        soft_weight=1.0,
        hard_weight=0.0,
        divergence=divergence,
        divergence_parameters=parameters,
        stop_ids=STOPS,
    )
    assert abs(parts["soft"].item()) < 1e-12
    if divergence != "total_variation":
        assert all(g.abs().max() < 1e-10 for g in torch.autograd.grad(loss, (hidden, weight)))


@every_case
def test_which_of_them_the_student_says_costs_nothing_and_without_the_class_much(
    kind: str, divergence: str, parameters: dict[str, float]
) -> None:
    """A student that ends with 11, or 17, where its teacher ends with 4, and is equal otherwise."""
    teacher = torch.full((NUM_TOKENS, VOCAB), -3.0, dtype=torch.float64)
    teacher[:, STOPS] = torch.tensor([4.0, -20.0, -20.0], dtype=torch.float64)
    teacher[:, 0] = 2.0
    student = teacher.clone()
    student[:, STOPS] = torch.tensor([-20.0, 4.0, -20.0], dtype=torch.float64)
    ends_N = torch.full((NUM_TOKENS,), STOPS[0])
    targets = targets_of(kind, teacher.log_softmax(-1), ends_N)

    def loss_of(logits_NV: Tensor, stop_ids: list[int]) -> tuple[float, Tensor]:
        logits_NV = logits_NV.clone().requires_grad_()
        loss, _ = linear_head_loss(
            logits_NV,
            Head(torch.eye(VOCAB, dtype=torch.float64)),
            ends_N,
            targets,
            soft_weight=1.0,
            hard_weight=0.0,
            divergence=divergence,
            divergence_parameters=parameters,
            stop_ids=stop_ids,
        )
        return loss.item() / NUM_TOKENS, torch.autograd.grad(loss, logits_NV)[0]

    same, apart = loss_of(teacher, [])[0], loss_of(student, [])[0]
    together, gradient = loss_of(student, STOPS)
    assert abs(together - loss_of(teacher, STOPS)[0]) < 1e-6
    assert apart > same + 0.02
    # which of draws is zero on average only, and total_variation has a kink there
    if (kind, divergence, parameters) in ZERO_CASES and divergence != "total_variation":
        assert gradient.abs().max() < 1e-6
    shares = student[:, STOPS].softmax(-1)
    torch.testing.assert_close(
        gradient[:, STOPS], gradient[:, STOPS].sum(-1, keepdim=True) * shares
    )


def test_draws_of_the_class_are_unbiased() -> None:
    """Every id drawn once, weighed by its probability: the mean over all draws."""
    hidden, weight, labels_N = inputs()
    logp = teacher_logp()
    exact = SampledTargets(torch.arange(VOCAB).expand(NUM_TOKENS, -1), logp.exp())
    results = []
    for targets in (exact, DenseTargets(logp)):
        loss, _ = linear_head_loss(
            hidden,
            Head(weight),
            labels_N,
            targets,
            soft_weight=1.0,
            hard_weight=0.0,
            stop_ids=STOPS,
        )
        results.append(torch.autograd.grad(loss, (hidden, weight)))
    for ours, dense in zip(*results, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", "scored"])
def test_fewer_than_two_change_no_bit_and_the_hard_part_alone_none_either(kind: str) -> None:
    hidden, weight, labels_N = inputs(torch.float32)
    targets = targets_of(kind, teacher_logp().float())

    def learnt(soft: float, stop_ids: list[int]) -> list[Tensor]:
        loss, _ = linear_head_loss(
            hidden,
            Head(weight),
            labels_N,
            targets if soft else None,
            soft_weight=soft,
            hard_weight=1.0,
            stop_ids=stop_ids,
        )
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    for found, expected in (
        (learnt(1.0, [3]), learnt(1.0, [])),
        (learnt(0.0, STOPS), learnt(0.0, [])),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", "scored"])
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_float32_stays_finite(kind: str, spread: float) -> None:
    hidden = (spread * randn(1, NUM_TOKENS, HIDDEN)).float().requires_grad_()
    weight = randn(2, VOCAB, HIDDEN).float().requires_grad_()
    logp = (spread * randn(3, NUM_TOKENS, VOCAB)).log_softmax(-1).float()
    targets = scored(logp, num_draws=3) if kind == "scored" else targets_of(kind, logp)
    for divergence in ("forward_kl", "skew_kl", "skew_reverse_kl", "reverse_kl"):
        if kind == "sampled" and divergence != "forward_kl":
            continue
        loss, _ = linear_head_loss(
            hidden,
            Head(weight),
            labels(),
            targets,
            soft_weight=1.0,
            hard_weight=0.1,
            divergence=divergence,
            divergence_parameters={"alpha": 0.1},
            stop_ids=STOPS,
        )
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_a_stop_token_twice_or_without_a_row_is_refused() -> None:
    hidden, weight, labels_N = inputs()
    for wrong in ([3, 3], [3, VOCAB], [-1, 3]):
        with pytest.raises(MismatchError, match="none may be outside the 20 shared ids, or twice"):
            linear_head_loss(
                hidden,
                Head(weight),
                labels_N,
                DenseTargets(teacher_logp()),
                soft_weight=1.0,
                hard_weight=0.0,
                stop_ids=wrong,
            )
