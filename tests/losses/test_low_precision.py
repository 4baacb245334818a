"""The head in bfloat16 on a CPU: the fast way there gives the bits of the plain one."""

import pytest
import torch

from distill.losses import head_gradients
from distill.losses.chunk_loss import ChunkLoss
from distill.losses.divergences import forward_kl
from distill.losses.head_gradients import _add_product


def chunk_loss() -> ChunkLoss:
    return ChunkLoss(
        divergence=forward_kl,
        soft_weight=0.0,
        hard_weight=1.0,
        num_ids=8,
        exact_dtype=torch.float32,
        with_gradient=True,
    )


@pytest.mark.parametrize("num_ids", [8, 33, 1024, 151_936])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_is_that_of_a_copy(num_ids, dtype):
    torch.manual_seed(num_ids)
    logits_nR = (4 * torch.randn(5, num_ids)).to(dtype)
    logits_nR[:, -3:] = -torch.inf
    out_nR = torch.full(logits_nR.shape, torch.nan)
    made_nR = chunk_loss()._softmax(logits_nR, out_nR)
    assert made_nR.data_ptr() == out_nR.data_ptr()
    assert torch.equal(made_nR, torch.softmax(logits_nR, -1, dtype=torch.float32))


@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("factor", [1.0, 0.37])
def test_the_heads_gradient_is_the_sum_of_the_products_in_bfloat16(monkeypatch, factor, beta):
    monkeypatch.setattr(head_gradients, "WEIGHT_GRADIENT_VALUES", 640)  # several blocks
    torch.manual_seed(3)
    sum_RH = torch.randn(100, 16) if beta else torch.full((100, 16), torch.nan)
    grad_nR, hidden_nH = torch.randn(7, 100), torch.randn(7, 16)
    grad_nR, hidden_nH = grad_nR.bfloat16(), hidden_nH.bfloat16()
    blocks = [torch.mm(block_nB.T, hidden_nH) for block_nB in grad_nR.split(40, 1)]
    before_RH = sum_RH.clone() if beta else torch.zeros(100, 16)
    expected_RH = before_RH.add_(torch.cat(blocks), alpha=factor)
    _add_product(sum_RH, grad_nR, hidden_nH, factor, beta)
    assert torch.equal(sum_RH, expected_RH)
