"""What each divergence is on each signal, as `estimates.py` says it: proven by counting out.

All sets of three draws from four ids are listed with their probabilities, independent ones and
stratified ones (as `signals/draws.py` draws), so that a mean over them is exact.
"""

import itertools
from typing import Any, get_args

import pytest
import torch
from loss_helpers import DIVERGENCES, randn, top_k, with_log_probs
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import estimates
from distill.losses.divergences import divergence_by_name
from distill.losses.estimates import estimate_of, signal_problem
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets
from distill.recipe.sections import Divergence

TEACHER_V = torch.tensor([0.5, 0.27, 0.2, 0.03], dtype=torch.float64).log()
STUDENT_V = torch.tensor([0.2, 0.15, 0.05, 0.6], dtype=torch.float64).log()
NUM_DRAWS = 3
UNBIASED = [("forward_kl", {}), ("skew_kl", {"alpha": 0.1}), ("skew_kl", {"alpha": 0.8})]
LOWER_BOUNDS = [d for d in DIVERGENCES if d[0] != "adaptive_kl"]
both_ways = pytest.mark.parametrize("stratified", [False, True])


def all_draws(stratified: bool, label: int = 0) -> tuple[SampledTargets, Tensor]:
    """Every outcome of the draws, with log-probs, a row each; and the outcomes' probabilities."""
    ends = [0.0, *TEACHER_V.exp().cumsum(0).tolist()]
    strata = []
    for j in range(NUM_DRAWS):
        low, high = (j / NUM_DRAWS, (j + 1) / NUM_DRAWS) if stratified else (0.0, 1.0)
        overlaps = [max(0.0, min(b, high) - max(a, low)) for a, b in itertools.pairwise(ends)]
        strata.append([(i, o / (high - low)) for i, o in enumerate(overlaps) if o > 1e-12])
    outcomes = list(itertools.product(*strata))
    ids_NK = torch.full((len(outcomes), NUM_DRAWS), -1)
    weights_NK = torch.zeros(len(outcomes), NUM_DRAWS, dtype=torch.float64)
    probability_N = torch.ones(len(outcomes), dtype=torch.float64)
    for n, outcome in enumerate(outcomes):
        drawn = [i for i, _ in outcome]
        for k, i in enumerate(sorted(set(drawn))):
            ids_NK[n, k] = i
            weights_NK[n, k] = drawn.count(i) / NUM_DRAWS
        for _, probability in outcome:
            probability_N[n] *= probability
    logp_NV = TEACHER_V.expand(len(outcomes), -1)
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    targets = SampledTargets(ids_NK, weights_NK, entropy_N)
    labels_N = torch.full((len(outcomes),), label)
    return with_log_probs(targets, logp_NV, labels_N), probability_N


def each(
    targets: Targets, student_V: Tensor, divergence: str, parameters: dict[str, float], **more: Any
) -> tuple[Tensor, Tensor]:
    """Return the loss [N] of each row and its gradient on the logits [N, V], through the head."""
    losses, gradients = [], []
    num_ids = len(student_V)
    for n in range(len(targets)):
        logits = student_V[None].clone().requires_grad_()
        loss, _ = linear_head_loss(
            logits,
            Head(torch.eye(num_ids, dtype=torch.float64)),
            torch.tensor([more.get("label", 0)]),
            targets[n : n + 1],
            soft_weight=1.0,
            hard_weight=0.0,
            divergence=divergence,
            divergence_parameters=parameters,
        )
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, logits)[0][0])
    return torch.stack(losses), torch.stack(gradients)


@both_ways
@pytest.mark.parametrize(("divergence", "parameters"), UNBIASED)
def test_what_is_called_unbiased_is_exact_on_average_over_all_draws(
    divergence: str, parameters: dict[str, float], stratified: bool
) -> None:
    targets, probability_N = all_draws(stratified)
    torch.testing.assert_close(probability_N.sum().item(), 1.0)
    losses_N, gradients_NV = each(targets, STUDENT_V, divergence, parameters)
    exact, exact_1V = each(DenseTargets(TEACHER_V[None]), STUDENT_V, divergence, parameters)
    torch.testing.assert_close(probability_N @ losses_N, exact[0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(probability_N @ gradients_NV, exact_1V[0], rtol=1e-12, atol=1e-13)
    assert (gradients_NV - exact_1V).abs().max() > 0.01, "a set of draws is not exact"


@both_ways
@pytest.mark.parametrize(("divergence", "parameters"), UNBIASED)
def test_for_equals_it_is_zero_on_average_and_within_the_stated_noise(
    divergence: str, parameters: dict[str, float], stratified: bool
) -> None:
    targets, probability_N = all_draws(stratified)
    losses_N, gradients_NV = each(targets, TEACHER_V, divergence, parameters)
    torch.testing.assert_close((probability_N @ losses_N).item(), 0.0, rtol=0, atol=1e-14)
    assert (probability_N @ gradients_NV).abs().max() < 1e-14
    shares_NV = torch.zeros_like(gradients_NV).scatter_add(
        1, targets.ids_NK.clamp(min=0), targets.weights_NK
    )
    factor = 1 - parameters.get("alpha", 0.0)
    torch.testing.assert_close(gradients_NV, factor * (TEACHER_V.exp() - shares_NV))
    mean_square = probability_N @ gradients_NV.square().sum(-1)
    assert 1e-3 < mean_square <= factor**2 / NUM_DRAWS
    if divergence == "skew_kl":
        assert losses_N.abs().max() < 1e-14, "its value is 0 whatever is drawn"


@pytest.mark.parametrize("label", [0, 3])
@pytest.mark.parametrize(("divergence", "parameters"), LOWER_BOUNDS)
def test_a_bucket_is_never_above_the_exact_divergence_whatever_is_drawn(
    divergence: str, parameters: dict[str, float], label: int
) -> None:
    if estimate_of(divergence, "sampled", draw_log_probs=True) != "bucket":
        return
    targets, _ = all_draws(stratified=False, label=label)
    largest_gap = 0.0
    for student_V in (STUDENT_V, *randn(5, 3, 4).log_softmax(-1)):
        losses_N, _ = each(targets, student_V, divergence, parameters, label=label)
        exact, _ = each(DenseTargets(TEACHER_V[None]), student_V, divergence, parameters)
        assert (losses_N <= exact + 1e-12).all()
        largest_gap = max(largest_gap, (exact - losses_N).max().item())
    assert largest_gap > 1e-3, "and mostly below"


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_what_a_bucket_lacks_is_the_divergence_within_it(divergence: str) -> None:
    teacher_V, student_V = (randn(seed, 9).log_softmax(-1) for seed in (1, 2))
    kept = top_k(teacher_V[None], 4)
    loss, gradient = each(kept, student_V, divergence, {})
    exact, exact_gradient = each(DenseTargets(teacher_V[None]), student_V, divergence, {})
    logits = student_V.clone().requires_grad_()
    rest = [i for i in range(9) if i not in kept.ids_NK[0]]
    logq, logp = logits.log_softmax(-1)[rest], teacher_V[rest]
    mass = (logp if divergence == "forward_kl" else logq).exp().sum()
    within = divergence_by_name(divergence)(logq.log_softmax(-1), logp.log_softmax(-1))
    (lacking,) = torch.autograd.grad(mass * within, logits)
    torch.testing.assert_close(loss[0] + (mass * within).detach(), exact[0])
    torch.testing.assert_close(gradient[0] + lacking, exact_gradient[0])
    assert lacking.abs().max() > 0.01


def test_the_sum_over_the_kept_ids_alone_would_move_a_student_that_equals_its_teacher() -> None:
    logits = TEACHER_V.clone().requires_grad_()
    logq_K = logits.log_softmax(-1)[:2]
    truncated = (logq_K.exp() * (logq_K - TEACHER_V[:2])).sum()
    (gradient,) = torch.autograd.grad(truncated, logits)
    assert gradient[:2].min() > 0.03 and gradient[2:].max() < -0.005, "mass is driven out"
    _, with_bucket = each(top_k(TEACHER_V[None], 2), TEACHER_V, "reverse_kl", {})
    assert with_bucket.abs().max() < 1e-14


@both_ways
def test_counts_in_place_of_log_probs_would_take_the_tail_from_a_student_that_equals_its_teacher(
    stratified: bool,
) -> None:
    targets, probability_N = all_draws(stratified)
    logits_NV = TEACHER_V.repeat(len(targets), 1).requires_grad_()
    logq_NK = logits_NV.log_softmax(-1).gather(1, targets.ids_NK.clamp(min=0))
    shares_NK = targets.weights_NK
    mixture_NK = 0.1 * shares_NK + 0.9 * logq_NK.exp()
    loss_N = -(shares_NK * mixture_NK.log()).sum(-1)
    (gradients_NV,) = torch.autograd.grad(loss_N.sum(), logits_NV)
    mean_V = probability_N @ gradients_NV
    assert mean_V[3] > 0.003, "a step down this gradient lowers the rarest id, a tenth of it"


@pytest.mark.parametrize("draw_log_probs", [False, True])
@pytest.mark.parametrize(("divergence", "parameters"), DIVERGENCES)
def test_the_loss_takes_and_refuses_what_the_table_says(
    divergence: str, parameters: dict[str, float], draw_log_probs: bool
) -> None:
    scored, _ = all_draws(stratified=True)
    sampled = scored if draw_log_probs else SampledTargets(scored.ids_NK, scored.weights_NK)
    estimate = estimate_of(divergence, "sampled", draw_log_probs=draw_log_probs)
    problem = signal_problem(
        "train.divergence", divergence, "sampled", draw_log_probs=draw_log_probs
    )
    assert (estimate is None) == (problem is not None)
    if problem is None:
        each(sampled, STUDENT_V, divergence, parameters)
        return
    with pytest.raises(RecipeError, match=r"set capture.draw_log_probs to true, capture.signal to"):
        each(sampled, STUDENT_V, divergence, parameters)


def test_the_table_in_the_text_is_the_one_that_is_used() -> None:
    names = set(get_args(Divergence))
    rows = [line.split() for line in (estimates.__doc__ or "").splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 5 and row[0] in names}
    table |= {n: ["exact", "bucket", "bucket", "refused"] for n in names - table.keys()}
    assert "  all others       exact   bucket   bucket                    refused" in (
        estimates.__doc__ or ""
    )
    assert table.keys() == names and len(rows) > 40
    for name, row in table.items():
        found = [
            estimate_of(name, "dense"),
            estimate_of(name, "top_k"),
            estimate_of(name, "sampled", draw_log_probs=True),
            estimate_of(name, "sampled"),
        ]
        assert [estimate or "refused" for estimate in found] == row, name


def test_a_token_that_the_teacher_excludes_stays_in_the_bucket() -> None:
    logp_1V = torch.tensor([[0.6, 0.4, 0.0, 0.0]], dtype=torch.float64).log()
    drawn = SampledTargets(torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.4]]).double())
    support = with_log_probs(drawn, logp_1V, torch.tensor([2])).support(torch.tensor([2]))
    assert isinstance(support, TopKTargets) and support.ids_NK.tolist() == [[0, 1, -1]]
    assert support.tail_logp_N.isneginf().all()
    losses, gradients = each(support, STUDENT_V, "reverse_kl", {})
    assert losses.isfinite().all() and gradients.isfinite().all()
