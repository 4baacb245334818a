"""Recovery: the gradient goes straight through, and a model that rounding broke finds back to itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from distill.errors import TrainingError
from distill.losses.divergences import forward_kl
from distill.models.score import TokenSequence
from distill.training.recover import Plan, as_in_the_file, recover

VOCAB = 300


def tiny() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB + 4,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            tie_word_embeddings=True,
            pad_token_id=0,
            initializer_range=0.15,
        )
    ).eval()


@pytest.fixture
def sequences() -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(6, 40, (60,), generator=generator).tolist()
    return [
        TokenSequence(torch.randint(VOCAB, (n,), generator=generator).tolist(), 2) for n in lengths
    ]


def to_fourths(weight: torch.Tensor) -> torch.Tensor:
    """A coarse grid, a scale for each row."""
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 2  # the padding's row is 0
    return (weight / scale).round() * scale


def roundings_of(model: Any) -> dict[str, Any]:
    return {name: to_fourths for name, p in model.named_parameters() if p.ndim == 2}


@torch.no_grad()
def kl(whole: Any, model: Any, sequences: list[TokenSequence]) -> float:
    found = []
    for s in sequences:
        p, q = (
            m(torch.tensor([s.ids])).logits[0, s.answer_start - 1 : -1, :VOCAB].log_softmax(-1)
            for m in (whole, model)
        )
        found.append(forward_kl(q, p))
    return float(torch.cat(found).mean())


def test_a_broken_model_finds_back_to_itself_on_samples_it_has_not_seen(
    sequences: list[TokenSequence],
) -> None:
    whole, model = tiny(), tiny()
    learn, unseen = sequences[:50], sequences[50:]
    with as_in_the_file(model, roundings_of(model)):
        plain = kl(whole, model, unseen)
    assert kl(whole, model, unseen) == 0, "the latent weights come back"
    losses = recover(
        model,
        learn,
        roundings_of(model),
        Plan(60, 0.03, 0),
        pad_id=0,
        vocab_size=VOCAB,
        label="recover",
    )
    with as_in_the_file(model, roundings_of(model)):
        recovered = kl(whole, model, unseen)
    assert len(losses) == 60 and losses[0] == pytest.approx(plain, rel=0.3)
    assert recovered < 0.85 * plain


def test_the_same_plan_ends_in_the_same_weights(sequences: list[TokenSequence]) -> None:
    first, second = tiny(), tiny()
    for model in (first, second):
        recover(
            model,
            sequences,
            roundings_of(model),
            Plan(5, 0.02, 3),
            pad_id=0,
            vocab_size=VOCAB,
            label="recover",
        )
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.model.embed_tokens.weight, tiny().model.embed_tokens.weight)


def test_the_gradient_is_that_at_the_rounded_weights_and_moves_the_latent_ones() -> None:
    model = tiny()
    name = "model.layers.0.mlp.up_proj.weight"
    parameter = model.get_parameter(name)
    before = parameter.data.clone()
    ids = torch.arange(20)[None]
    with as_in_the_file(model, {name: to_fourths}):
        assert torch.equal(parameter.data, before + (to_fourths(before) - before))
        model(ids, labels=ids).loss.backward()
    assert torch.equal(parameter.data, before)
    twin = tiny()
    twin.get_parameter(name).data = to_fourths(before)
    twin(ids, labels=ids).loss.backward()
    torch.testing.assert_close(parameter.grad, twin.get_parameter(name).grad)


def test_no_more_hidden_states_are_held_than_there_is_room_for(
    sequences: list[TokenSequence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "POOL_VALUES", 64 * 100)
    pool, hidden = recover._pool(tiny(), sequences, 0, num_steps=10)
    assert 0 < sum(len(s.ids) for s in pool) <= 100 and pool == sequences[: len(pool)]
    assert [len(h) for h in hidden] == [s.num_answer_tokens for s in pool]


def test_batches_are_about_as_large_as_they_may_be_and_every_sample_comes_once_a_pass(
    sequences: list[TokenSequence],
) -> None:
    batches: Iterator[list[int]] = recover._batches(sequences * 20, seed=0)
    seen: list[int] = []
    while len(seen) < len(sequences) * 20:
        batch = next(batches)
        assert len(batch) * max(len((sequences * 20)[i].ids) for i in batch) <= recover.BATCH_TOKENS
        seen += batch
    assert sorted(seen) == list(range(len(sequences) * 20))


def test_a_loss_that_is_not_finite_stops(sequences: list[TokenSequence]) -> None:
    model = tiny()
    broken = {"model.layers.0.mlp.up_proj.weight": lambda weight: weight * float("nan")}
    with pytest.raises(
        TrainingError, match=r"recover q2_k, step 1: loss nan.*quantize.recover_learning_rate"
    ):
        recover(
            model,
            sequences,
            broken,
            Plan(5, 0.02, 0),
            pad_id=0,
            vocab_size=VOCAB,
            label="recover q2_k",
        )
