import pytest
import torch

from distill.models.batching import batches_by_length
from distill.models.head import head_of
from distill.models.score import TokenSequence, answer_hidden_states, score

SEQUENCES = [
    TokenSequence([5, 6, 7, 8, 9], 2),
    TokenSequence([10, 11, 12], 1),
    TokenSequence(list(range(20, 40)), 7),
]


@pytest.mark.parametrize("batch_tokens", [1, 45, 1000])
def test_scores_equal_a_plain_forward_pass_whatever_the_batch(qwen3, batch_tokens):
    seen = set()
    for index, logp_T, top_T in score(
        qwen3, head_of(qwen3), SEQUENCES, batch_tokens=batch_tokens, pad_id=0, vocab_size=300
    ):
        s = SEQUENCES[index]
        full_TV = qwen3(torch.tensor([s.ids])).logits[0].log_softmax(-1)
        expected = full_TV[s.answer_start - 1 : -1].gather(
            1, torch.tensor(s.ids[s.answer_start :])[:, None]
        )[:, 0]
        assert torch.allclose(logp_T, expected, atol=1e-5)
        assert torch.equal(top_T, full_TV[s.answer_start - 1 : -1].argmax(-1))
        seen.add(index)
    assert seen == {0, 1, 2}


def test_ids_beyond_the_shared_vocabulary_get_no_mass(qwen3):
    for index, logp_T, top_T in score(
        qwen3, head_of(qwen3), SEQUENCES, batch_tokens=99, pad_id=0, vocab_size=100
    ):
        s = SEQUENCES[index]
        cut_TV = qwen3(torch.tensor([s.ids])).logits[0, :, :100].log_softmax(-1)
        expected = cut_TV[s.answer_start - 1 : -1].gather(
            1, torch.tensor(s.ids[s.answer_start :])[:, None]
        )[:, 0]
        assert torch.allclose(logp_T, expected, atol=1e-5)
        assert top_T.max() < 100


def test_hidden_states_are_those_that_predict_the_answer(qwen3):
    hidden = answer_hidden_states(qwen3, SEQUENCES, pad_id=0)
    assert [len(h) for h in hidden] == [s.num_answer_tokens for s in SEQUENCES]


def test_batches_hold_every_index_once_and_respect_the_limit():
    lengths = [3, 50, 7, 7, 20, 1, 33]
    batches = batches_by_length(lengths, 60)
    assert sorted(i for b in batches for i in b) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 60 for b in batches)
    assert batches == batches_by_length(lengths, 60)
    assert batches_by_length([100], 10) == [[0]], "a sequence over the limit stands alone"
