"""The targets of a batch are its records' tokens, in order, with all mass."""

import itertools

import numpy as np
import pytest
import torch

from distill.chat.byte_chunks import align
from distill.losses.byte_chunks import TEMPERATURE, byte_chunk_loss, sets_of
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, TopKTargets
from distill.signals import draws
from distill.signals.alignment import CLOSED, END, Alignment, PackedAlignment, joined
from distill.signals.collate import chunk_targets, hidden_targets, targets
from distill.signals.columns import Columns
from distill.signals.encoding import LikelihoodRecord, decode, encode
from distill.signals.header import SignalHeader
from distill.signals.hidden_states import quantize


def test_sampled_targets_hold_ids_and_shares_in_order(header, record_of):
    records = [record_of(header, n, seed=n) for n in (4, 0, 1, 30)]
    batch = targets(records, "cpu")
    assert isinstance(batch, SampledTargets) and len(batch) == 35
    assert batch.ids_NK.dtype == torch.int64 and batch.weights_NK.dtype == torch.float32
    torch.testing.assert_close(batch.weights_NK.sum(1), torch.ones(35))
    n = 0
    for record in records:
        for t in range(record.num_tokens):
            here = slice(*record.offsets[t : t + 2])
            size = here.stop - here.start
            assert batch.ids_NK[n, :size].tolist() == record.ids[here].tolist()
            assert (batch.ids_NK[n, size:] == -1).all() and (batch.weights_NK[n, size:] == 0).all()
            np.testing.assert_allclose(
                batch.weights_NK[n, :size], record.counts[here] / 50, rtol=1e-6
            )
            assert batch.entropy_N is not None and batch.entropy_N[n] == record.entropy[t]
            n += 1


def test_draws_with_log_probs_become_a_support_that_has_all_mass_after_rounding():
    header = SignalHeader("sampled", 3001, num_draws=20, draw_log_probs=True)
    logits = torch.randn(40, 3001, generator=torch.Generator().manual_seed(1)) * 3
    labels_N = torch.where(torch.arange(40) < 20, logits.argmax(-1), logits.argmin(-1))
    record = draws.draw(
        logits,
        labels_N,
        draws.Rows.of(0, 40),
        num_draws=20,
        columns=Columns(3001),
        with_log_probs=True,
    )
    batch = targets([decode(encode(record, header), header, 40)], "cpu")
    assert isinstance(batch, SampledTargets)
    support = batch[5:].to("cpu").support(labels_N[5:])
    mass_N = support.logp_NK.exp().sum(1) + support.tail_logp_N.exp()
    torch.testing.assert_close(mass_N, torch.ones(35))
    logp_NV = logits.log_softmax(-1)
    for n, (ids, said) in enumerate(zip(support.ids_NK, support.logp_NK, strict=True), start=5):
        kept = ids[ids >= 0]
        assert int(labels_N[n]) in kept and len(set(kept.tolist())) == len(kept)
        torch.testing.assert_close(said[ids >= 0], logp_NV[n, kept], rtol=1e-3, atol=1e-3)
        assert said[ids < 0].isneginf().all()


def test_top_k_targets_have_all_mass_after_rounding():
    header = SignalHeader("top_k", 3001, top_k=8)
    logits = torch.randn(20, 3001, generator=torch.Generator().manual_seed(1)) * 3
    record = draws.top_k(logits, draws.Rows.of(0, 20), k=8, columns=Columns(3001))
    stored = decode(encode(record, header), header, 20)
    batch = targets([stored, stored], "cpu")
    assert isinstance(batch, TopKTargets) and len(batch) == 40
    torch.testing.assert_close(batch.logp_NK.exp().sum(1) + batch.tail_logp_N.exp(), torch.ones(40))
    np.testing.assert_array_equal(batch.ids_NK[:20], record.ids)
    np.testing.assert_allclose(batch.logp_NK[20:], record.logp, rtol=1e-3, atol=1e-3)


def test_a_tail_without_mass_stays_one():
    batch = targets(
        [
            draws.top_k(
                torch.tensor([[1.0, 2.0, 3.0]]), draws.Rows.of(0, 1), k=3, columns=Columns(3)
            )
        ],
        "cpu",
    )
    assert isinstance(batch, TopKTargets) and batch.tail_logp_N.isneginf().all()
    torch.testing.assert_close(batch.logp_NK.exp().sum(1), torch.ones(1))


def test_dense_targets_have_all_mass_after_rounding_and_keep_what_is_impossible():
    header = SignalHeader("dense", 301)
    logits = torch.randn(20, 301, generator=torch.Generator().manual_seed(1)) * 3
    logits[:, 7] = -torch.inf
    stored = decode(
        encode(draws.dense(logits, draws.Rows.of(0, 20), columns=Columns(301)), header), header, 20
    )
    batch = targets([stored, stored], "cpu")
    assert isinstance(batch, DenseTargets) and batch.logp_NV.shape == (40, 301)
    torch.testing.assert_close(batch.logp_NV.exp().sum(1), torch.ones(40))
    assert batch.logp_NV[:, 7].isneginf().all()
    torch.testing.assert_close(batch.logp_NV[:20].exp(), logits.softmax(-1), rtol=5e-3, atol=1e-6)


def test_the_mean_gradient_over_seeds_is_that_of_the_dense_signal():
    """Random-sampling KD (arXiv 2503.16870): the gradient on the student's logits is q - shares."""
    generator = torch.Generator().manual_seed(2)
    teacher_V, student_V = (torch.randn(60, generator=generator) * 2 for _ in range(2))
    num = 4000
    record = draws.draw(
        teacher_V.expand(num, -1),
        torch.zeros(num, dtype=torch.long),
        draws.Rows.of(3, num),
        num_draws=10,
        columns=Columns(60),
    )
    batch = targets([record], "cpu")
    assert isinstance(batch, SampledTargets)
    shares_NV = torch.zeros(num, 61).scatter_add(1, batch.ids_NK + 1, batch.weights_NK)[:, 1:]
    mean_gradient_V = student_V.softmax(-1) - shares_NV.mean(0)
    exact_V = student_V.softmax(-1) - teacher_V.softmax(-1)
    # Independent draws would have a standard error of at most 1 / sqrt(10 num) in norm.
    assert (mean_gradient_V - exact_V).norm() < 3 * (10 * num) ** -0.5


def test_the_gradient_by_draws_comes_nearer_to_the_dense_one_as_fast_as_independent_draws_would():
    """Through the real head, whose hidden states are the logits here.

    Four times the draws, at most half the error.
    """
    generator = torch.Generator().manual_seed(4)
    teacher_NV, student_NV = (torch.randn(300, 60, generator=generator) * 2 for _ in range(2))
    labels_N = torch.zeros(300, dtype=torch.long)

    def gradient(teacher_targets):
        hidden_NV = student_NV.clone().requires_grad_()
        loss, _ = linear_head_loss(
            hidden_NV,
            Head(torch.eye(60)),
            labels_N,
            teacher_targets,
            soft_weight=1.0,
            hard_weight=0.0,
        )
        return torch.autograd.grad(loss, hidden_NV)[0]

    exact_NV = gradient(DenseTargets(teacher_NV.log_softmax(-1)))
    variance = (
        1 - teacher_NV.softmax(-1).square().sum(-1)
    ).mean()  # of the shares of one independent draw
    errors = []
    for num_draws in (4, 16, 64, 256):
        record = draws.draw(
            teacher_NV, labels_N, draws.Rows.of(3, 300), num_draws=num_draws, columns=Columns(60)
        )
        errors.append(
            (gradient(targets([record], "cpu")) - exact_NV).square().sum(-1).mean().sqrt()
        )
        assert errors[-1] <= (variance / num_draws).sqrt()
    assert all(more < 0.5 * less for less, more in itertools.pairwise(errors))
    assert errors[-1] > 1e-4  # they are draws indeed


def test_records_of_two_kinds_and_no_records_are_refused(header, record_of):
    dense = record_of(SignalHeader("dense", 5), 2, seed=0)
    with pytest.raises(ValueError, match="one kind"):
        targets([record_of(header, 2, seed=0), dense], "cpu")
    with pytest.raises(ValueError, match="one kind"):
        targets([], "cpu")


def test_a_batch_without_answer_tokens_gives_no_targets(header, record_of):
    batch = targets([record_of(header, 0, seed=0)], "cpu")
    assert len(batch) == 0


def test_hidden_targets_are_the_tokens_of_the_sequences_one_after_another():
    parts = [
        np.random.default_rng(n).standard_normal((n, 100)).astype(np.float32) for n in (4, 0, 1, 30)
    ]
    batch = hidden_targets([quantize(p) for p in parts], 100, "cpu")
    assert len(batch) == 35 and batch.values_NG.dtype == torch.int8
    torch.testing.assert_close(
        batch.dequantized(torch.float32), torch.from_numpy(np.concatenate(parts)), rtol=0, atol=0.02
    )
    assert len(hidden_targets([], 100, "cpu")) == 0


SETS = torch.zeros(2, 9, dtype=torch.bool)


def test_chunk_targets_sum_what_is_told_of_the_teachers_tokens():
    """Two answers of three chunks, of numbers split otherwise, and an end; one token is not known."""
    logp = np.array([-1, -2, -3, -4, -5, -6], np.float32)
    boundary = np.array([-0.1, -0.2, -0.3, -0.4, np.nan, -0.6], np.float32)
    alignment = Alignment([2, 1, 1, 1, 1], [1, 3, 1, 1, 1], [1, 2, 1, 1, 3])
    untold = logp.copy()
    untold[3] = np.nan
    batch = chunk_targets(
        [LikelihoodRecord(logp, boundary), LikelihoodRecord(untold, boundary)],
        [PackedAlignment.of_row(alignment.row())] * 2,
        SETS,
        "cpu",
    )
    assert batch.chunk_N.tolist() == [0, -1, -1, -1, 1, 2, 3, 4, -1, -1, -1, -1, 5, 6]
    assert batch.is_end_N.nonzero()[:, 0].tolist() == [6, 13]
    assert batch.after_M.tolist() == [1, -1, 6, -1, 8, 13, -1]
    expected = [-3.3, -4, -5.6, -6, -3.3, -5.6, -6]
    torch.testing.assert_close(batch.teacher_logp_M, torch.tensor(expected))


def test_with_equal_tokenizers_the_loss_through_the_alignment_is_that_of_the_tokens():
    """From bytes to segments, to chunks, to the loss: each token is a chunk, and nothing is left out."""
    tokens = [b"Three", b" apples", b" cost", b" 1", b"2", b"."]
    num, end = len(tokens) + 1, 5
    generator = torch.Generator().manual_seed(0)
    logits_NV = 2 * torch.randn(num, 9, generator=generator, dtype=torch.float64)
    teacher_logp = -3 * torch.rand(num, generator=generator)
    labels_N = torch.tensor([0, 1, 2, 3, 4, 6, end])
    record = LikelihoodRecord(teacher_logp.numpy(), np.zeros(num, np.float32))
    alignment = joined(
        align(tokens, tokens, (True, True)), record.boundary_logp.tolist(), [True] * num
    )
    assert alignment.segments() == [(1, 1, CLOSED)] * 6 + [(1, 1, END)]
    found = chunk_targets(
        [record], [PackedAlignment.of_row(alignment.row())], sets_of([1, 2, 3], [end], 9), "cpu"
    )
    head = Head(torch.eye(9, dtype=torch.float64))
    _, parts = byte_chunk_loss(logits_NV, head, labels_N, found, soft_weight=1.0, hard_weight=0.0)
    logq_N = logits_NV.log_softmax(-1)[range(num), labels_N]
    p, q = ((logp.double() / TEMPERATURE - 1e-6).exp() for logp in (teacher_logp, logq_N))
    by_token = TEMPERATURE * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    torch.testing.assert_close(parts["soft"], by_token.sum(), rtol=1e-7, atol=1e-9)


def test_what_is_closed_is_compared_without_a_boundary():
    record = LikelihoodRecord(*np.full((2, 3), -1, np.float32))
    alignment = Alignment([1, 1, 1], [1, 1, 1], [4, 1, 3])
    batch = chunk_targets([record], [PackedAlignment.of_row(alignment.row())], SETS, "cpu")
    assert batch.after_M.tolist() == [-1, 2, -1]
    assert batch.teacher_logp_M.tolist() == [-1, -2, -1]


def test_a_boundary_after_the_students_last_token_is_not_looked_for_in_the_next_answer():
    record = LikelihoodRecord(*np.full((2, 2), -1, np.float32))
    alignment = Alignment([1, 1], [2, 0], [1, 0])
    batch = chunk_targets(
        [record, record], [PackedAlignment.of_row(alignment.row())] * 2, SETS, "cpu"
    )
    assert batch.after_M.tolist() == [-1, -1] and batch.teacher_logp_M.tolist() == [-1, -1]


def test_chunk_targets_of_nothing_and_of_another_record_or_alignment(header, record_of):
    batch = chunk_targets([], [], SETS, "cpu")
    assert len(batch) == batch.num_chunks == 0
    packed = PackedAlignment.of_row(Alignment([1], [1], [1]).row())
    with pytest.raises(ValueError, match="expected likelihoods"):
        chunk_targets([record_of(header, 1, seed=0)], [packed], SETS, "cpu")
    two = LikelihoodRecord(*np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="an alignment of 1 tokens"):
        chunk_targets([two], [packed], SETS, "cpu")
    with pytest.raises(ValueError, match="teacher's tokens"):
        targets([two], "cpu")
