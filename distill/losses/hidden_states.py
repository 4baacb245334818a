"""Hidden-state matching: the student's last hidden state, projected, against the teacher's.

The last hidden state is what the output head reads, after the final norm. The projection is learned
with the student and thrown away: it lets the two have different widths.

N: positions that carry loss, H: the student's hidden width, G: the teacher's, B: blocks of numbers
in G.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.errors import MismatchError

# Projected numbers held at a time: 16 MiB in float32, and a few temporaries of that size.
CHUNK_VALUES = 4 << 20


@dataclass(frozen=True, eq=False)
class HiddenTargets:
    """The teacher's last hidden states at N positions, quantized.

    A number is its value times the scale of its block. values_NG: int8. scales_NB: float, one for
    every `block` values of a row, fewer in the last: B = ⌈G / block⌉.
    """

    values_NG: Tensor
    scales_NB: Tensor
    block: int

    def __post_init__(self) -> None:
        num_positions, width = self.values_NG.shape
        num_blocks = -(-width // self.block)
        fits = self.scales_NB.shape == (num_positions, num_blocks)
        if self.values_NG.dtype != torch.int8 or not fits:
            raise ValueError(
                f"values_NG is {self.values_NG.dtype} {num_positions, width}, "
                f"scales_NB {tuple(self.scales_NB.shape)}: "
                f"expected int8 and a scale for every {self.block} values of a row"
            )

    def __len__(self) -> int:
        return len(self.values_NG)

    def __getitem__(self, part: slice) -> "HiddenTargets":
        return HiddenTargets(self.values_NG[part], self.scales_NB[part], self.block)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the hidden states [N, G]."""
        width = self.values_NG.shape[1]
        scales_NG = self.scales_NB.to(dtype).repeat_interleave(self.block, dim=1)[:, :width]
        return self.values_NG * scales_NG


def hidden_state_loss(hidden_NH: Tensor, projection_GH: Tensor, targets: HiddenTargets) -> Tensor:
    """Sum 1 − cos(P h_student, h_teacher) over N positions.

    The cosine loss of DistilBERT (Sanh et al. 2019, arXiv 1910.01108, L_cos) with the learned
    projection of TinyBERT (Jiao et al. 2019, arXiv 1909.10351, W_h of L_hidn), on the last hidden
    state. Written as ½‖u/‖u‖ − t/‖t‖‖², the same number, which keeps its digits near 0 where
    1 − cos is all rounding, and is never negative. The length of a hidden state does not matter;
    the final norm's weights fix it anyway.

    hidden_NH, projection_GH: one floating dtype; under torch.autocast multiplied in its dtype. The
        rest is float32 (float64 for float64 inputs), a chunk of positions at a time; backward
        computes each chunk anew.
    targets: of the same positions. A teacher's state of zeros costs ½ and has no gradient.

    Returns a scalar in [0, 2 N]; no positions give 0 and zero gradients. There is no mean: divide
    once, by the global number of loss tokens. Raises MismatchError for numbers of positions or
    widths that differ.
    """
    num_positions, width = targets.values_NG.shape
    _check_shapes(hidden_NH, projection_GH, targets.values_NG)
    chunk_size = max(1, CHUNK_VALUES // width)
    total = hidden_NH.new_zeros((), dtype=torch.promote_types(hidden_NH.dtype, torch.float32))
    # Once for no positions too, so that the gradients are zeros and not None.
    for start in range(0, max(num_positions, 1), chunk_size):
        part = slice(start, start + chunk_size)
        total = total + checkpoint(
            _distance,
            hidden_NH[part],
            projection_GH,
            targets[part],
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total


def _check_shapes(hidden_NH: Tensor, projection_GH: Tensor, teacher_NG: Tensor) -> None:
    expected = (len(hidden_NH), len(projection_GH))
    if teacher_NG.shape != expected or hidden_NH.shape[1] != projection_GH.shape[1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (hidden_NH, projection_GH, teacher_NG))
        raise MismatchError(
            f"hidden states, projection and teacher have shapes {shapes}: "
            "expected [N, H], [G, H], [N, G]"
        )


def _distance(hidden_nH: Tensor, projection_GH: Tensor, targets: HiddenTargets) -> Tensor:
    projected_nG = F.linear(hidden_nH, projection_GH)
    exact = torch.promote_types(hidden_nH.dtype, torch.float32)
    difference_nG = F.normalize(projected_nG.to(exact)) - F.normalize(targets.dequantized(exact))
    return 0.5 * difference_nG.square().sum()
