"""Draws follow the teacher's distribution and depend on nothing but sequence and position."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from distill.errors import DataError, MismatchError
from distill.signals import draws, encoding
from distill.signals.columns import Columns


def teacher_logits(num: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, vocab_size, generator=generator) * 2.5


def draw(logits, seed=1, num_draws=50, vocab_size=None, first_position=0):
    target_N = torch.arange(len(logits)) % 2
    size = vocab_size or logits.shape[1]
    rows = draws.Rows.of(seed, len(logits), first_position)
    return draws.draw(logits, target_N, rows, num_draws=num_draws, columns=Columns(size))


def top_k(logits, k, vocab_size=None, first_position=0):
    rows = draws.Rows.of(0, len(logits), first_position)
    return draws.top_k(logits, rows, k=k, columns=Columns(vocab_size or logits.shape[1]))


def dense(logits, vocab_size=None, first_position=0):
    rows = draws.Rows.of(0, len(logits), first_position)
    return draws.dense(logits, rows, columns=Columns(vocab_size or logits.shape[1]))


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def shares_of(record, num_draws: int, vocab_size: int) -> np.ndarray:
    """[T, V], counts / n."""
    shares = np.zeros((record.num_tokens, vocab_size))
    rows = np.repeat(np.arange(record.num_tokens), np.diff(record.offsets))
    shares[rows, record.ids] = record.counts / num_draws
    return shares


def test_log_probs_of_the_draws_are_the_teachers_and_change_no_draw():
    logits = teacher_logits(60, 3001)
    logits[0] *= 30  # a tail that 1 - sum would lose
    logits[1, 100:] = -torch.inf
    target_N = torch.arange(60) % 200
    rows, columns = draws.Rows.of(1, 60), Columns(3000)
    plain = draws.draw(logits, target_N, rows, num_draws=50, columns=columns)
    record = draws.draw(logits, target_N, rows, num_draws=50, columns=columns, with_log_probs=True)
    assert isinstance(record, encoding.ScoredDraws)
    assert all(
        np.array_equal(getattr(record, f.name), getattr(plain, f.name)) for f in fields(plain)
    )
    logp_NV = logits[:, :3000].double().log_softmax(-1)
    for t in range(60):
        ids = torch.from_numpy(record.ids[record.offsets[t] : record.offsets[t + 1]]).long()
        said = record.logp[record.offsets[t] : record.offsets[t + 1]]
        np.testing.assert_allclose(said, logp_NV[t, ids], rtol=1e-5, atol=1e-5)
        known = torch.cat([ids, target_N[t : t + 1]])
        tail = logp_NV[t].index_fill(0, known, -torch.inf).logsumexp(-1)
        np.testing.assert_allclose(record.tail_logp[t], tail, rtol=1e-4, atol=1e-4)


def test_a_record_keeps_the_laws():
    record = draw(teacher_logits(40, 3001))
    assert record.ids.dtype == np.int32 and record.offsets[-1] == len(record.ids) == len(
        record.counts
    )
    assert (np.add.reduceat(record.counts, record.offsets[:-1]) == 50).all()
    for start, end in zip(record.offsets[:-1], record.offsets[1:], strict=True):
        assert (np.diff(record.ids[start:end]) > 0).all()


def test_log_prob_and_entropy_are_the_teachers():
    logits = teacher_logits(40, 3001)
    record = draw(logits)
    logp = logits.double().log_softmax(-1)
    np.testing.assert_allclose(
        record.target_logp, logp[torch.arange(40), torch.arange(40) % 2], atol=1e-5
    )
    np.testing.assert_allclose(record.entropy, -(logp.exp() * logp).sum(-1), atol=1e-5)


def test_shares_are_unbiased_and_vary_less_than_independent_draws():
    num_positions, num_draws, vocab_size = 3000, 20, 200
    for seed in range(3):
        logits = teacher_logits(1, vocab_size, seed)
        p = logits[0].double().softmax(-1).numpy()
        record = draw(logits.expand(num_positions, -1), seed, num_draws)
        shares = shares_of(record, num_draws, vocab_size)
        # 5 standard errors of independent draws, and 5 draws more for ids too rare for a normal
        # distribution.
        total = num_draws * num_positions
        assert (np.abs(shares.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / total) + 5 / total).all()
        independent = (p * (1 - p)).sum() / num_draws
        assert ((shares - p) ** 2).sum(1).mean() < 0.7 * independent


def test_draws_reach_every_part_of_a_large_vocabulary_evenly():
    vocab_size, num_draws = 151_936, 50
    record = draw(torch.zeros(64, vocab_size), num_draws=num_draws)
    assert len(record.ids) > 0.99 * 64 * num_draws
    # The j-th draw of an even distribution lies in the j-th fiftieth of the ids.
    per_fiftieth = np.bincount(
        record.ids * num_draws // vocab_size, weights=record.counts, minlength=num_draws
    )
    assert np.abs(per_fiftieth - 64).max() <= 1


def test_draws_of_different_positions_and_seeds_are_independent():
    ids = (
        np.stack([draw(torch.zeros(200, 4096), seed, num_draws=1).ids for seed in range(3)]) / 4096
    )
    assert np.abs(np.corrcoef(ids) - np.eye(3)).max() < 0.3
    assert np.abs(np.corrcoef([ids[0, 1:], ids[0, :-1]]) - np.eye(2)).max() < 0.3
    assert abs(ids.mean() - 0.5) < 5 * (1 / 12 / ids.size) ** 0.5


def test_an_id_without_mass_is_never_drawn():
    possible = [0, 63, 64, 1000, 1001, 3000]
    logits = torch.full((30, 3001), -torch.inf)
    logits[:, possible] = torch.tensor([0.0, -30.0, 3.0, 2.0, 1.0, 0.0])
    record = draw(logits, num_draws=1000)
    assert set(record.ids) == {0, 64, 1000, 1001, 3000}  # e^-30 is possible but not to be expected
    assert np.isfinite(record.entropy).all()


def test_the_extreme_uniform_numbers_give_the_first_and_the_last_possible_id(monkeypatch):
    extremes = np.array([0.0, 1 - 2**-53, 1.0])
    monkeypatch.setattr(
        draws, "_stratified_uniforms", lambda rows, n: np.tile(extremes, (len(rows), 1))
    )
    for vocab_size in (1000, 151_936):
        logits = teacher_logits(4, vocab_size)
        logits[:, :70] = logits[:, -70:] = -torch.inf
        record = draw(logits, num_draws=3)
        assert record.ids.tolist() == [70, vocab_size - 71] * 4


def test_a_certain_token_gets_all_draws():
    logits = torch.full((5, 500), -200.0)
    logits[:, 321] = 0
    record = draw(logits)
    assert record.ids.tolist() == [321] * 5 and record.counts.tolist() == [50] * 5
    assert record.entropy.max() == 0


def test_same_seed_same_record_other_seed_another():
    logits = teacher_logits(9, 700)
    assert same(draw(logits, seed=4), draw(logits, seed=4))
    assert not same(draw(logits, seed=4), draw(logits, seed=5))


def test_a_record_does_not_depend_on_how_a_sequence_is_cut(monkeypatch):
    logits = teacher_logits(50, 3001)
    whole = draw(logits)
    parts = [
        draw(logits[a:b], first_position=a) for a, b in ((0, 2), (2, 3), (3, 3), (3, 36), (36, 50))
    ]
    # the targets alternate with the row, so only what was drawn is compared
    joined: Any = encoding.join(parts)
    assert np.array_equal(whole.ids, joined.ids) and np.array_equal(whole.counts, joined.counts)
    monkeypatch.setattr(draws, "CACHED_VALUES", 1)  # a row at a time
    assert same(draw(logits), whole)


def test_a_record_does_not_depend_on_the_sequences_beside_it():
    logits = teacher_logits(30, 3001)
    target_N = torch.arange(30) % 2
    rows = draws.Rows.join(
        [draws.Rows.of(7, 10), draws.Rows.of(2**64 - 1, 15), draws.Rows.of(8, 5, first_position=3)]
    )
    together: Any = draws.draw(logits, target_N, rows, num_draws=50, columns=Columns(3001))
    alone = [
        draws.draw(logits[part], target_N[part], rows[part], num_draws=50, columns=Columns(3001))
        for part in (slice(10), slice(10, 25), slice(25, 30))
    ]
    assert same(together, encoding.join(alone))
    for record, cut in zip(alone, encoding.regroup([together], [10, 15, 5]), strict=True):
        assert same(record, cut)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
def test_a_padded_head_gives_no_phantom_ids(kind):
    capture = {
        "sampled": lambda z: draw(z, vocab_size=151_669),
        "top_k": lambda z: top_k(z, k=20, vocab_size=151_669),
        "dense": lambda z: dense(z, vocab_size=151_669),
    }[kind]
    logits = teacher_logits(3, 152_064)
    logits[:, 151_669:] = 50  # a head's padding may hold anything
    assert same(capture(logits), capture(logits[:, :151_669]))


def test_top_k_and_tail_make_up_all_mass():
    logits = teacher_logits(20, 3001)
    logp = logits.double().log_softmax(-1)
    for k in (1, 8, 3000):
        record = top_k(logits, k=k)
        assert (np.diff(record.ids, axis=1) > 0).all()
        np.testing.assert_allclose(
            np.exp(record.logp).sum(1) + np.exp(record.tail_logp), 1, atol=1e-5
        )
        likeliest = logp.topk(k).indices.sort(-1).values
        assert np.array_equal(record.ids, likeliest)
        np.testing.assert_allclose(record.logp, logp.gather(1, likeliest), atol=1e-5)


def test_a_tiny_tail_keeps_its_digits():
    logits = torch.tensor([[0.0, -40.0, -41.0]])
    tail = top_k(logits, k=1).tail_logp
    np.testing.assert_allclose(tail, np.log(np.exp(-40) + np.exp(-41)), rtol=1e-6)
    assert np.isneginf(top_k(logits, k=3).tail_logp)


def test_dense_is_the_log_softmax():
    logits = teacher_logits(20, 301)
    np.testing.assert_allclose(dense(logits).logp, logits.double().log_softmax(-1), atol=1e-5)


def test_no_positions_give_a_record_of_no_tokens():
    logits = torch.zeros(0, 10)
    for record in (draw(logits), top_k(logits, k=3), dense(logits)):
        assert record.num_tokens == 0


def test_bfloat16_logits_with_a_gradient_are_taken():
    logits = teacher_logits(4, 300).bfloat16()
    assert same(draw(logits.requires_grad_()), draw(logits.detach().float()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused_with_their_position(value):
    logits = teacher_logits(6, 300)
    logits[4, 7] = value
    message = (
        "not finite at answer token 14 of the sequence whose key begins with 0{15}[01]; "
        r"load it with teacher\.dtype="
    )
    with pytest.raises(DataError, match=message):
        draw(logits, first_position=10)
    with pytest.raises(DataError, match=message):
        top_k(logits, k=3, first_position=10)
    with pytest.raises(DataError, match=message):
        dense(logits, first_position=10)


def test_an_answer_token_that_is_not_shared_is_refused():
    with pytest.raises(MismatchError, match="token 310, teacher and student share ids below 300"):
        draws.draw(
            torch.zeros(1, 320),
            torch.tensor([310]),
            draws.Rows.of(0, 1),
            num_draws=5,
            columns=Columns(300),
        )
    with pytest.raises(ValueError, match="target_N has shape"):
        draws.draw(
            torch.zeros(2, 320),
            torch.tensor([3]),
            draws.Rows.of(0, 2),
            num_draws=5,
            columns=Columns(300),
        )


def test_the_seed_comes_from_the_key():
    assert draws.seed_of("ff" * 16) == 2**64 - 1
    assert same(
        draw(teacher_logits(2, 90), draws.seed_of("ff" * 16)),
        draw(teacher_logits(2, 90), 2**64 - 1),
    )
