"""Laws of the divergences: the formulas written plainly, and what each must be whatever its own."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import divergences
from distill.losses.divergences import divergence_by_name
from distill.recipe.sections import Divergence

SETTINGS = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jsd", {"beta": 0.0}),
    ("jsd", {"beta": 0.5}),
    ("jsd", {"beta": 0.9}),
    ("jsd", {"beta": 1.0}),
    ("jsd_normalised", {"beta": 0.01}),
    ("jsd_normalised", {"beta": 0.7}),
    ("skew_kl", {"alpha": 0.1}),
    ("skew_kl", {"alpha": 0.8}),
    ("skew_reverse_kl", {"alpha": 0.1}),
    ("skew_reverse_kl", {"alpha": 0.8}),
    ("adaptive_kl", {"alpha": 0.5}),
    ("total_variation", {}),
]
every_divergence = pytest.mark.parametrize(("name", "parameters"), SETTINGS)
NAMES = sorted({name for name, _ in SETTINGS})


def random_logp(
    seed: int, *shape: int, spread: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread)
        .log_softmax(-1)
        .to(dtype)
    )


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a * (a.log() - b.log())).sum(-1)


def plain(name: str, parameters: dict[str, float], q: Tensor, p: Tensor) -> Tensor:
    """The table of formulas, on probabilities and without any care for numbers."""
    beta, alpha = parameters.get("beta", 0.0), parameters.get("alpha", 0.0)
    if name == "forward_kl" or (name == "jsd" and beta == 0):
        return kl(p, q)
    if name == "reverse_kl" or (name == "jsd" and beta == 1):
        return kl(q, p)
    if name in ("jsd", "jsd_normalised"):
        m = beta * p + (1 - beta) * q
        value = beta * kl(p, m) + (1 - beta) * kl(q, m)
        return value if name == "jsd" else value / (beta * (1 - beta))
    if name == "skew_kl":
        return kl(p, alpha * p + (1 - alpha) * q)
    if name == "skew_reverse_kl":
        return kl(q, (1 - alpha) * p + alpha * q.detach())
    if name == "total_variation":
        return 0.5 * (p - q).abs().sum(-1)
    losses = []
    for p_V, q_V in zip(p, q, strict=True):  # adaptive_kl
        order = p_V.argsort()
        is_tail = torch.zeros_like(p_V, dtype=torch.bool)
        is_tail[order] = p_V[order].cumsum(-1) <= alpha
        gap = (p_V - q_V).abs().detach()
        head, tail = gap[~is_tail].sum(), gap[is_tail].sum()
        losses.append((head * kl(p_V, q_V) + tail * kl(q_V, p_V)) / (head + tail))
    return torch.stack(losses)


@every_divergence
def test_value_and_gradient_equal_the_plain_formula(
    name: str, parameters: dict[str, float]
) -> None:
    teacher_logp = random_logp(1, 6, 9)
    logits = random_logp(2, 6, 9).requires_grad_()
    found = divergence_by_name(name, **parameters)(logits.log_softmax(-1), teacher_logp)
    expected = plain(name, parameters, logits.softmax(-1), teacher_logp.exp())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    (found_grad,) = torch.autograd.grad(found.sum(), logits)
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-8, atol=1e-11)


def test_forward_kl_is_torchs_kl_div_with_gradient_q_minus_p() -> None:
    teacher_logp = random_logp(1, 6, 9)
    logits = random_logp(2, 6, 9).requires_grad_()
    found = divergences.forward_kl(logits.log_softmax(-1), teacher_logp)
    expected = F.kl_div(
        logits.log_softmax(-1), teacher_logp, reduction="none", log_target=True
    ).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    found.sum().backward()
    torch.testing.assert_close(
        logits.grad, logits.detach().softmax(-1) - teacher_logp.exp(), rtol=1e-12, atol=1e-14
    )


# The other two hold parts of themselves fixed on purpose: their gradient is not their value's.
@pytest.mark.parametrize(
    ("name", "parameters"), [s for s in SETTINGS if s[0] not in ("skew_reverse_kl", "adaptive_kl")]
)
def test_gradcheck(name: str, parameters: dict[str, float]) -> None:
    divergence, teacher_logp = divergence_by_name(name, **parameters), random_logp(1, 3, 5)
    logits = random_logp(2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(z.log_softmax(-1), teacher_logp), logits)


@pytest.mark.parametrize("name", ["skew_reverse_kl", "adaptive_kl"])
def test_gradient_is_the_slope_of_the_formula_with_its_fixed_part_held(name: str) -> None:
    """By central differences.

    For skew_reverse_kl the q inside the mixture stays, for adaptive_kl the two gaps.
    """
    teacher, start = random_logp(1, 3, 5).exp(), random_logp(2, 3, 5)
    fixed = start.softmax(-1)
    order = teacher.argsort(-1)
    is_tail = torch.zeros_like(teacher).scatter(
        -1, order, (teacher.gather(-1, order).cumsum(-1) <= 0.4).double()
    )
    gap = (teacher - fixed).abs()

    def held(logits: Tensor) -> Tensor:
        q = logits.softmax(-1)
        if name == "skew_reverse_kl":
            return kl(q, 0.6 * teacher + 0.4 * fixed).sum()
        head, tail = ((gap * part).sum(-1) for part in (1 - is_tail, is_tail))
        return ((head * kl(teacher, q) + tail * kl(q, teacher)) / (head + tail)).sum()

    logits, step = start.clone().requires_grad_(), 1e-5
    loss_N = divergence_by_name(name, alpha=0.4)(logits.log_softmax(-1), teacher.log())
    (found,) = torch.autograd.grad(loss_N.sum(), logits)
    shifts = step * torch.eye(start.numel(), dtype=torch.float64).view(-1, *start.shape)
    slopes = torch.stack(
        [(held(start + shift) - held(start - shift)) / (2 * step) for shift in shifts]
    )
    torch.testing.assert_close(found, slopes.view(start.shape), rtol=1e-6, atol=1e-8)


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_negative_zero_for_equals_and_not_for_a_teacher_one_token_late(
    name: str, parameters: dict[str, float], dtype: torch.dtype
) -> None:
    divergence = divergence_by_name(name, **parameters)
    rounding = 100 * torch.finfo(dtype).eps
    for seed, spread in enumerate((0.1, 1.0, 4.0, 12.0)):
        teacher_logp = random_logp(seed, 64, 50, spread=spread, dtype=dtype)
        student_logp = random_logp(seed + 100, 64, 50, spread=spread, dtype=dtype)
        assert divergence(student_logp, teacher_logp).min() >= -rounding
        assert divergence(teacher_logp, teacher_logp).abs().max() <= rounding
        assert divergence(teacher_logp, teacher_logp.roll(1, 0)).min() > 1e-5


@every_divergence
def test_a_copied_student_gets_no_gradient_and_no_nan(
    name: str, parameters: dict[str, float]
) -> None:
    logits = random_logp(3, 8, 20, dtype=torch.float32).requires_grad_()
    student_logp = logits.log_softmax(-1)
    loss_N = divergence_by_name(name, **parameters)(student_logp, student_logp.detach())
    (gradient,) = torch.autograd.grad(loss_N.sum(), logits)
    assert loss_N.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6  # nan fails, too


def test_forward_kl_of_equals_is_exactly_zero() -> None:
    logp = random_logp(3, 8, 20, dtype=torch.float32)
    assert (divergences.forward_kl(logp, logp) == 0).all()
    assert (divergences.adaptive_kl(logp, logp, 0.5) == 0).all()


@every_divergence
def test_ids_without_mass_on_either_side_change_nothing(
    name: str, parameters: dict[str, float]
) -> None:
    divergence = divergence_by_name(name, **parameters)
    teacher_logp, student_logp = random_logp(1, 6, 9), random_logp(2, 6, 9).requires_grad_()
    phantom = torch.full((6, 4), -math.inf, dtype=torch.float64)
    padded = torch.cat([student_logp.detach(), phantom], -1).requires_grad_()
    loss_N = divergence(student_logp, teacher_logp)
    padded_loss_N = divergence(padded, torch.cat([teacher_logp, phantom], -1))
    torch.testing.assert_close(padded_loss_N, loss_N, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(loss_N.sum(), student_logp)
    (padded_gradient,) = torch.autograd.grad(padded_loss_N.sum(), padded)
    torch.testing.assert_close(padded_gradient[:, :9], gradient, rtol=1e-12, atol=1e-14)
    assert (padded_gradient[:, 9:] == 0).all()


@every_divergence
def test_an_id_that_the_teacher_excludes_costs_only_where_it_must(
    name: str, parameters: dict[str, float]
) -> None:
    teacher_logp = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64).log()
    student_logp = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log().requires_grad_()
    loss_N = divergence_by_name(name, **parameters)(student_logp, teacher_logp)
    infinite = name in ("reverse_kl", "adaptive_kl") or parameters.get("beta") == 1
    assert loss_N.item() == math.inf if infinite else math.isfinite(loss_N.item())
    if not infinite:
        (gradient,) = torch.autograd.grad(loss_N.sum(), student_logp)
        assert gradient.isfinite().all()


@every_divergence
def test_float32_stays_finite_and_near_float64_for_extreme_logits(
    name: str, parameters: dict[str, float]
) -> None:
    divergence = divergence_by_name(name, **parameters)
    teacher_logp, student_logp = (
        random_logp(1, 32, 50, spread=40.0),
        random_logp(2, 32, 50, spread=40.0),
    )
    exact = divergence(student_logp, teacher_logp)
    single = student_logp.float().requires_grad_()
    found = divergence(single, teacher_logp.float())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), single)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_jsd_is_continuous_at_both_ends(dtype: torch.dtype) -> None:
    # In float32, too: a mixture taken by logaddexp alone would be off by 0.1 here.
    tolerance = 1e-4
    teacher_logp, student_logp = (
        random_logp(seed, 16, 200, spread=1.0, dtype=dtype) for seed in (1, 2)
    )
    near_0 = divergences.jsd_normalised(student_logp, teacher_logp, 1e-6)
    near_1 = divergences.jsd_normalised(student_logp, teacher_logp, 1 - 1e-6)
    forward, reverse = (
        f(student_logp, teacher_logp) for f in (divergences.forward_kl, divergences.reverse_kl)
    )
    torch.testing.assert_close(near_0, forward, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(near_1, reverse, rtol=tolerance, atol=tolerance)
    assert torch.equal(divergences.jsd_normalised(student_logp, teacher_logp, 0), forward)
    assert torch.equal(divergences.jsd_normalised(student_logp, teacher_logp, 1), reverse)


def test_parameters_that_learn_nothing_are_refused() -> None:
    logp = random_logp(1, 2, 3)
    for beta in (1e-6, 0.01, 0.0499, 0.9501, 0.99, 1 - 1e-6):
        with pytest.raises(RecipeError, match=f"train.beta {beta} .* use jsd_normalised"):
            divergences.jsd(logp, logp, beta)
    for beta in (0, 0.05, 0.95, 1):
        divergences.jsd(logp, logp, beta)
    for name, parameters in [
        ("jsd", {"beta": -0.1}),
        ("jsd_normalised", {"beta": 1.1}),
        ("skew_kl", {"alpha": 1.0}),
        ("skew_reverse_kl", {"alpha": -0.1}),
        ("adaptive_kl", {"alpha": 2.0}),
    ]:
        with pytest.raises(RecipeError, match="outside"):
            divergence_by_name(name, **parameters)(logp, logp)


def test_names_are_the_recipes_and_a_wrong_one_names_the_nearest() -> None:
    assert sorted(get_args(Divergence)) == NAMES
    for name in NAMES:
        assert divergence_by_name(name, beta=0.5, alpha=0.5)(
            random_logp(1, 2, 3), random_logp(2, 2, 3)
        ).shape == (2,)
    with pytest.raises(RecipeError, match="did you mean forward_kl"):
        divergence_by_name("foward_kl")
    with pytest.raises(RecipeError, match="beta is missing"):
        divergence_by_name("jsd", alpha=0.1)
    with pytest.raises(RecipeError, match="alpha is missing"):
        divergence_by_name("skew_kl", beta=0.1)
