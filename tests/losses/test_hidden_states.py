"""Hidden-state matching: value, gradient, memory, and what it does to a projection."""

import pytest
import torch
import torch.nn.functional as F
from loss_helpers import randn
from torch import Tensor

from distill.errors import MismatchError
from distill.losses import hidden_states
from distill.losses.hidden_states import HiddenTargets, hidden_state_loss

NUM_TOKENS, STUDENT, TEACHER, BLOCK = 13, 6, 10, 4


def random_targets(num: int = NUM_TOKENS, width: int = TEACHER, seed: int = 3) -> HiddenTargets:
    values = (40 * randn(seed, num, width)).round().clamp(-127, 127).to(torch.int8)
    return HiddenTargets(values, randn(seed + 1, num, -(-width // BLOCK)).abs() + 0.1, BLOCK)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return randn(1, NUM_TOKENS, STUDENT, dtype=dtype).requires_grad_(), randn(
        2, TEACHER, STUDENT, dtype=dtype
    ).requires_grad_()


@pytest.mark.parametrize("rows", [1, 5, 13, 100])
def test_it_is_one_minus_the_cosine_for_any_chunk(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "CHUNK_VALUES", rows * TEACHER)
    hidden, projection = inputs()
    targets = random_targets()
    scales_NG = targets.scales_NB.repeat_interleave(BLOCK, 1)[:, :TEACHER]
    stock = (1 - F.cosine_similarity(hidden @ projection.T, targets.values_NG * scales_NG)).sum()
    loss = hidden_state_loss(hidden, projection, targets)
    torch.testing.assert_close(loss, stock, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(stock, (hidden, projection))
    for found, wanted in zip(
        torch.autograd.grad(loss / 7, (hidden, projection)), expected, strict=True
    ):
        torch.testing.assert_close(found * 7, wanted, rtol=1e-10, atol=1e-12)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_states, "CHUNK_VALUES", 5 * TEACHER)
    assert torch.autograd.gradcheck(
        lambda h, p: hidden_state_loss(h, p, random_targets()), inputs()
    )


def test_aligned_states_cost_nothing_and_a_teacher_one_token_late_does() -> None:
    hidden_NH, projection_GH = inputs()
    identity = torch.eye(TEACHER, dtype=torch.float64)
    targets = random_targets()
    aligned_NG = targets.dequantized(torch.float64).requires_grad_()
    loss = hidden_state_loss(aligned_NG, identity, targets)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, aligned_NG)[0].abs().max() < 1e-12
    late = HiddenTargets(targets.values_NG.roll(1, 0), targets.scales_NB.roll(1, 0), BLOCK)
    assert hidden_state_loss(aligned_NG, identity, late) > 0.3 * NUM_TOKENS
    assert 0 <= hidden_state_loss(hidden_NH, projection_GH, targets) <= 2 * NUM_TOKENS
    torch.testing.assert_close(
        hidden_state_loss(-aligned_NG, identity, targets).item(), 2.0 * NUM_TOKENS
    )


def test_in_float32_aligned_states_cost_nothing_either() -> None:
    """1 − cos would be rounding there, of either sign."""
    targets = random_targets(1000, 64)
    states_NG = targets.dequantized(torch.float32)
    loss = hidden_state_loss(states_NG * 3, torch.eye(64), targets)
    assert 0 <= loss.item() < 1e-10


def test_lengths_do_not_matter() -> None:
    hidden, projection = inputs()
    targets = random_targets()
    longer = HiddenTargets(targets.values_NG, 5 * targets.scales_NB, BLOCK)
    expected = hidden_state_loss(hidden, projection, targets)
    torch.testing.assert_close(hidden_state_loss(7 * hidden, projection / 3, longer), expected)


def test_micro_batches_add_up_and_no_positions_give_zero_and_zero_gradients() -> None:
    hidden, projection = inputs()
    targets = random_targets()
    whole = torch.autograd.grad(
        hidden_state_loss(hidden, projection, targets), (hidden, projection)
    )
    for part in (slice(0, 4), slice(4, 4), slice(4, 13)):
        hidden_state_loss(hidden[part], projection, targets[part]).backward()
    assert hidden.grad is not None and projection.grad is not None
    torch.testing.assert_close((hidden.grad, projection.grad), whole)

    hidden.grad = projection.grad = None
    nothing = hidden_state_loss(hidden[:0], projection, targets[:0])
    nothing.backward()
    assert nothing.item() == 0  # and the gradients are there: another rank's are averaged with them
    assert hidden.grad is not None and projection.grad is not None
    assert (hidden.grad == 0).all() and (projection.grad == 0).all()


def test_a_teachers_state_of_zeros_is_no_nan() -> None:
    hidden, projection = inputs()
    targets = random_targets()
    targets.scales_NB[2] = 0
    loss = hidden_state_loss(hidden[2:3], projection, targets[2:3])
    gradients = torch.autograd.grad(loss, (hidden, projection))
    assert loss.item() == pytest.approx(0.5) and all((g.abs() < 1e-12).all() for g in gradients)


def test_what_is_kept_for_backward_is_no_projected_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the inputs are kept; a chunk's projected states are made again.

    Without chunks they would be kept whole.
    """
    monkeypatch.setattr(hidden_states, "CHUNK_VALUES", 4 * TEACHER)
    hidden, projection = inputs()

    def kept(function) -> list[tuple[int, ...]]:
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t
        ):
            function(hidden, projection, random_targets())
        return [shape for shape in shapes if shape[-1:] == (TEACHER,)]

    assert (NUM_TOKENS, TEACHER) in kept(hidden_states._distance)
    assert kept(hidden_state_loss) == []


def test_bfloat16_is_within_one_percent_and_gradients_keep_their_dtype() -> None:
    hidden, projection = (t.detach().float().requires_grad_() for t in inputs())
    exact = hidden_state_loss(hidden, projection, random_targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hidden_state_loss(hidden, projection, random_targets())
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=1e-2)
    for found, wanted in zip(
        torch.autograd.grad(loss, (hidden, projection)),
        torch.autograd.grad(exact, (hidden, projection)),
        strict=True,
    ):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_a_teacher_that_is_a_linear_map_of_the_student_is_matched_by_the_projection_alone() -> None:
    hidden_NH = randn(7, 200, STUDENT, dtype=torch.float32)
    teacher_NG = hidden_NH @ randn(8, TEACHER, STUDENT, dtype=torch.float32).T
    scale_N1 = teacher_NG.abs().amax(1, keepdim=True) / 127
    targets = HiddenTargets((teacher_NG / scale_N1).round().to(torch.int8), scale_N1, TEACHER)
    projection = randn(9, TEACHER, STUDENT, dtype=torch.float32).requires_grad_()
    optimizer = torch.optim.Adam([projection], lr=0.05)
    losses = []
    for _ in range(200):
        loss = hidden_state_loss(hidden_NH, projection, targets) / 200
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5 and losses[-1] < 1e-3


def test_what_does_not_fit_is_refused() -> None:
    hidden, projection = inputs()
    targets = random_targets()
    with pytest.raises(MismatchError, match=r"\(12, 6\), \(10, 6\), \(13, 10\)"):
        hidden_state_loss(hidden[:12], projection, targets)
    with pytest.raises(MismatchError, match="projection"):
        hidden_state_loss(hidden, projection[:9], targets)
    with pytest.raises(MismatchError, match="projection"):
        hidden_state_loss(hidden, projection[:, :5], targets)
    with pytest.raises(ValueError, match="a scale for every 4 values"):
        HiddenTargets(targets.values_NG, targets.scales_NB[:, :2], BLOCK)
    with pytest.raises(ValueError, match="expected int8"):
        HiddenTargets(targets.values_NG.float(), targets.scales_NB, BLOCK)
