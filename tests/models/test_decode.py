from dataclasses import replace

import pytest
import torch

from distill.models import decode
from distill.models.decode import answer, draw
from distill.models.sampling import Sampling

GREEDY = Sampling()
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13], [14, 15, 16, 17]]


def answers(
    model,
    prompts=PROMPTS,
    sampling=GREEDY,
    seeds=None,
    max_new_tokens=12,
    stop_ids=(2,),
    vocab_size=None,
):
    found, order = {}, []

    def finished(index, ids, reason):
        assert index not in found, "each answer is reported once"
        found[index] = (ids, reason)
        order.append(index)

    answer(
        model,
        prompts,
        seeds=seeds or range(len(prompts)),
        sampling=replace(sampling, max_new_tokens=max_new_tokens, stop_ids=stop_ids),
        pad_id=0,
        on_finished=finished,
        vocab_size=vocab_size,
    )
    return found, order


def test_greedy_answers_are_those_of_each_prompt_alone(qwen3):
    together, _ = answers(qwen3)
    for index, prompt in enumerate(PROMPTS):
        alone, _ = answers(qwen3, [prompt])
        assert together[index] == alone[0], "left padding does not change an answer"


def test_greedy_is_argmax_of_the_model(qwen3):
    (ids, reason) = answers(qwen3, [[5, 6, 7]], max_new_tokens=4, stop_ids=(299,))[0][0]
    context = [5, 6, 7]
    for token in ids:
        assert token == int(qwen3(torch.tensor([context])).logits[0, -1].argmax())
        context.append(token)
    assert reason == "length" and len(ids) == 4


def test_an_answer_ends_with_its_stop_token_and_is_reported_at_once(qwen3):
    free, _ = answers(qwen3, stop_ids=(299,))
    stop = free[1][0][3]  # a token that the second answer reaches after three others
    found, order = answers(qwen3, stop_ids=(stop,))
    ids, reason = found[1]
    assert reason == "stop" and ids[-1] == stop and ids.count(stop) == 1
    assert order.index(1) <= order.index(max(found, key=lambda i: len(found[i][0])))


def test_same_seeds_same_answers_other_seeds_others(qwen3):
    sampling = Sampling(1.0)
    first, _ = answers(qwen3, sampling=sampling, seeds=[1, 2, 3, 4])
    again, _ = answers(qwen3, sampling=sampling, seeds=[1, 2, 3, 4])
    other, _ = answers(qwen3, sampling=sampling, seeds=[5, 6, 7, 8])
    assert first == again != other


def test_a_seed_belongs_to_its_request_not_to_its_row(qwen3):
    sampling = Sampling(1.0, 0.9, 40)
    first, _ = answers(qwen3, sampling=sampling, seeds=[1, 2, 3, 4])
    turned, _ = answers(qwen3, PROMPTS[::-1], sampling=sampling, seeds=[4, 3, 2, 1])
    assert [first[i] for i in range(4)] == [turned[3 - i] for i in range(4)]


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.7, 0.8, 20), Sampling(1.5, 1.0, 5), Sampling(1.0, 0.6)]
)
def test_draws_have_the_tempered_and_cut_distribution(sampling):
    generator = torch.Generator().manual_seed(0)
    scores_V = torch.randn(50, generator=generator) * 2
    p = (scores_V / sampling.temperature).softmax(-1)
    if sampling.top_k:
        p = p.where(p >= p.topk(sampling.top_k).values[-1], 0)
        p = p / p.sum()
    if sampling.top_p < 1:
        ordered, ids = p.sort(descending=True)
        keep = ordered.cumsum(-1) - ordered < sampling.top_p
        p = torch.zeros_like(p).scatter(0, ids, ordered * keep)
        p = p / p.sum()
    num = 200_000
    uniform = (
        torch.arange(num) + 0.5
    ) / num  # evenly spaced: the shares are then exact, not a matter of luck
    drawn = draw(scores_V.expand(num, -1), uniform, sampling)[:, 0]
    shares = drawn.bincount(minlength=50) / num
    assert (shares - p).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_p_among_the_likeliest_ids_draws_what_a_sort_of_all_would(monkeypatch, dtype):
    """Sharp rows and flat ones, which need the sort, side by side; in bfloat16 many are equal."""
    generator = torch.Generator().manual_seed(1)
    spread_B1 = torch.tensor([0.1, 1.0, 3.0, 6.0, 12.0]).repeat(400)[:, None]
    scores_BV = (torch.randn(2000, 3000, generator=generator) * spread_B1).to(dtype)
    scores_BV[:, 2900:] = -torch.inf
    uniform_B = torch.rand(2000, generator=generator)
    sampling, sorted_rows = Sampling(0.7, 0.9), []
    of_all = decode._drawn_of_all

    def noted(scores_BV, uniform_B, sampling):
        sorted_rows.append(len(scores_BV))
        return of_all(scores_BV, uniform_B, sampling)

    monkeypatch.setattr(decode, "_drawn_of_all", noted)
    drawn_B1 = draw(scores_BV, uniform_B, sampling)
    assert torch.equal(drawn_B1, of_all(scores_BV, uniform_B, sampling))
    assert 400 <= sum(sorted_rows) <= 1200, "only those that need it"
    alone = [draw(scores_BV[i : i + 1], uniform_B[i : i + 1], sampling) for i in range(0, 2000, 97)]
    assert torch.equal(torch.cat(alone), drawn_B1[::97]), "whatever else is in the batch"


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0), Sampling(1.0, 0.9, 40)])
def test_rows_of_the_embedding_that_stand_for_no_token_are_never_drawn(qwen3, sampling):
    free, _ = answers(qwen3, sampling=sampling)
    size = max(max(ids) for ids, _ in free.values())
    found, _ = answers(qwen3, sampling=sampling, vocab_size=size)
    assert 10 < size > max(max(ids) for ids, _ in found.values())


def test_a_draw_never_takes_an_id_without_mass():
    scores = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    for u in (0.0, 0.5, 0.9999999):
        assert draw(scores, torch.tensor([u]), Sampling(1.0)).item() == 0
