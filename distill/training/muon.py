"""Muon: a step of a hidden layer's matrix has the same size in every direction.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon); step sizes that go with AdamW's: Liu et al., "Muon is scalable for
LLM training", 2025 (arXiv 2502.16982). torch.optim.Muon computes in bfloat16, which plain CPUs do
slowly, and takes no embedding.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
# AdamW moves a weight by 0.2 to 0.4 of its learning rate a step, in the root mean square
RMS_OF_ADAMW = 0.2
# of the polynomial a x + b x^3 + c x^5, whose iterates bring every x in (0, 1] near 1
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the groups with "orthogonal", AdamW (of `betas`) for the others: one learning rate.

    A group has "params" (2-dimensional where it is orthogonal), "weight_decay" and "orthogonal".
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._orthogonal_update if group["orthogonal"] else self._adam_update
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                direction = update(parameter, group)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(direction, alpha=group["lr"])

    def _orthogonal_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None  # `step` has looked
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        # as Nesterov does: the momentum as it will be if the gradient stays
        ahead = gradient.lerp(state["momentum"], MOMENTUM)
        return _of_whole(orthogonalized, ahead) * (RMS_OF_ADAMW * max(parameter.shape) ** 0.5)

    def _adam_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None  # `step` has looked
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = state["exp_avg"] / (1 - beta1 ** state["step"])
        square = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
        return mean / (square.sqrt() + group["eps"])


def _of_whole(change: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """Return `change` of a matrix; of one that is divided over ranks, each rank's own part.

    It is gathered for that, and every rank works out the same.
    """
    if not isinstance(matrix, DTensor):
        return change(matrix)
    changed = change(matrix.full_tensor())
    mesh, placements = matrix.device_mesh, matrix.placements
    # src_data_rank None: every rank has the whole, and takes its part without asking
    return distribute_tensor(changed, mesh, placements, src_data_rank=None)


def orthogonalized(matrix_AB: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near 1 (0.7 to 1.2), by Newton-Schulz.

    In bfloat16 on a GPU, which this bears; in float32 elsewhere. A matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    dtype = torch.bfloat16 if matrix_AB.is_cuda else torch.float32
    is_tall = matrix_AB.shape[0] > matrix_AB.shape[1]
    x = (matrix_AB.T if is_tall else matrix_AB).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.T
        polynomial = torch.addmm(square, square, square, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return (x.T if is_tall else x).to(matrix_AB.dtype)
