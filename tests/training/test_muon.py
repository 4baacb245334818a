"""Muon: steps of one size in every direction, beside AdamW for what is no hidden matrix."""

import pytest
import torch
from torch import nn

from distill.training.muon import RMS_OF_ADAMW, Muon, orthogonalized

BETAS = (0.9, 0.95)


def random_matrix(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (1, 8), (8, 1)])
def test_singular_values_come_near_1_and_directions_stay(shape):
    matrix = random_matrix(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.numel() == 1 or values.max() > 2 * values.min()
    made = left.T @ orthogonalized(matrix) @ right.T
    singular = made.diagonal()
    assert ((singular > 0.3) & (singular < 1.3)).all()
    assert (made - singular.diag()).abs().max() < 1e-4, "the directions are those of the matrix"


def test_the_size_of_a_gradient_does_not_matter_and_none_moves_nothing():
    matrix = random_matrix(16, 24)
    torch.testing.assert_close(orthogonalized(1e3 * matrix), orthogonalized(matrix))
    assert not orthogonalized(torch.zeros(4, 6)).any()


def test_a_step_is_as_large_as_adamws_and_weights_decay():
    weight = nn.Parameter(random_matrix(64, 32))
    before = weight.detach().clone()
    weight.grad = 1e-6 * random_matrix(64, 32)
    group = {"params": [weight], "weight_decay": 0.5, "orthogonal": True}
    Muon([group], lr=0.01, betas=BETAS).step()
    moved = weight.detach() - before * (1 - 0.01 * 0.5)
    assert moved.square().mean().sqrt() == pytest.approx(0.01 * RMS_OF_ADAMW, rel=0.2)
    assert (moved * weight.grad).sum() < 0, "downhill"


def test_the_others_are_moved_as_by_adamw():
    start = random_matrix(6, 5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    group = {"params": [ours], "weight_decay": 0.1, "orthogonal": False}
    optimizer = Muon([group], lr=0.01, betas=BETAS)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=BETAS, weight_decay=0.1)
    for number in range(5):
        ours.grad = random_matrix(6, 5) + number
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_gradient_stays():
    weight = nn.Parameter(random_matrix(4, 4))
    before = weight.detach().clone()
    group = {"params": [weight], "weight_decay": 0.5, "orthogonal": True}
    Muon([group], lr=0.01, betas=BETAS).step()
    assert torch.equal(weight, before)
