"""Recovery: the gradient goes straight through, and a broken model finds back to itself."""

from typing import Any

import pytest
import torch
from step_helpers import biased_phi
from transformers import Qwen3Config, Qwen3ForCausalLM

from distill.errors import TrainingError
from distill.losses.divergences import forward_kl
from distill.losses.head import Head
from distill.models.score import TokenSequence
from distill.training import recover as recovery
from distill.training.recover import RecoveryPlan, SamplePool, recover, with_rounded_weights

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


def pool_of(sequences: list[TokenSequence]) -> SamplePool:
    model = tiny()
    head = Head(model.get_output_embeddings().weight)
    return SamplePool(model, sequences, head, num_steps=100, pad_id=0, vocab_size=VOCAB)


def to_fourths(weight: torch.Tensor) -> torch.Tensor:
    """A coarse grid, a scale for each row."""
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 2  # the padding's row is 0
    return (weight / scale).round() * scale


def roundings_of(model: Any) -> dict[str, Any]:
    return {name: to_fourths for name, p in model.named_parameters() if p.ndim == 2}


@torch.no_grad()
def kl(teacher: Any, model: Any, sequences: list[TokenSequence]) -> float:
    divergences = []
    for s in sequences:
        p, q = (
            m(torch.tensor([s.ids])).logits[0, s.answer_start - 1 : -1, :VOCAB].log_softmax(-1)
            for m in (teacher, model)
        )
        divergences.append(forward_kl(q, p))
    return float(torch.cat(divergences).mean())


def test_a_broken_model_finds_back_to_itself_on_samples_it_has_not_seen(
    sequences: list[TokenSequence],
) -> None:
    teacher, model = tiny(), tiny()
    learn, unseen = sequences[:50], sequences[50:]
    with with_rounded_weights(model, roundings_of(model)):
        plain = kl(teacher, model, unseen)
    assert kl(teacher, model, unseen) == 0, "the latent weights come back"
    losses = recover(
        model,
        learn,
        roundings_of(model),
        RecoveryPlan(60, 0.03, 0),
        pad_id=0,
        vocab_size=VOCAB,
        label="recover",
    )
    with with_rounded_weights(model, roundings_of(model)):
        recovered = kl(teacher, model, unseen)
    assert len(losses) == 60 and losses[0] == pytest.approx(plain, rel=0.3)
    assert recovered < 0.85 * plain


def test_the_same_plan_ends_in_the_same_weights(sequences: list[TokenSequence]) -> None:
    first, second = tiny(), tiny()
    for model in (first, second):
        recover(
            model,
            sequences,
            roundings_of(model),
            RecoveryPlan(5, 0.02, 3),
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
    with with_rounded_weights(model, {name: to_fourths}):
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
    monkeypatch.setattr(recovery, "POOL_VALUES", 64 * 100)
    pool = pool_of(sequences)
    assert 0 < sum(len(s.ids) for s in pool.samples) <= 100
    assert pool.samples == sequences[: len(pool.samples)]
    assert [len(h) for h in pool.hidden] == [s.num_answer_tokens for s in pool.samples]


def test_batches_are_about_as_large_as_they_may_be_and_every_sample_comes_once_a_pass(
    sequences: list[TokenSequence],
) -> None:
    pool = pool_of(sequences * 20)
    assert len(pool.samples) == len(sequences) * 20
    batches = pool.batches(seed=0)
    seen: list[int] = []
    while len(seen) < len(pool.samples):
        batch = next(batches)
        longest = max(len(pool.samples[i].ids) for i in batch)
        assert len(batch) * longest <= recovery.BATCH_TOKENS
        seen += batch
    assert sorted(seen) == list(range(len(pool.samples)))


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
            RecoveryPlan(5, 0.02, 0),
            pad_id=0,
            vocab_size=VOCAB,
            label="recover q2_k",
        )


def test_a_head_with_a_bias_is_compared_with_its_bias(sequences: list[TokenSequence]) -> None:
    """The first loss is the KL between the two models' own logits, which have the bias in them."""
    few = sequences[:20]
    teacher, model = (biased_phi(vocabulary=VOCAB + 4) for _ in range(2))
    with with_rounded_weights(model, roundings_of(model)):
        expected = kl(teacher, model, few)
    bias = model.lm_head.bias.detach().clone()
    losses = recover(
        model,
        few,
        roundings_of(model),
        RecoveryPlan(2, 0.02, 0),
        pad_id=0,
        vocab_size=VOCAB,
        label="recover",
    )
    assert losses[0] == pytest.approx(expected, rel=1e-3)
    assert torch.equal(model.lm_head.bias, bias), "what is not rounded stays as it is"
