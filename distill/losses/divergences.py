"""Divergences between the student's distribution q and the teacher's p: a formula each, in nats.

Each takes `student_logp_NV` and `teacher_logp_NV`, log-probabilities of one dtype (float32 or
float64) that are normalised over the last axis, and returns `loss_N`, one number a token: no mask,
no mean, no temperature. 0·log 0 is 0, so an id that has no mass on either side (-inf on both) costs
nothing and gets a zero, never a NaN, gradient.

N: tokens, V: ids, or any other categories.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from distill.errors import RecipeError, did_you_mean
from distill.losses.parameters import parameter_problem

Divergence = Callable[[Tensor, Tensor], Tensor]
DrawsDivergence = Callable[[Tensor, Tensor, Tensor], Tensor]

ADAPTIVE_EPSILON = 1e-10  # a student equal to the teacher: 0/0 without it


def forward_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """Return KL(p ‖ q) = Σ p (log p − log q).

    Hinton et al. 2015, arXiv 1503.02531, up to the teacher's entropy.
    """
    return -(teacher_logp_NV.exp() * _log_ratio(student_logp_NV, teacher_logp_NV)).sum(-1)


def reverse_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """Return KL(q ‖ p) = Σ q (log q − log p), infinite where q > 0 = p.

    MiniLLM, arXiv 2306.08543.
    """
    return forward_kl(teacher_logp_NV, student_logp_NV)


def jsd(student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float) -> Tensor:
    """Return β KL(p ‖ m) + (1−β) KL(q ‖ m), m = βp + (1−β)q. GKD, arXiv 2306.13649.

    By that paper's convention β = 0 is the forward and β = 1 the reverse KL, although the formula
    tends to 0 there. Raises RecipeError for β outside [0, 1], and for 0 < β < 0.05 and
    0.95 < β < 1, which hardly learn: `jsd_normalised` does.
    """
    _check("jsd", beta=beta)
    divergence_N = jsd_normalised(student_logp_NV, teacher_logp_NV, beta)
    return divergence_N if beta in (0, 1) else beta * (1 - beta) * divergence_N


def jsd_normalised(student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float) -> Tensor:
    """Return JSD ÷ β(1−β) = KL(p ‖ m)/(1−β) + KL(q ‖ m)/β.

    It is continuous: the forward KL at β = 0, the reverse KL at β = 1. Raises RecipeError for β
    outside [0, 1].
    """
    _check("jsd_normalised", beta=beta)
    if beta == 0:
        return forward_kl(student_logp_NV, teacher_logp_NV)
    if beta == 1:
        return reverse_kl(student_logp_NV, teacher_logp_NV)
    teacher_part_N = _kl_to_mixture(teacher_logp_NV, student_logp_NV, 1 - beta)
    student_part_N = _kl_to_mixture(student_logp_NV, teacher_logp_NV, beta)
    return teacher_part_N / (1 - beta) + student_part_N / beta


def skew_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor, alpha: float) -> Tensor:
    """Return KL(p ‖ αp + (1−α)q).

    DistiLLM, arXiv 2402.03898; DistiLLM-2, arXiv 2503.07067, on the teacher's text. α = 0 is the
    forward KL. Raises RecipeError for α outside [0, 1): at 1 there would be nothing to learn.
    """
    _check("skew_kl", alpha=alpha)
    if alpha == 0:
        return forward_kl(student_logp_NV, teacher_logp_NV)
    return _kl_to_mixture(teacher_logp_NV, student_logp_NV, 1 - alpha)


def skew_kl_of_draws(
    student_logp_NK: Tensor, teacher_logp_NK: Tensor, weights_NK: Tensor, alpha: float
) -> Tensor:
    """Return Σ ŵ log(p / (αp + (1−α)q)) over ids drawn from p: skew_kl in expectation.

    It is an average over p, so it is estimated without bias, and so is its gradient. It may be
    negative; for equals it is 0. weights_NK: ŵ, the share of each id in the draws. The log-probs are
    those of the K ids; what stands beside a weight of 0 must be finite.
    """
    _check("skew_kl", alpha=alpha)
    log_q_over_p_NK = student_logp_NK - teacher_logp_NK
    if alpha == 0:
        return -(weights_NK * log_q_over_p_NK).sum(-1)
    return -(weights_NK * _log_mixture_ratio(log_q_over_p_NK, 1 - alpha)).sum(-1)


def skew_reverse_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor, alpha: float) -> Tensor:
    """Return KL(q ‖ (1−α)p + α·sg[q]), sg = stop-gradient.

    DistiLLM-2, arXiv 2503.07067, on the student's text. α = 0 is the reverse KL. Raises RecipeError
    for α outside [0, 1).
    """
    _check("skew_reverse_kl", alpha=alpha)
    if alpha == 0:
        return reverse_kl(student_logp_NV, teacher_logp_NV)
    # log q − log m = (log q − sg[log q]) − log(m / sg[q]): the first part is 0 in value and carries
    # the gradient
    constant_logp_NV = student_logp_NV.detach()
    log_p_over_q_NV = _log_ratio(teacher_logp_NV, constant_logp_NV)
    log_m_over_q_NV = _log_mixture_ratio(log_p_over_q_NV, 1 - alpha)
    log_q_over_q_NV = _log_ratio(student_logp_NV, constant_logp_NV)
    return (student_logp_NV.exp() * (log_q_over_q_NV - log_m_over_q_NV)).sum(-1)


def total_variation(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """Return ½ Σ |p − q|. f-distill, arXiv 2307.15190."""
    return 0.5 * (teacher_logp_NV.exp() - student_logp_NV.exp()).abs().sum(-1)


def adaptive_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor, alpha: float) -> Tensor:
    """Return (g_h·KL(p ‖ q) + g_t·KL(q ‖ p)) / (g_h + g_t + ε). AKL, arXiv 2404.02657, as in DSKD.

    The tail is the teacher's least likely ids, while their cumulative mass is at most α; the head
    is the rest. g_h and g_t are Σ|p − q| over head and tail, without gradient; both divergences run
    over all ids. Raises RecipeError for α outside [0, 1].
    """
    _check("adaptive_kl", alpha=alpha)
    with torch.no_grad():
        teacher_NV, order_NV = teacher_logp_NV.exp().sort(-1)
        gap_NV = (teacher_NV - student_logp_NV.exp().gather(-1, order_NV)).abs()
        is_tail_NV = teacher_NV.cumsum(-1) <= alpha
        tail_gap_N = (gap_NV * is_tail_NV).sum(-1)
        head_gap_N = (gap_NV * ~is_tail_NV).sum(-1)
        total_N = head_gap_N + tail_gap_N + ADAPTIVE_EPSILON
    forward_N = forward_kl(student_logp_NV, teacher_logp_NV)
    reverse_N = reverse_kl(student_logp_NV, teacher_logp_NV)
    return head_gap_N / total_N * forward_N + tail_gap_N / total_N * reverse_N


# By name: the function, and the parameter that it takes
DIVERGENCES: dict[str, tuple[Callable[..., Tensor], str | None]] = {
    "forward_kl": (forward_kl, None),
    "reverse_kl": (reverse_kl, None),
    "total_variation": (total_variation, None),
    "jsd": (jsd, "beta"),
    "jsd_normalised": (jsd_normalised, "beta"),
    "skew_kl": (skew_kl, "alpha"),
    "skew_reverse_kl": (skew_reverse_kl, "alpha"),
    "adaptive_kl": (adaptive_kl, "alpha"),
}

# By name: what draws whose log-probs are known estimate without bias, beside the forward KL
OF_DRAWS: dict[str, Callable[..., Tensor]] = {"skew_kl": skew_kl_of_draws}


def divergence_by_name(
    name: str, *, beta: float | None = None, alpha: float | None = None
) -> Divergence:
    """Return the function of that name with its parameter filled in.

    A recipe has both parameters, and each divergence takes the one it knows. Raises RecipeError for
    an unknown name, and for a parameter that is needed and is not there.
    """
    if name not in DIVERGENCES:
        hint = did_you_mean(name, DIVERGENCES) or f"known: {', '.join(DIVERGENCES)}"
        raise RecipeError(f"train.divergence {name!r} is unknown; {hint}")
    function, parameter = DIVERGENCES[name]
    if parameter is None:
        return function
    value = {"beta": beta, "alpha": alpha}[parameter]
    if value is None:
        raise RecipeError(f"train.{parameter} is missing: divergence {name} needs it")
    return partial(function, **{parameter: value})


def divergence_of_draws(name: str, *, alpha: float | None = None) -> DrawsDivergence | None:
    """Return the estimate of that divergence from draws whose log-probs are known.

    None where there is none without bias, and for the forward KL, which needs no log-probs.
    """
    if name not in OF_DRAWS:
        return None
    return partial(OF_DRAWS[name], alpha=alpha)


def _log_ratio(top_NV: Tensor, bottom_NV: Tensor) -> Tensor:
    """Return log(top / bottom), and 0 where bottom has no mass.

    Bottom is also the weight, so the term is 0 there.
    """
    return (top_NV - bottom_NV).masked_fill(bottom_NV == -math.inf, 0.0)


def _kl_to_mixture(logx_NV: Tensor, logy_NV: Tensor, share_of_y: float) -> Tensor:
    """Return KL(x ‖ (1−w)x + w·y), w = share_of_y, 0 < w < 1."""
    return -(logx_NV.exp() * _log_mixture_ratio(_log_ratio(logy_NV, logx_NV), share_of_y)).sum(-1)


def _log_mixture_ratio(log_ratio_NV: Tensor, share: float) -> Tensor:
    """Return log(1 − w + w·r), r = exp(log_ratio), w = share.

    Without overflow and without losing a small w to rounding: a logaddexp alone is exact only to
    1e-7 absolute, and jsd_normalised divides by w. log1p(w·(r − 1)) is exact to 1e-7 of its own
    size; it overflows for a huge r, and for w near 1 it loses a tiny r, so there the former takes
    over.
    """
    rest = log_ratio_NV.new_tensor(math.log1p(-share))
    far_NV = torch.logaddexp(log_ratio_NV + math.log(share), rest)
    if share > 0.5:
        return far_NV
    limit = 30.0
    near_NV = torch.log1p(share * torch.expm1(log_ratio_NV.clamp(max=limit)))
    return torch.where(log_ratio_NV > limit, far_NV, near_NV)


def _check(divergence: str, *, beta: float | None = None, alpha: float | None = None) -> None:
    problem = parameter_problem(divergence, beta=beta, alpha=alpha)
    if problem:
        raise RecipeError(f"train.{problem}")
