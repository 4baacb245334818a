"""Targets of the loss: shapes that cannot be, and another model's head as a dense signal."""

import pytest
import torch
import torch.nn.functional as F

from distill.errors import MismatchError
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets

IDS = torch.zeros(3, 2, dtype=torch.int64)


def test_tensors_that_do_not_fit_the_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="tail_logp_N has shape"):
        TopKTargets(IDS, torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"logp_NK has shape \(3, 3\), expected \(3, 2\)"):
        TopKTargets(IDS, torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="weights_NK has shape"):
        SampledTargets(IDS, torch.zeros(3))
    with pytest.raises(ValueError, match="entropy_N has shape"):
        SampledTargets(IDS, torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="expected int64"):
        SampledTargets(IDS.int(), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="at least one id"):
        SampledTargets(IDS[:, :0], torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"logp_NV has shape \(3,\)"):
        DenseTargets(torch.zeros(3))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("biased", [False, True])
def test_another_models_head_is_the_dense_signal_that_it_makes(
    biased: bool, softcap: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(37, 8, generator=generator)
    weight_VH = torch.randn(23, 8, generator=generator)
    teacher_NG = torch.randn(37, 5, generator=generator)
    teacher_VG = torch.randn(20, 5, generator=generator)
    labels_N = torch.randint(20, (37,), generator=generator)
    bias_V = torch.randn(20, generator=generator) if biased else None
    logits_NV = 0.7 * F.linear(teacher_NG, teacher_VG, bias_V)
    logits_NV = logits_NV if softcap is None else softcap * (logits_NV / softcap).tanh()
    results = []
    for targets in (
        DenseTargets(logits_NV.log_softmax(-1)),
        HeadTargets(teacher_NG, Head(teacher_VG, bias_V, 0.7, softcap)),
    ):
        hidden, weight = hidden_NH.clone().requires_grad_(), weight_VH.clone().requires_grad_()
        loss, _ = linear_head_loss(
            hidden,
            Head(weight),
            labels_N,
            targets,
            soft_weight=1.0,
            hard_weight=0.5,
            vocab_size=20,
            chunk_size=5,
        )
        loss.backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    for dense, lazy in zip(*results, strict=True):
        torch.testing.assert_close(lazy, dense)
    with pytest.raises(MismatchError, match="the dense signal has 20 ids, vocab_size is 23"):
        linear_head_loss(
            hidden_NH,
            Head(weight_VH),
            labels_N,
            HeadTargets(teacher_NG, Head(teacher_VG)),
            soft_weight=1.0,
            hard_weight=0.0,
        )
