import pytest
import torch

from distill.losses.head import Head
from distill.models import score as score_module
from distill.models.batching import batches_by_length
from distill.models.head import head_of, logits
from distill.models.score import TokenSequence, answer_hidden_states, logit_chunks, score

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


@pytest.mark.parametrize("num", [0, 1, 7, 64, 131])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("around", [{}, {"scale": 0.5}, {"softcap": 3.0}, {"bias": True}])
def test_logits_in_chunks_are_all_the_heads_logits(monkeypatch, num, dtype, weight_dtype, around):
    monkeypatch.setattr(score_module, "fast_chunk", lambda num_ids, dtype: 64)
    monkeypatch.setattr(score_module, "cached_block", lambda num_ids, largest: 10)
    torch.manual_seed(num)
    bias_V = torch.randn(37).to(weight_dtype) if around.get("bias") else None
    numbers = {name: value for name, value in around.items() if name != "bias"}
    head = Head(torch.randn(37, 8).to(weight_dtype), bias_V, **numbers)
    hidden_NH = torch.randn(num, 8).to(dtype)
    found_NV, stop = torch.empty(num, 37), 0
    for part, logits_NV in logit_chunks(head, hidden_NH):
        assert part.start == stop and logits_NV.dtype == torch.float32
        found_NV[part], stop = logits_NV, part.stop
    assert stop == num
    rounding = 1e-5 if dtype == torch.float32 else 3e-2
    expected_NV = logits(head, hidden_NH).float()
    torch.testing.assert_close(found_NV, expected_NV, rtol=rounding, atol=rounding)
