"""What a teacher says in tokens that the student does not have, said in their pieces."""

from functools import cache

import numpy as np
import pytest
import torch

from distill.signals import pieces as signal_pieces
from distill.signals.pieces import Pieces

# The teacher's ids: a b c d, then ab, abc, abcd, cd, bc, another c, and one that is in no text.
PIECES = {4: (0, 1), 5: (0, 1, 2), 6: (0, 1, 2, 3), 7: (2, 3), 8: (1, 2), 9: (2,)}
UNWRITTEN = 10
NUM_KNOWN, PADDED = 11, 13
SPLIT = [(0,), (1,), (2,), (3,), *PIECES.values()]


def pieces() -> Pieces:
    return Pieces([0, 1, 2, 3], PIECES, NUM_KNOWN)


def logits_of(probs) -> torch.Tensor:
    """Logits of a padded head, whose last columns are nobody's."""
    logits_NC = torch.full((len(probs), PADDED), 7.0)
    logits_NC[:, :NUM_KNOWN] = torch.as_tensor(np.log(probs)).float() + 3
    return logits_NC


def said(probs, labels, *, lengths=None, step=None):
    """What the teacher says of the student's tokens, as probabilities [N, V]."""
    logits_NC, labels_N = logits_of(probs), torch.tensor(labels)
    step = step or len(labels)
    chunks = [
        (slice(start, min(start + step, len(labels))), logits_NC[start : start + step])
        for start in range(0, len(labels), step)
    ]
    told = pieces().over_students_ids(chunks, labels_N, lengths or [len(labels)])
    return torch.cat([logp_NV for _, logp_NV in told]).exp().double().numpy()


def probs_of(seed, num=1):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(NUM_KNOWN), num)
    return probs


def exact(prefix: tuple[int, ...], q: tuple[float, ...]) -> np.ndarray:
    """The next piece of a text whose tokens are drawn from q one by one: all ways are summed."""

    @cache
    def likely(text: tuple[int, ...]) -> float:
        if not text:
            return 1.0
        total = 0.0
        for token, split in enumerate(SPLIT):
            if split[: len(text)] == text:
                total += q[token]
            elif text[: len(split)] == split:
                total += q[token] * likely(text[len(split) :])
        return total

    return np.array([likely((*prefix, piece)) for piece in range(4)]) / likely(prefix)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_sum_over_all_tokens_that_the_text_may_have_got_into(seed, monkeypatch):
    monkeypatch.setattr(signal_pieces, "NEGLIGIBLE", 0.0)
    q = probs_of(seed)[0]
    text = np.random.default_rng(seed + 100).integers(0, 4, 9).tolist()
    found = said(np.tile(q, (len(text), 1)), text)
    normalised = q[:UNWRITTEN] / q[:UNWRITTEN].sum()
    for place in range(len(text)):
        expected = exact(tuple(text[:place]), tuple(normalised))
        np.testing.assert_allclose(found[place], expected, rtol=2e-5, atol=1e-7)


def test_what_is_dropped_as_negligible_changes_little():
    probs = probs_of(3, 40)
    labels = np.random.default_rng(4).integers(0, 4, 40).tolist()
    found = said(probs, labels)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal_pieces, "NEGLIGIBLE", 0.0)
        exactly = said(probs, labels)
    assert np.abs(found - exactly).sum(1).max() < 20 * signal_pieces.NEGLIGIBLE


def test_a_certain_token_that_was_taken_away_is_taught_piece_by_piece():
    probs = np.full((4, NUM_KNOWN), 1e-9)
    probs[0, 6] = 1  # abcd, and then, within it, the teacher says what it never meant
    probs[1:, 3] = 1
    found = said(probs, [0, 1, 2, 3])
    assert (found.argmax(1) == [0, 1, 2, 3]).all()
    assert (found.max(1) > 0.999).all()


def test_a_token_that_stays_keeps_its_own_mass_beside_what_it_begins():
    q = np.array([0.1, 0.2, 0.2, 0.05, 0.15, 0.1, 0.02, 0.03, 0.04, 0.1, 0.01])
    first, second = said(np.stack([q, q]), [0, 1])
    np.testing.assert_allclose(first * 0.99, [0.37, 0.24, 0.33, 0.05], atol=1e-6)
    whole = 0.1 / 0.37
    within_b = 1 - whole
    np.testing.assert_allclose(second[1], whole * 0.24 / 0.99 + within_b, atol=1e-4)


def test_where_no_token_was_taken_away_nothing_changes():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    whole = Pieces(range(6), {}, 6)
    [(part, logp)] = whole.over_students_ids(
        [(slice(0, 5), logits)], torch.tensor([1, 2, 3, 4, 5]), [5]
    )
    assert part == slice(0, 5)
    torch.testing.assert_close(logp, logits.log_softmax(-1))


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_neither_chunks_nor_other_sequences_change_what_is_said(step):
    probs, labels = probs_of(8, 12), [0, 1, 2, 0, 1, 3, 1, 2, 0, 1, 2, 3]
    lengths = [4, 0, 3, 5]
    together = said(probs, labels, lengths=lengths, step=step)
    alone, start = [], 0
    for length in lengths:
        if length:
            part = slice(start, start + length)
            alone.append(said(probs[part], labels[part]))
        start += length
    assert (together == np.concatenate(alone)).all()


def test_a_text_that_the_teacher_says_never_comes_begins_anew():
    probs = np.full((3, NUM_KNOWN), 0.1)
    logits_NC = logits_of(probs)
    logits_NC[0, [0, 4, 5, 6]] = -torch.inf
    [(_, logp)] = pieces().over_students_ids(
        [(slice(0, 3), logits_NC)], torch.tensor([0, 1, 2]), [3]
    )
    assert not logp.isnan().any()
    assert logp[0, 0] == -torch.inf
    np.testing.assert_allclose(logp[1].exp().sum(), 1, atol=1e-5)


def test_the_mass_of_what_was_taken_away_is_measured():
    probs = probs_of(5, 6)
    mass_N = pieces().removed_mass(logits_of(probs))
    np.testing.assert_allclose(mass_N, probs[:, 4:].sum(1), rtol=1e-5)


@pytest.mark.parametrize("kept", [[], [0, 5], [-1, 2], [2, 1], [1, 1]])
def test_ids_that_the_teacher_does_not_have_or_that_do_not_ascend_are_refused(kept):
    with pytest.raises(ValueError, match="do not ascend from 0 to below 5"):
        Pieces(kept, {}, 5)


@pytest.mark.parametrize("step", [1, 3])
def test_rows_of_a_large_vocabulary_have_the_same_bits_in_every_chunk(step):
    num_known, num_kept = 49_152, 32_768
    rng = np.random.default_rng(1)
    split = {t: tuple(rng.integers(0, num_kept, 2).tolist()) for t in range(num_kept, num_known)}
    large = Pieces(range(num_kept), split, num_known)
    logits_NC = 3 * torch.randn(7, num_known, generator=torch.Generator().manual_seed(1))
    labels_N = torch.tensor([split[num_kept + n][0] for n in range(7)])

    def told(chunk):
        chunks = (
            (slice(n, min(n + chunk, 7)), logits_NC[n : n + chunk]) for n in range(0, 7, chunk)
        )
        return torch.cat([logp for _, logp in large.over_students_ids(chunks, labels_N, [7])])

    assert torch.equal(told(step), told(7))


def test_what_many_unlikely_tokens_begin_is_not_lost():
    """Each is below what is negligible, all together are half of the mass."""
    num = 12_000
    split = {2 + t: (0, 1) for t in range(num)}
    probs = np.concatenate([[0.25, 0.25], np.full(num, 0.5 / num)])
    logits_NC = torch.from_numpy(np.log(np.stack([probs, probs]))).float()
    many = Pieces([0, 1], split, 2 + num)
    [(_, logp)] = many.over_students_ids([(slice(0, 2), logits_NC)], torch.tensor([0, 1]), [2])
    within = 0.5 / 0.75
    np.testing.assert_allclose(logp[0].exp(), [0.75, 0.25], atol=1e-4)
    np.testing.assert_allclose(logp[1, 1].exp(), within + (1 - within) * 0.25, atol=1e-3)
