"""Losses of three tokens over five ids, in float64, computed by hand, never to change."""

import math
from typing import Any

import pytest
import torch
from loss_helpers import with_log_probs
from torch import Tensor

from distill.losses.divergences import divergence_by_name
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets

STUDENT_LOGITS = torch.tensor(
    [[2, 1, 0, -1, 0.5], [0, 0, 0, 0, 0], [-1, 3, 0.2, 0.1, -2]], dtype=torch.float64
)
TEACHER_LOGITS = torch.tensor(
    [[1.5, 1.4, -0.5, 0, 0.2], [1, -1, 2, 0, 0.5], [-0.5, 2, 1, 0, -1]], dtype=torch.float64
)
LABELS = torch.tensor([4, 2, 3])
STUDENT_LOGP = STUDENT_LOGITS.log_softmax(-1)
TEACHER_LOGP = TEACHER_LOGITS.log_softmax(-1)

DIVERGENCES = {
    "forward_kl": ({}, [0.118534, 0.402949, 0.255788], 0.259090),
    "reverse_kl": ({}, [0.102501, 0.465000, 0.184651], 0.250717),
    "jsd .5": ({"beta": 0.5}, [0.027022, 0.100205, 0.051797], 0.059675),
    "jsd .1": ({"beta": 0.1}, [0.010422, 0.035889, 0.021754], 0.022688),
    "jsd .9": ({"beta": 0.9}, [0.009303, 0.039691, 0.016933], 0.021976),
    "skew_kl": ({"alpha": 0.1}, [0.091761, 0.320454, 0.185744], 0.199319),
    "skew_reverse_kl": ({"alpha": 0.1}, [0.084479, 0.341725, 0.155396], 0.193867),
    "total_variation": ({}, [0.209656, 0.370145, 0.264923], 0.281575),
    "adaptive_kl": ({"alpha": 0.5}, [0.114674, 0.434571, 0.220219], 0.256488),
}


def assert_golden(loss_N: Tensor, tokens: list[float], mean: float) -> None:
    assert loss_N.tolist() == pytest.approx(tokens, abs=1e-6)
    assert loss_N.mean().item() == pytest.approx(mean, abs=1e-6)


def head_loss_of_each_token(targets: Targets, **options: Any) -> Tensor:
    """Through the real head: an identity matrix makes the hidden states the logits."""
    identity = torch.eye(5, dtype=torch.float64)
    return torch.stack(
        [
            linear_head_loss(
                STUDENT_LOGITS[i : i + 1],
                Head(identity),
                LABELS[i : i + 1],
                targets[i : i + 1],
                soft_weight=1.0,
                hard_weight=0.0,
                **options,
            )[0]
            for i in range(3)
        ]
    )


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_has_its_golden_value_alone_and_through_the_head(name: str) -> None:
    parameters, tokens, mean = DIVERGENCES[name]
    name = name.split()[0]
    assert_golden(divergence_by_name(name, **parameters)(STUDENT_LOGP, TEACHER_LOGP), tokens, mean)
    by_head = head_loss_of_each_token(
        DenseTargets(TEACHER_LOGP), divergence=name, divergence_parameters=parameters
    )
    assert_golden(by_head, tokens, mean)


def test_temperature_two_is_without_t_squared() -> None:
    targets = DenseTargets((TEACHER_LOGITS / 2).log_softmax(-1))
    loss_N = head_loss_of_each_token(targets, loss_temperature=2.0)
    assert_golden(loss_N, [0.035889, 0.117970, 0.082635], 0.078831)


def test_top_two_with_a_tail_bucket_and_not_one_of_its_namesakes() -> None:
    top = TEACHER_LOGP.topk(2)
    tail_logp_N = torch.log1p(-top.values.exp().sum(-1))
    loss_N = head_loss_of_each_token(TopKTargets(top.indices, top.values, tail_logp_N))
    assert_golden(loss_N, [0.073399, 0.369435, 0.242022], 0.228285)

    # The other two losses that are called top-k KL, on the same targets: pinned so that a mix-up
    # would be seen.
    student_logp_NK = STUDENT_LOGP.gather(-1, top.indices)
    teacher_hat = top.values.log_softmax(-1)
    teacher_only = (teacher_hat.exp() * (teacher_hat - student_logp_NK)).sum(-1)
    assert_golden(teacher_only, [0.357560, 1.027235, 0.302639], 0.562478)
    both = (teacher_hat.exp() * (teacher_hat - student_logp_NK.log_softmax(-1))).sum(-1)
    assert_golden(both, [0.096384, 0.110944, 0.229866], 0.145731)


def test_uld_is_not_offered_but_its_row_is_kept() -> None:
    loss_N = (TEACHER_LOGP.exp().sort(-1).values - STUDENT_LOGP.exp().sort(-1).values).abs().sum(-1)
    assert_golden(loss_N, [0.373657, 0.740290, 0.529846], 0.547931)


def test_the_whole_vocabulary_as_top_k_equals_dense() -> None:
    top = TEACHER_LOGP.topk(5)
    targets = TopKTargets(top.indices, top.values, torch.full((3,), -math.inf, dtype=torch.float64))
    for name, (parameters, tokens, mean) in DIVERGENCES.items():
        options = {"divergence": name.split()[0], "divergence_parameters": parameters}
        assert_golden(head_loss_of_each_token(targets, **options), tokens, mean)


# Three draws a token: 0, 0, 1; 2, 2, 4; 1, 1, 1.
DRAWN = SampledTargets(
    torch.tensor([[0, 1], [2, 4], [1, -1]]),
    torch.tensor([[2, 1], [2, 1], [3, 0]], dtype=torch.float64) / 3,
    -(TEACHER_LOGP.exp() * TEACHER_LOGP).sum(-1),
)


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [
        ("forward_kl", {}, [-0.436872, 0.402949, -0.967273]),
        ("skew_kl", {"alpha": 0.1}, [-0.059068, 0.436436, -0.329199]),
        ("reverse_kl", {}, [0.075673, 0.279604, 0.183924]),
        ("skew_reverse_kl", {"alpha": 0.1}, [0.061638, 0.228235, 0.154710]),
        ("jsd", {"beta": 0.5}, [0.019285, 0.072514, 0.051508]),
    ],
)
def test_draws_with_log_probs(name: str, parameters: dict[str, float], tokens: list[float]) -> None:
    targets = with_log_probs(DRAWN, TEACHER_LOGP, LABELS)
    loss_N = head_loss_of_each_token(targets, divergence=name, divergence_parameters=parameters)
    assert loss_N.tolist() == pytest.approx(tokens, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "dense", "top_two"),
    [
        (
            "forward_kl",
            {},
            [0.095894, 0.369437, 0.221773],
            [0.059406, 0.369435, 0.244740],
        ),
        (
            "reverse_kl",
            {},
            [0.084704, 0.361694, 0.159514],
            [0.059439, 0.361689, 0.180647],
        ),
        (
            "skew_reverse_kl",
            {"alpha": 0.1},
            [0.069474, 0.286124, 0.134497],
            [0.047965, 0.286121, 0.151732],
        ),
    ],
)
def test_ids_1_and_4_as_one_stop(
    name: str, parameters: dict[str, float], dense: list[float], top_two: list[float]
) -> None:
    top = TEACHER_LOGP.topk(2)
    tail_logp_N = torch.log1p(-top.values.exp().sum(-1))
    kept = TopKTargets(top.indices, top.values, tail_logp_N)
    for targets, tokens in ((DenseTargets(TEACHER_LOGP), dense), (kept, top_two)):
        loss_N = head_loss_of_each_token(
            targets, divergence=name, divergence_parameters=parameters, stop_ids=[1, 4]
        )
        assert loss_N.tolist() == pytest.approx(tokens, abs=1e-6)
