"""What the chunked head holds in memory, tensor by tensor, at the size of a real vocabulary."""

import math
from typing import Any

import pytest
import torch
from memory_helpers import Memory
from torch import Tensor

from distill.losses import head_gradients
from distill.losses.head import Head
from distill.losses.linear_head import OwnText, linear_head_loss
from distill.losses.targets import DenseTargets, DrawLogProbs, SampledTargets, Targets, TopKTargets

MIB = 1 << 20
REAL_VOCAB = 151_936


def problem(
    kind: str, num_tokens: int, hidden: int, vocab: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Targets]:
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(num_tokens, hidden, generator=generator).to(dtype).requires_grad_()
    weight_VH = torch.randn(vocab, hidden, generator=generator).to(dtype).requires_grad_()
    labels_N = torch.randint(vocab, (num_tokens,), generator=generator)
    ids_NK = (torch.arange(12) * 7 + torch.arange(num_tokens)[:, None]) % vocab
    ids_NK[:, 0] = vocab - 1 - labels_N % 5
    share_NK = torch.full((num_tokens, 12), 1 / 12)
    if kind in ("sampled", "scored"):
        half_N = torch.full((num_tokens,), math.log(0.5))
        said = DrawLogProbs((share_NK / 4).log(), half_N - 1, half_N) if kind == "scored" else None
        targets: Targets = SampledTargets(ids_NK, share_NK, torch.zeros(num_tokens), said)
    elif kind == "top_k":
        targets = TopKTargets(
            ids_NK, (share_NK / 2).log(), torch.full((num_tokens,), math.log(0.5))
        )
    else:
        targets = DenseTargets(torch.full((1, vocab), -math.log(vocab)).expand(num_tokens, vocab))
    return hidden_NH, weight_VH, labels_N, targets


def test_the_counter_counts() -> None:
    """A tensor that dies is subtracted, a view adds nothing: else the bounds below mean little."""
    memory, a = Memory(), None
    with memory:
        for _ in range(3):
            a = torch.zeros(1000)
            a[:10].view(2, 5).add_(1)
        a = None
    assert memory.peak == 2 * 4000  # the next `a` is made before the last one is let go
    assert memory.alive == 0 and a is None


def test_the_counter_sees_the_logits_of_a_plain_loss() -> None:
    hidden, weight, labels, _ = problem("sampled", 64, 8, 1000)
    with Memory() as memory:
        torch.nn.functional.cross_entropy(hidden @ weight.T, labels).backward()
    assert (64, 1000) in memory.shapes


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", "scored"])
@pytest.mark.parametrize(
    ("softcap", "temperature"), [(None, 1.0), (5.0, 2.0)], ids=["simple", "softcap"]
)
def test_nothing_of_tokens_times_vocabulary_is_ever_made(
    kind: str, softcap: float | None, temperature: float
) -> None:
    hidden, weight, labels, targets = problem(kind, 64, 8, 1000)
    divergence = "forward_kl" if kind == "sampled" else "reverse_kl"
    with Memory() as memory:
        loss, _ = linear_head_loss(
            hidden,
            Head(weight, softcap=softcap),
            labels,
            targets,
            soft_weight=1.0,
            hard_weight=0.5,
            divergence=divergence,
            loss_temperature=temperature,
            chunk_size=4,
        )
        loss.backward()
    assert memory.largest == max(4 * 1000, 1000 * 8)  # a chunk's logits, the head's gradient
    assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "num_tokens", "dtype", "softcap", "options"),
    [
        ("sampled", 256, torch.float32, None, {}),
        ("sampled", 120, torch.bfloat16, 30.0, {}),
        ("sampled", 120, torch.float32, 30.0, {"loss_temperature": 2.0}),
        ("top_k", 120, torch.float32, None, {"divergence": "reverse_kl"}),
        (
            "scored",
            120,
            torch.float32,
            None,
            {
                "divergence": "skew_kl",
                "divergence_parameters": {"alpha": 0.1},
                "stop_ids": [1, 2, 3],
                "own_text": OwnText(60, "skew_reverse_kl", {"alpha": 0.1}),
            },
        ),
        (
            "dense",
            60,
            torch.float32,
            None,
            {"divergence": "jsd", "divergence_parameters": {"beta": 0.5}},
        ),
    ],
)
def test_under_200_mib_above_the_heads_gradient_at_a_real_vocabulary(
    kind: str,
    num_tokens: int,
    dtype: torch.dtype,
    softcap: float | None,
    options: dict[str, Any],
) -> None:
    hidden_size = 8
    hidden, weight, labels, targets = problem(kind, num_tokens, hidden_size, REAL_VOCAB, dtype)
    with Memory() as memory:
        loss, _ = linear_head_loss(
            hidden,
            Head(weight, softcap=softcap),
            labels,
            targets,
            soft_weight=1.0,
            hard_weight=0.1,
            **options,
        )
        loss.backward()
    assert memory.peak - REAL_VOCAB * hidden_size * 4 < 200 * MIB
    assert (
        weight.grad is not None and (weight.grad[-5:].abs().sum(-1) > 0).all()
    )  # ids above 2^17 reach their rows


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
@pytest.mark.parametrize("frozen", ["weight", "hidden", "both"])
def test_nothing_is_made_for_what_is_frozen(kind: str, frozen: str) -> None:
    hidden, weight, labels, targets = problem(kind, 24, 8, 100)
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    bias = torch.zeros(100)
    with Memory() as memory:
        loss, _ = linear_head_loss(
            hidden,
            Head(weight, bias),
            labels,
            targets,
            soft_weight=1.0,
            hard_weight=0.5,
            chunk_size=6,
        )
        if frozen != "both":
            loss.backward()
    assert ((100, 8) in memory.shapes) == (frozen == "hidden")
    assert ((24, 8) in memory.shapes) == (frozen == "weight")
    assert (weight.grad is None) == (frozen != "hidden")
    assert (hidden.grad is None) == (frozen != "weight")
    assert bias.grad is None
    assert loss.requires_grad == (frozen != "both")


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
def test_measuring_without_gradients_gives_the_same_numbers_and_makes_none(kind: str) -> None:
    hidden, weight, labels, targets = problem(kind, 24, 8, 100)
    options: dict[str, Any] = {"soft_weight": 1.0, "hard_weight": 0.5, "chunk_size": 6}
    trained, trained_parts = linear_head_loss(hidden, Head(weight), labels, targets, **options)
    with torch.no_grad(), Memory() as memory:
        measured, parts = linear_head_loss(hidden, Head(weight), labels, targets, **options)
    assert not measured.requires_grad
    assert torch.equal(measured, trained.detach())
    assert all(torch.equal(parts[name], trained_parts[name]) for name in ("soft", "hard"))
    assert not {(100, 8), (24, 8)} & memory.shapes


def test_low_precision_heads_are_accumulated_in_float32_and_by_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 30 rows of 100 at a time
    monkeypatch.setattr(head_gradients, "WEIGHT_GRADIENT_VALUES", 8 * 30)
    hidden, weight, labels, targets = problem("sampled", 512, 8, 100, torch.bfloat16)
    with Memory() as memory:
        loss, _ = linear_head_loss(
            hidden, Head(weight), labels, targets, soft_weight=1.0, hard_weight=0.0, chunk_size=4
        )
        loss.backward()
    assert {(30, 8), (10, 8)} <= memory.shapes  # the products; the last block is shorter
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    assert isinstance(targets, SampledTargets)
    double = SampledTargets(targets.ids_NK, targets.weights_NK.double())
    expected, _ = linear_head_loss(
        exact[0], Head(exact[1]), labels, double, soft_weight=1.0, hard_weight=0.0
    )
    expected.backward()
    assert (
        weight.grad is not None
        and exact[1].grad is not None
        and weight.grad.dtype == torch.bfloat16
    )
    # 128 chunks added in bfloat16 would be off by several per cent
    assert (weight.grad.double() - exact[1].grad).norm() < 5e-3 * exact[1].grad.norm()
