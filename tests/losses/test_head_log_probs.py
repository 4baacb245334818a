"""Log-probs of labels and of sets of ids: the plain formula's values and gradients, without [N, V]."""

import pytest
import torch
from loss_helpers import HIDDEN, NUM_TOKENS, VOCAB, inputs, randn
from memory_helpers import Memory

from distill.errors import MismatchError
from distill.losses import head_log_probs as head_log_probs_module
from distill.losses.head import Head, softcapped
from distill.losses.head_log_probs import head_log_probs

SETS = torch.zeros(2, VOCAB, dtype=torch.bool)
SETS[0, 3:9] = SETS[1, 7] = True


def plain(hidden, head, labels, sets, num_ids):
    logits = (hidden @ head.weight.T + (0 if head.bias is None else head.bias)) * head.scale
    logp = softcapped(logits, head.softcap)[:, :num_ids].log_softmax(-1)
    masses = [logp[:, row[:num_ids]].logsumexp(-1) for row in sets]
    return logp.gather(1, labels[:, None])[:, 0], torch.stack(masses, -1)


@pytest.mark.parametrize(("chunk_size", "block"), [(1, None), (4, None), (100, None), (5, 2)])
@pytest.mark.parametrize(
    ("rows", "bias", "scale", "softcap"),
    [(VOCAB, False, 1.0, None), (VOCAB + 3, True, 1.0, None), (VOCAB, True, 0.5, 3.0)],
)
def test_values_and_gradients_are_those_of_the_plain_formula(
    monkeypatch, chunk_size, block, rows, bias, scale, softcap
):
    if block is not None:
        monkeypatch.setattr(head_log_probs_module, "cached_block", lambda ids, largest: block)
    found = []
    for fused in (True, False):
        hidden, weight, labels = inputs(rows=rows)
        bias_V = randn(9, rows).requires_grad_() if bias else None
        head = Head(weight, bias_V, scale, softcap)
        if fused:
            logp, masses = head_log_probs(
                hidden, head, labels, SETS, vocab_size=VOCAB, chunk_size=chunk_size
            )
        else:
            logp, masses = plain(hidden, head, labels, SETS, VOCAB)
        (
            (logp * randn(4, NUM_TOKENS)).sum() + (masses.exp() * randn(5, NUM_TOKENS, 2)).sum()
        ).backward()
        grads = [hidden.grad, weight.grad, *([bias_V.grad] if bias_V is not None else [])]
        found.append([logp, masses, *grads])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    hidden, weight, labels = inputs()
    torch.autograd.gradcheck(
        lambda h, w: head_log_probs(h, Head(w), labels, SETS, chunk_size=5), (hidden, weight)
    )


def test_float32_is_near_and_bfloat16_under_autocast_nearer_than_its_rounding():
    exact = head_log_probs(*_of(torch.float64))
    single = head_log_probs(*_of(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head_log_probs(*_of(torch.float32))
    for mine, low, expected in zip(single, half, exact, strict=True):
        assert mine.dtype == low.dtype == torch.float32
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(low.double(), expected, rtol=0.1, atol=0.1)


def _of(dtype):
    hidden, weight, labels = inputs(dtype)
    return hidden, Head(weight), labels, SETS


def test_nothing_of_tokens_times_vocabulary_is_ever_made():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 8, generator=generator).requires_grad_()
    weight = torch.randn(1000, 8, generator=generator).requires_grad_()
    labels = torch.randint(1000, (64,), generator=generator)
    sets = torch.rand(2, 1000, generator=generator) < 0.1
    with Memory() as memory:
        logp, masses = head_log_probs(hidden, Head(weight), labels, sets, chunk_size=4)
        (logp.sum() + masses.sum()).backward()
    assert memory.largest == 1000 * 8  # the head's gradient; the logits of a block are fewer
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_a_frozen_head_gets_no_gradient_and_no_positions_give_none():
    hidden, weight, labels = inputs()
    weight.requires_grad_(False)
    logp, _ = head_log_probs(hidden, Head(weight), labels, SETS)
    logp.sum().backward()
    assert weight.grad is None and hidden.grad is not None
    logp, masses = head_log_probs(hidden[:0], Head(weight), labels[:0], SETS)
    assert logp.shape == (0,) and masses.shape == (0, 2)
    logp.sum().backward()


def test_an_empty_set_has_hardly_any_mass_and_no_nan():
    hidden, weight, labels = inputs()
    _, masses = head_log_probs(
        hidden, Head(weight), labels, torch.zeros(1, VOCAB, dtype=torch.bool)
    )
    masses.sum().backward()
    assert bool((masses < -80).all()) and bool(hidden.grad.isfinite().all())


@pytest.mark.parametrize(
    ("labels", "vocab_size"),
    [([VOCAB], None), ([-100], None), ([0, 1], None), ([0], VOCAB + 1), ([5], 5)],
)
def test_what_does_not_fit_is_refused(labels, vocab_size):
    with pytest.raises(MismatchError):
        head_log_probs(
            randn(1, 1, HIDDEN),
            Head(randn(2, VOCAB, HIDDEN)),
            torch.tensor(labels),
            SETS,
            vocab_size=vocab_size,
        )
