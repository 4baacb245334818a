"""The chunked head against a plain one: value and gradient, for every kind of target."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_helpers import (
    CASES,
    HIDDEN,
    NUM_TOKENS,
    VOCAB,
    inputs,
    randn,
    sampled,
    targets_of,
    teacher_logp,
)
from torch import Tensor

from distill.errors import MismatchError, RecipeError
from distill.losses import linear_head
from distill.losses.divergences import divergence_by_name, skew_kl
from distill.losses.head import Head
from distill.losses.linear_head import OwnText, linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets

every_case = pytest.mark.parametrize(("kind", "divergence", "parameters"), CASES)


def plain_loss(
    hidden_NH: Tensor,
    head: Head,
    labels_N: Tensor,
    targets: Targets | None,
    *,
    soft_weight: float,
    hard_weight: float,
    divergence: str = "forward_kl",
    divergence_parameters: dict[str, float] | None = None,
    vocab_size: int | None = None,
    loss_temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute what linear_head_loss does, with all the logits at hand and autograd."""
    logits_NV = head.scale * F.linear(hidden_NH, head.weight, head.bias)[:, :vocab_size]
    if head.softcap is not None:
        logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
    hard = F.cross_entropy(logits_NV, labels_N, reduction="sum")
    logq_NV = (logits_NV / loss_temperature).log_softmax(-1)
    compare = divergence_by_name(divergence, **(divergence_parameters or {}))
    soft = torch.zeros((), dtype=logits_NV.dtype)
    for n in range(len(logits_NV)):
        logq_V = logq_NV[n]
        if isinstance(targets, DenseTargets):
            soft = soft + compare(logq_V, targets.logp_NV[n])
        elif isinstance(targets, TopKTargets):
            keep = targets.ids_NK[n] >= 0
            known = torch.cat([targets.logp_NK[n][keep], targets.tail_logp_N[n : n + 1]])
            soft = soft + compare(with_bucket(logq_V, targets.ids_NK[n][keep]), known)
        elif isinstance(targets, SampledTargets) and divergence != "forward_kl":
            soft = soft + plain_scored(logq_V, targets[n : n + 1], int(labels_N[n]), compare)
        elif isinstance(targets, SampledTargets):
            keep = targets.ids_NK[n] >= 0
            soft = soft - (targets.weights_NK[n][keep] * logq_V[targets.ids_NK[n][keep]]).sum()
            soft = soft - (0 if targets.entropy_N is None else targets.entropy_N[n])
    return soft_weight * soft + hard_weight * hard


def with_bucket(logq_V: Tensor, ids: Tensor) -> Tensor:
    """Log-probs of these ids, then that of all others together."""
    rest = torch.ones_like(logq_V, dtype=torch.bool)
    rest[ids] = False
    return torch.cat([logq_V[ids], logq_V[rest].logsumexp(-1, keepdim=True)])


def plain_scored(logq_V: Tensor, targets: SampledTargets, label: int, compare: Any) -> Tensor:
    """One position of draws with log-probs: skew_kl by the draws, all others with a bucket."""
    assert targets.log_probs is not None
    said = targets.log_probs
    keep = targets.ids_NK[0] >= 0
    ids, logp, weights = (x[0][keep] for x in (targets.ids_NK, said.logp_NK, targets.weights_NK))
    if isinstance(compare, partial) and compare.func is skew_kl:
        alpha = compare.keywords["alpha"]
        mixture = alpha * logp.exp() + (1 - alpha) * logq_V[ids].exp()
        return (weights * (logp - mixture.log())).sum()
    if label not in ids:
        ids = torch.cat([ids, torch.tensor([label])])
        logp = torch.cat([logp, said.target_logp_N])
    return compare(with_bucket(logq_V, ids), torch.cat([logp, said.tail_logp_N]))


def assert_equals_plain(
    arguments: tuple[Any, ...], differentiable: list[Tensor], **options: Any
) -> None:
    expected = plain_loss(*arguments, **options)
    expected_gradients = torch.autograd.grad(expected, differentiable)
    loss, parts = linear_head_loss(*arguments, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    total = options["soft_weight"] * parts["soft"] + options["hard_weight"] * parts["hard"]
    torch.testing.assert_close(loss.detach(), total, rtol=1e-12, atol=1e-12)
    # divided, as a caller does: backward must scale
    gradients = torch.autograd.grad(loss / 7, differentiable)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found * 7, wanted, rtol=1e-8, atol=1e-10)


def set_block(monkeypatch: pytest.MonkeyPatch, block: int | None) -> None:
    """Take the loss of so many positions at a time, as a CPU does with a large vocabulary."""
    if block is not None:
        monkeypatch.setattr(linear_head, "cached_block", lambda num_ids, largest_values: block)


@every_case
@pytest.mark.parametrize(
    ("chunk_size", "block"),
    [(1, None), (5, None), (13, None), (100, None), (None, None), (5, 2), (None, 1), (13, 13)],
)
def test_equals_plain_for_any_chunk_and_block(
    kind: str,
    divergence: str,
    parameters: dict[str, float],
    chunk_size: int,
    block: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_block(monkeypatch, block)
    hidden, weight, labels = inputs()
    assert_equals_plain(
        (hidden, Head(weight), labels, targets_of(kind, teacher_logp())),
        [hidden, weight],
        soft_weight=0.7,
        hard_weight=0.4,
        divergence=divergence,
        divergence_parameters=parameters,
        chunk_size=chunk_size,
    )


# By name: fields of the head, options of the loss
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "only soft": ({}, {"hard_weight": 0.0}),
    "only hard": ({}, {"soft_weight": 0.0}),
    "scale": ({"scale": 0.3}, {}),
    "softcap": ({"softcap": 1.5}, {}),
    "temperature": ({}, {"loss_temperature": 2.0}),
    "temperature, only soft": ({}, {"loss_temperature": 0.5, "hard_weight": 0.0}),
    "all": ({"scale": 1.7, "softcap": 3.0}, {"loss_temperature": 1.5}),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("biased", "block"), [(False, None), (True, None), (True, 2)])
@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        ("sampled", "forward_kl"),
        ("top_k", "reverse_kl"),
        ("dense", "forward_kl"),
        ("dense", "total_variation"),
        ("scored", "skew_kl"),
        ("scored", "reverse_kl"),
    ],
)
def test_equals_plain_with_bias_scale_softcap_and_temperature(
    kind: str,
    divergence: str,
    biased: bool,
    block: int | None,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_block(monkeypatch, block)
    hidden, weight, labels = inputs(rows=VOCAB + 8)
    bias = randn(4, VOCAB + 8).requires_grad_() if biased else None
    of_head, of_loss = OPTIONS[option]
    options = {"soft_weight": 0.7, "hard_weight": 0.4, "vocab_size": VOCAB, "chunk_size": 5}
    differentiable = [hidden, weight] if bias is None else [hidden, weight, bias]
    assert_equals_plain(
        (hidden, Head(weight, bias, **of_head), labels, targets_of(kind, teacher_logp())),
        differentiable,
        divergence=divergence,
        divergence_parameters={"alpha": 0.1},
        **(options | of_loss),
    )


def test_a_tied_head_gets_both_its_gradients() -> None:
    _, weight, labels = inputs()
    targets = sampled(teacher_logp())
    gradients = []
    for loss_of in (lambda *a, **k: linear_head_loss(*a, **k)[0], plain_loss):
        hidden = weight[labels.roll(1)].tanh()  # the embedding of the token before
        loss = loss_of(hidden, Head(weight), labels, targets, soft_weight=1.0, hard_weight=0.1)
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-11)


def loss_of_tensors(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, targets: Targets, **options: Any
) -> Tensor:
    head = Head(weight, bias, scale=1.3, softcap=4.0)
    return linear_head_loss(hidden, head, labels, targets, **options)[0]


class _Recomputed(torch.autograd.Function):
    """Computes the loss anew in each backward.

    gradcheck goes backward many times through one result, linear_head_loss allows it once.
    """

    @staticmethod
    def forward(
        ctx: Any, options: dict[str, Any], targets: Targets, labels: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.arguments = options, targets, labels
        ctx.save_for_backward(*tensors)
        hidden, weight, bias = tensors
        return loss_of_tensors(hidden, weight, bias, labels, targets, **options)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        options, targets, labels = ctx.arguments
        with torch.enable_grad():
            hidden, weight, bias = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            loss = loss_of_tensors(hidden, weight, bias, labels, targets, **options)
            gradients = torch.autograd.grad(loss, (hidden, weight, bias), grad_outputs[0])
        return None, None, None, *gradients


@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        ("sampled", "forward_kl"),
        ("top_k", "jsd"),
        ("dense", "reverse_kl"),
        ("scored", "skew_kl"),
        ("scored", "reverse_kl"),
        ("scored", "jsd"),
    ],
)
def test_gradcheck(kind: str, divergence: str) -> None:
    options = {
        "divergence": divergence,
        "divergence_parameters": {"beta": 0.3, "alpha": 0.1},
        "soft_weight": 0.7,
        "hard_weight": 0.4,
        "loss_temperature": 1.5,
        "chunk_size": 3,
        "vocab_size": 9,
    }
    tensors = [
        randn(seed, *shape).requires_grad_()
        for seed, shape in ((1, (4, 3)), (2, (11, 3)), (4, (11,)))
    ]
    labels = torch.tensor([0, 8, 3, 3])
    targets = targets_of(kind, teacher_logp(4, 9), labels)
    assert torch.autograd.gradcheck(
        lambda *t: _Recomputed.apply(options, targets, labels, *t), tensors
    )


@every_case
@pytest.mark.parametrize("split", [[12], [6, 6], [3, 3, 3, 3], [1, 11], [0, 7, 5]])
def test_micro_batches_add_up(
    kind: str, divergence: str, parameters: dict[str, float], split: list[int]
) -> None:
    hidden, weight, labels = inputs()
    targets = targets_of(kind, teacher_logp())

    def accumulate(sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        hidden.grad = weight.grad = None
        total, start = torch.zeros((), dtype=torch.float64), 0
        for size in sizes:
            part = slice(start, start + size)
            loss, _ = linear_head_loss(
                hidden[part],
                Head(weight),
                labels[part],
                targets[part],
                soft_weight=0.7,
                hard_weight=0.4,
                divergence=divergence,
                divergence_parameters=parameters,
            )
            (loss / 12).backward()
            total, start = total + loss.detach(), start + size
        assert hidden.grad is not None and weight.grad is not None
        return total, hidden.grad, weight.grad

    for found, expected in zip(accumulate(split), accumulate([12]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", "scored", None])
def test_no_positions_give_zero_and_zero_gradients(kind: str | None) -> None:
    hidden, weight, labels = inputs(torch.float32)
    bias = torch.zeros(VOCAB, requires_grad=True)
    targets = None if kind is None else targets_of(kind, teacher_logp().float())[:0]
    loss, parts = linear_head_loss(
        hidden[:0],
        Head(weight, bias),
        labels[:0],
        targets,
        soft_weight=0.0 if kind is None else 1.0,
        hard_weight=1.0,
    )
    loss.backward()
    assert loss.item() == parts["soft"].item() == parts["hard"].item() == 0
    for tensor in (hidden, weight, bias):
        assert tensor.grad is not None and (tensor.grad == 0).all()


@every_case
def test_padded_rows_of_the_head_change_nothing(
    kind: str, divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels = inputs()
    padding = 100 * randn(9, 8, HIDDEN)  # phantom logits that would win everywhere
    padded = torch.cat([weight.detach(), padding]).requires_grad_()
    results = []
    for rows in (weight, padded):
        loss, _ = linear_head_loss(
            hidden,
            Head(rows),
            labels,
            targets_of(kind, teacher_logp()),
            soft_weight=0.7,
            hard_weight=0.4,
            divergence=divergence,
            divergence_parameters=parameters,
            vocab_size=VOCAB,
        )
        results.append((loss, *torch.autograd.grad(loss, (hidden, rows))))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(
            found[:VOCAB] if found.dim() else found, expected, rtol=0, atol=1e-12
        )
    assert (results[1][2][VOCAB:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_are_the_same_bits_for_any_block(
    dtype: torch.dtype, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for block in (None, 1, 4):
        set_block(monkeypatch, block)
        hidden, weight, labels = inputs(torch.float32)
        targets = targets_of("sampled", teacher_logp().float())
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, _ = linear_head_loss(
                hidden,
                Head(weight, softcap=softcap),
                labels,
                targets,
                soft_weight=0.7,
                hard_weight=0.4,
            )
        found.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight))))
    for of_blocks in found[1:]:
        torch.testing.assert_close(of_blocks[0], found[0][0], rtol=1e-6, atol=0)
        assert torch.equal(of_blocks[1], found[0][1]) and torch.equal(of_blocks[2], found[0][2])


def test_without_positions_the_heads_gradient_is_zero() -> None:
    hidden, weight, labels = inputs()
    loss, _ = linear_head_loss(
        hidden[:0], Head(weight), labels[:0], None, soft_weight=0.0, hard_weight=1.0
    )
    found = torch.autograd.grad(loss, (hidden, weight))
    assert loss == 0 and not found[0].any() and not found[1].any()


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", "scored"])
def test_soft_weight_zero_is_cross_entropy_to_the_last_bit(kind: str) -> None:
    hidden, weight, labels = inputs(torch.float32)
    results = []
    for targets in (None, targets_of(kind, teacher_logp().float())):
        for chunk_size in (4, None):
            loss, parts = linear_head_loss(
                hidden,
                Head(weight),
                labels,
                targets,
                soft_weight=0.0,
                hard_weight=1.0,
                chunk_size=chunk_size,
            )
            results.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
            assert (parts["soft"].item() > 0) == (targets is not None)
    for with_signal, without in zip(results[2:], results[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(with_signal, without, strict=True))
    stock = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    expected = (stock, *torch.autograd.grad(stock, (hidden, weight)))
    for found, wanted in zip(results[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
@pytest.mark.parametrize("way", ["bfloat16", "autocast"])
def test_bfloat16_is_within_one_percent(kind: str, way: str) -> None:
    """Stated bound, of float64 on the same bfloat16 numbers.

    The loss is within 0.2 %, gradients are within 1 % in norm.
    """
    hidden, weight, labels = inputs()
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    logp = teacher_logp()
    exact = [t.double().requires_grad_() for t in (hidden, weight)]
    expected = plain_loss(
        exact[0], Head(exact[1]), labels, targets_of(kind, logp), soft_weight=0.7, hard_weight=0.4
    )
    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    tensors = [t.to(dtype).requires_grad_() for t in (hidden, weight)]
    options: dict[str, Any] = {"soft_weight": 0.7, "hard_weight": 0.4, "chunk_size": 3}
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss, _ = linear_head_loss(
            tensors[0], Head(tensors[1]), labels, targets_of(kind, logp.float()), **options
        )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    gradients = torch.autograd.grad(loss, tensors)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        assert found.dtype == dtype
        # above 1e-4: bfloat16 was used indeed, float32 products would come far nearer
        assert 1e-4 < relative_error(found, wanted) < 1e-2


def test_a_second_backward_is_refused() -> None:
    hidden, weight, labels = inputs()
    loss, _ = linear_head_loss(hidden, Head(weight), labels, None, soft_weight=0.0, hard_weight=1.0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call it again"):
        loss.backward()


def test_what_does_not_fit_is_refused() -> None:
    hidden, weight, labels = inputs()
    logp = teacher_logp()

    def call(targets: Targets | None, labels: Tensor = labels, **options: Any) -> None:
        options = {"soft_weight": 1.0, "hard_weight": 0.0} | options
        linear_head_loss(hidden, Head(weight), labels, targets, **options)

    with pytest.raises(RecipeError, match=r"capture\.signal to top_k or dense"):
        call(sampled(logp), divergence="reverse_kl")
    with pytest.raises(RecipeError, match="jsd_normalised"):
        call(DenseTargets(logp), divergence="jsd", divergence_parameters={"beta": 0.01})
    with pytest.raises(RecipeError, match="run capture"):
        call(None)
    with pytest.raises(RecipeError, match="not both 0"):
        call(DenseTargets(logp), soft_weight=0.0)
    with pytest.raises(RecipeError, match="temperature"):
        call(DenseTargets(logp), loss_temperature=0.0)
    with pytest.raises(MismatchError, match="12 positions"):
        call(DenseTargets(logp[:12]))
    with pytest.raises(MismatchError, match="slice it to the shared ids"):
        call(DenseTargets(logp), vocab_size=VOCAB - 1)
    with pytest.raises(MismatchError, match="vocab_size 21"):
        call(sampled(logp), vocab_size=VOCAB + 1)
    with pytest.raises(MismatchError, match="token id -100"):
        call(sampled(logp), labels.index_fill(0, torch.tensor([2]), -100))
    with pytest.raises(MismatchError, match="captured with this tokenizer"):
        call(TopKTargets(torch.full((NUM_TOKENS, 1), VOCAB), logp[:, :1], logp[:, 0]))
    with pytest.raises(MismatchError, match="use one dtype"):
        linear_head_loss(
            hidden.float(), Head(weight), labels, None, soft_weight=0.0, hard_weight=1.0
        )


ALPHA = 0.1


def with_own_text(
    arguments: tuple[Any, ...], first: int, chunk_size: int, hard_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """DistiLLM-2: skew_kl on the teacher's text, skew_reverse_kl on the student's."""
    return linear_head_loss(
        *arguments,
        soft_weight=0.7,
        hard_weight=hard_weight,
        divergence="skew_kl",
        divergence_parameters={"alpha": ALPHA},
        chunk_size=chunk_size,
        own_text=OwnText(first, "skew_reverse_kl", {"alpha": ALPHA}),
    )


@pytest.mark.parametrize(("chunk_size", "block"), [(1, None), (4, None), (100, None), (100, 3)])
@pytest.mark.parametrize("first", [0, 5, NUM_TOKENS])
def test_the_students_own_text_has_its_divergence_and_no_labels_by_the_plain_formula(
    first: int, chunk_size: int, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_block(monkeypatch, block)
    hidden, weight, labels = inputs()
    logp = teacher_logp()
    loss, parts = with_own_text(
        (hidden, Head(weight), labels, DenseTargets(logp)), first, chunk_size, hard_weight=0.4
    )
    logq = (hidden @ weight.T).log_softmax(-1)
    p, q = logp.exp(), logq.exp()
    skewed = (p * (logp - (ALPHA * p + (1 - ALPHA) * q).log())).sum(-1)
    own = (q * (logq - ((1 - ALPHA) * p + ALPHA * q.detach()).log())).sum(-1)
    hard = -logq[range(NUM_TOKENS), labels]
    expected = {
        "soft": skewed[:first].sum() + own[first:].sum(),
        "own": own[first:].sum(),
        "hard": hard[:first].sum(),
    }
    for name, part in expected.items():
        torch.testing.assert_close(parts[name], part.detach(), rtol=1e-10, atol=1e-10)
    whole = 0.7 * expected["soft"] + 0.4 * expected["hard"]
    torch.testing.assert_close(loss, whole, rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad(loss, [hidden, weight])
    for mine, wanted in zip(found, torch.autograd.grad(whole, [hidden, weight]), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-10)


def test_nothing_is_learnt_from_own_text_where_the_student_says_what_the_teacher_does() -> None:
    hidden, weight, labels = inputs()
    same = DenseTargets((hidden @ weight.T).detach().log_softmax(-1))
    loss, _ = with_own_text((hidden, Head(weight), labels, same), 0, 4, hard_weight=1.0)
    assert abs(loss.item()) < 1e-12
    for gradient in torch.autograd.grad(loss, [hidden, weight]):
        assert gradient.abs().max() < 1e-12
