"""The loss on chunks: ALM's formula in logs, through the fused head, and what it becomes with one tokenizer."""

import math

import pytest
import torch
from loss_helpers import NUM_TOKENS, VOCAB, inputs, randn

from distill.losses.byte_chunks import (
    TEMPERATURE,
    ByteChunkTargets,
    byte_chunk_loss,
    chunk_log_probs,
    likelihood_distance,
    log1mexp,
    sets_of,
)
from distill.losses.head import Head

SETS = sets_of([2, 3, 4, 11], [11], VOCAB)
CHUNKS = torch.tensor([-1, 0, 0, 0, 1, 2, 2, -1, 3, 3, 3, 3, 4])
AFTER = torch.tensor([4, 5, -1, 12, -1])


def targets(teacher_logp=None):
    is_end = torch.zeros(NUM_TOKENS, dtype=torch.bool)
    is_end[-1] = True
    logp = -3 * randn(6, 5).abs() if teacher_logp is None else teacher_logp
    return ByteChunkTargets(CHUNKS, is_end, AFTER, logp, SETS)


def plain_loss(hidden, weight, labels, found, soft_weight, hard_weight):
    """By hand, from all logits: binary cross-entropy of the roots less the teacher's entropy."""
    logp = (hidden @ weight.T).log_softmax(-1)
    own = logp.gather(1, labels[:, None])[:, 0]
    soft = torch.zeros((), dtype=torch.float64)
    for chunk in range(found.num_chunks):
        rows = (found.chunk_N == chunk).nonzero()[:, 0].tolist()
        total = sum(
            logp[n, found.sets_SV[1]].logsumexp(-1) if found.is_end_N[n] else own[n] for n in rows
        )
        after = int(found.after_M[chunk])
        if after >= 0:
            total = total + logp[after, found.sets_SV[0]].logsumexp(-1)
        p = torch.exp(found.teacher_logp_M[chunk] / TEMPERATURE - 1e-6)
        q = torch.exp(total / TEMPERATURE - 1e-6)
        cross = -(p * q.log() + (1 - p) * (1 - q).log())
        soft = soft + TEMPERATURE * (cross + p * p.log() + (1 - p) * (1 - p).log())
    return soft_weight * soft - hard_weight * own.sum(), soft


@pytest.mark.parametrize("chunk_size", [2, 100])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 1.0), (0.0, 1.0)])
def test_value_and_gradient_are_those_of_the_plain_formula(chunk_size, weights):
    hidden, weight, labels = inputs()
    found = targets()
    loss, parts = byte_chunk_loss(
        hidden,
        Head(weight),
        labels,
        found,
        soft_weight=weights[0],
        hard_weight=weights[1],
        chunk_size=chunk_size,
    )
    loss.backward()
    mine = hidden.grad, weight.grad
    hidden, weight, labels = inputs()
    expected, soft = plain_loss(hidden, weight, labels, found, *weights)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts["soft"], soft.detach(), rtol=1e-7, atol=1e-7)
    for got, wanted in zip(mine, (hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9)


def test_gradcheck():
    hidden, weight, labels = inputs()
    torch.autograd.gradcheck(
        lambda h, w: byte_chunk_loss(
            h, Head(w), labels, targets(), soft_weight=1.0, hard_weight=0.3
        )[0],
        (hidden, weight),
    )


def test_with_one_tokenizer_each_chunk_is_a_token_and_the_loss_that_of_tokens():
    """Sum over tokens of τ KL(Bernoulli(p(y)^(1/τ)) ‖ Bernoulli(q(y)^(1/τ))), up to the ε of both sides."""
    hidden, weight, labels = inputs()
    teacher = randn(8, NUM_TOKENS, VOCAB).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    found = ByteChunkTargets(
        torch.arange(NUM_TOKENS),
        torch.zeros(NUM_TOKENS, dtype=torch.bool),
        torch.full((NUM_TOKENS,), -1),
        teacher,
        SETS,
    )
    _, parts = byte_chunk_loss(hidden, Head(weight), labels, found, soft_weight=1.0, hard_weight=0)
    own = (hidden @ weight.T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    p, q = ((logp / TEMPERATURE - 1e-6).exp() for logp in (teacher, own))
    by_token = TEMPERATURE * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    torch.testing.assert_close(parts["soft"], by_token.sum().detach(), rtol=1e-8, atol=1e-9)


def test_nothing_is_learnt_where_the_student_says_what_the_teacher_does():
    hidden, weight, labels = inputs()
    logits = (hidden @ weight.T).detach()
    logp = logits.log_softmax(-1)
    masses = torch.stack([logp[:, row].logsumexp(-1) for row in SETS], -1)
    own = chunk_log_probs(logp.gather(1, labels[:, None])[:, 0], masses, targets())
    loss, _ = byte_chunk_loss(
        hidden, Head(weight), labels, targets(own), soft_weight=1.0, hard_weight=0.0
    )
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert float(hidden.grad.abs().max()) < 1e-10 and float(weight.grad.abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("teacher", "student", "golden"),
    [
        (-2.0, -4.0, 0.6075568647972617),
        (-4.0, -2.0, 0.7572451241739976),
        (-0.1, -7.0, 6.471564831187196),
        (-300.0, -5.0, 267.48232546352193),
    ],
)
def test_the_distance_is_that_of_two_coins_written_out(teacher, student, golden):
    """100 · KL between coins that fall with P^(1/100), less 1e-6 in logs: no torch, no tricks."""
    p, q = (math.exp(logp / 100 - 1e-6) for logp in (teacher, student))
    by_hand = 100 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    both = (torch.tensor([logp], dtype=torch.float64) for logp in (teacher, student))
    assert by_hand == pytest.approx(golden, rel=1e-12)
    assert float(likelihood_distance(*both)) == pytest.approx(golden, rel=1e-9)


def test_its_slope_is_the_ratio_of_the_surprises_less_one():
    """So its gradient is of cross-entropy's size, and turns round where the student is the surer one."""
    teacher = torch.tensor([-2.0, -2.0, -2.0], dtype=torch.float64)
    student = torch.tensor([-4.0, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    likelihood_distance(teacher, student).sum().backward()
    torch.testing.assert_close(
        student.grad, torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("teacher", [0.0, -1e-6, -0.1, -5.0, -300.0, -5000.0])
def test_no_likelihood_makes_it_infinite_and_it_is_never_negative(teacher):
    student = torch.tensor([0.0, -1e-7, -1.0, -90.0, -8000.0]).requires_grad_()
    distance = likelihood_distance(torch.full((5,), teacher), student)
    distance.sum().backward()
    assert bool(distance.isfinite().all()) and bool(student.grad.isfinite().all())
    assert float(distance.detach().min()) > -1e-4


def test_log1mexp_has_all_its_digits():
    for x in (-1e-12, -1e-3, -0.69, -0.7, -5.0, -200.0):
        exact = math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x))
        found = float(log1mexp(torch.tensor(x, dtype=torch.float64)))
        assert found == pytest.approx(exact, rel=1e-12, abs=1e-300)


def test_no_chunks_and_no_positions_give_zero_and_zero_gradients():
    hidden, weight, labels = inputs()
    none = torch.zeros(0)
    found = ByteChunkTargets(
        torch.full((NUM_TOKENS,), -1),
        torch.zeros(NUM_TOKENS, dtype=torch.bool),
        none.long(),
        none,
        SETS,
    )
    loss, _ = byte_chunk_loss(hidden, Head(weight), labels, found, soft_weight=1.0, hard_weight=0.0)
    loss.backward()
    assert float(loss.detach()) == 0 and float(hidden.grad.abs().max()) == 0


def test_it_adds_up_however_the_answers_are_divided():
    hidden, weight, labels = inputs()
    whole = targets()
    sums = []
    for positions, chunks in ((slice(0, 7), slice(0, 3)), (slice(7, 13), slice(3, 5))):
        first, start = chunks.start, positions.start
        number = whole.chunk_N[positions]
        after = whole.after_M[chunks]
        part = ByteChunkTargets(
            torch.where(number < 0, -1, number - first),
            whole.is_end_N[positions],
            torch.where(after < 0, -1, after - start),
            whole.teacher_logp_M[chunks],
            SETS,
        )
        sums.append(
            byte_chunk_loss(
                hidden[positions],
                Head(weight),
                labels[positions],
                part,
                soft_weight=1,
                hard_weight=1,
            )[0]
        )
    loss, _ = byte_chunk_loss(hidden, Head(weight), labels, whole, soft_weight=1, hard_weight=1)
    torch.testing.assert_close(sum(sums), loss)
