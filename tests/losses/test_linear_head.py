"""The chunked head against a plain one: value and gradient, for every kind of target, divergence and option."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import MismatchError, RecipeError
from distill.losses.divergences import divergence_by_name
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets

NUM_TOKENS, HIDDEN, VOCAB = 13, 6, 20
DIVERGENCES = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jsd", {"beta": 0.4}),
    ("jsd_normalised", {"beta": 0.02}),
    ("skew_kl", {"alpha": 0.1}),
    ("skew_reverse_kl", {"alpha": 0.1}),
    ("adaptive_kl", {"alpha": 0.5}),
    ("total_variation", {}),
]
CASES = [("sampled", "forward_kl", {})] + [
    (kind, *d) for kind in ("top_k", "dense") for d in DIVERGENCES
]
every_case = pytest.mark.parametrize(("kind", "divergence", "parameters"), CASES)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def teacher_logp(num_tokens: int = NUM_TOKENS, vocab: int = VOCAB, seed: int = 5) -> Tensor:
    return (2 * randn(seed, num_tokens, vocab)).log_softmax(-1)


def top_k(logp_NV: Tensor, k: int = 4) -> TopKTargets:
    top = logp_NV.topk(k)
    return TopKTargets(top.indices, top.values, torch.log1p(-top.values.exp().sum(-1)))


def sampled(logp_NV: Tensor, num_draws: int = 50, seed: int = 7) -> SampledTargets:
    """Counts of `num_draws` draws a row, ids in falling order of count, filled up with -1."""
    generator = torch.Generator().manual_seed(seed)
    draws_ND = torch.multinomial(logp_NV.exp(), num_draws, replacement=True, generator=generator)
    counts_NV = torch.zeros_like(logp_NV).scatter_add_(
        1, draws_ND, torch.ones_like(draws_ND, dtype=logp_NV.dtype)
    )
    counts_NK, ids_NK = counts_NV.topk(int((counts_NV > 0).sum(-1).max()))
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return SampledTargets(ids_NK.masked_fill(counts_NK == 0, -1), counts_NK / num_draws, entropy_N)


def targets_of(kind: str, logp_NV: Tensor) -> Targets:
    return {"sampled": sampled, "top_k": top_k, "dense": DenseTargets}[kind](logp_NV)


def inputs(dtype: torch.dtype = torch.float64, rows: int = VOCAB) -> tuple[Tensor, Tensor, Tensor]:
    labels_N = torch.randint(VOCAB, (NUM_TOKENS,), generator=torch.Generator().manual_seed(3))
    hidden, weight = randn(1, NUM_TOKENS, HIDDEN, dtype=dtype), randn(2, rows, HIDDEN, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), labels_N


def plain_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    targets: Targets | None,
    *,
    soft_weight: float,
    hard_weight: float,
    divergence: str = "forward_kl",
    divergence_parameters: dict[str, float] | None = None,
    vocab_size: int | None = None,
    bias_V: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    loss_temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """What linear_head_loss computes, as one would write it with all the logits at hand and autograd."""
    logits_NV = logit_scale * F.linear(hidden_NH, weight_VH, bias_V)[:, :vocab_size]
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
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
            ids = targets.ids_NK[n][keep]
            rest = torch.ones_like(logq_V, dtype=torch.bool)
            rest[ids] = False
            student = torch.cat([logq_V[ids], logq_V[rest].logsumexp(-1, keepdim=True)])
            soft = soft + compare(
                student, torch.cat([targets.logp_NK[n][keep], targets.tail_logp_N[n : n + 1]])
            )
        elif isinstance(targets, SampledTargets):
            keep = targets.ids_NK[n] >= 0
            soft = soft - (targets.weights_NK[n][keep] * logq_V[targets.ids_NK[n][keep]]).sum()
            soft = soft - (0 if targets.entropy_N is None else targets.entropy_N[n])
    return soft_weight * soft + hard_weight * hard


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


@every_case
@pytest.mark.parametrize("chunk_size", [1, 5, 13, 100, None])
def test_equals_plain_for_any_chunk(
    kind: str, divergence: str, parameters: dict[str, float], chunk_size: int
) -> None:
    hidden, weight, labels = inputs()
    assert_equals_plain(
        (hidden, weight, labels, targets_of(kind, teacher_logp())),
        [hidden, weight],
        soft_weight=0.7,
        hard_weight=0.4,
        divergence=divergence,
        divergence_parameters=parameters,
        chunk_size=chunk_size,
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "only soft": {"hard_weight": 0.0},
    "only hard": {"soft_weight": 0.0},
    "scale": {"logit_scale": 0.3},
    "softcap": {"softcap": 1.5},
    "temperature": {"loss_temperature": 2.0},
    "temperature, only soft": {"loss_temperature": 0.5, "hard_weight": 0.0},
    "all": {"logit_scale": 1.7, "softcap": 3.0, "loss_temperature": 1.5},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        ("sampled", "forward_kl"),
        ("top_k", "reverse_kl"),
        ("dense", "forward_kl"),
        ("dense", "total_variation"),
    ],
)
def test_equals_plain_with_bias_scale_softcap_and_temperature(
    kind: str, divergence: str, biased: bool, option: str
) -> None:
    hidden, weight, labels = inputs(rows=VOCAB + 8)
    bias = randn(4, VOCAB + 8).requires_grad_() if biased else None
    options = {
        "soft_weight": 0.7,
        "hard_weight": 0.4,
        "vocab_size": VOCAB,
        "chunk_size": 5,
        "bias_V": bias,
    }
    differentiable = [hidden, weight] if bias is None else [hidden, weight, bias]
    assert_equals_plain(
        (hidden, weight, labels, targets_of(kind, teacher_logp())),
        differentiable,
        divergence=divergence,
        **(options | OPTIONS[option]),
    )


def test_a_tied_head_gets_both_its_gradients() -> None:
    _, weight, labels = inputs()
    targets = sampled(teacher_logp())
    gradients = []
    for loss_of in (lambda *a, **k: linear_head_loss(*a, **k)[0], plain_loss):
        hidden = weight[labels.roll(1)].tanh()  # the embedding of the token before
        loss = loss_of(hidden, weight, labels, targets, soft_weight=1.0, hard_weight=0.1)
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-11)


class _Recomputed(torch.autograd.Function):
    """gradcheck goes backward many times through one result, linear_head_loss allows it once: compute it anew."""

    @staticmethod
    def forward(
        ctx: Any, options: dict[str, Any], targets: Targets, labels: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.arguments = options, targets, labels
        ctx.save_for_backward(*tensors)
        return linear_head_loss(
            tensors[0], tensors[1], labels, targets, bias_V=tensors[2], **options
        )[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        options, targets, labels = ctx.arguments
        with torch.enable_grad():
            hidden, weight, bias = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            loss, _ = linear_head_loss(hidden, weight, labels, targets, bias_V=bias, **options)
            gradients = torch.autograd.grad(loss, (hidden, weight, bias), grad_outputs[0])
        return None, None, None, *gradients


@pytest.mark.parametrize(
    ("kind", "divergence"), [("sampled", "forward_kl"), ("top_k", "jsd"), ("dense", "reverse_kl")]
)
def test_gradcheck(kind: str, divergence: str) -> None:
    options = {
        "divergence": divergence,
        "divergence_parameters": {"beta": 0.3},
        "soft_weight": 0.7,
        "hard_weight": 0.4,
        "softcap": 4.0,
        "logit_scale": 1.3,
        "loss_temperature": 1.5,
        "chunk_size": 3,
        "vocab_size": 9,
    }
    tensors = [
        randn(seed, *shape).requires_grad_()
        for seed, shape in ((1, (4, 3)), (2, (11, 3)), (4, (11,)))
    ]
    targets = targets_of(kind, teacher_logp(4, 9))
    labels = torch.tensor([0, 8, 3, 3])
    assert torch.autograd.gradcheck(
        lambda *t: _Recomputed.apply(options, targets, labels, *t), tensors
    )


# Not of draws, which only estimate the divergence: see the test of their mean.
@pytest.mark.parametrize(("kind", "divergence", "parameters"), CASES[1:])
def test_own_teacher_costs_nothing_and_one_that_is_a_token_late_does(
    kind: str, divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels = inputs()
    own_logp = (hidden @ weight.T).log_softmax(-1).detach()
    options: dict[str, Any] = {"divergence": divergence, "divergence_parameters": parameters}
    for logp, low, high in ((own_logp, -1e-12, 1e-12), (own_logp.roll(1, 0), 1.0, math.inf)):
        loss, parts = linear_head_loss(
            hidden,
            weight,
            labels,
            targets_of(kind, logp),
            soft_weight=1.0,
            hard_weight=0.0,
            **options,
        )
        assert low <= parts["soft"].item() <= high
        if (
            divergence != "total_variation"
        ):  # |p − q| has a kink at equals: there rounding alone chooses the sign
            (gradient,) = torch.autograd.grad(loss, hidden)
            assert bool(gradient.abs().max() < 1e-10) == (high < 1)


def test_a_tail_bucket_is_never_above_dense_and_rises_to_it() -> None:
    hidden, weight, labels = inputs()
    logp = teacher_logp()

    def each_token(targets: Targets) -> list[float]:
        return [
            linear_head_loss(
                hidden[n : n + 1],
                weight,
                labels[n : n + 1],
                targets[n : n + 1],
                soft_weight=1.0,
                hard_weight=0.0,
            )[0].item()
            for n in range(NUM_TOKENS)
        ]

    rows = [each_token(top_k(logp, k)) for k in (1, 3, 8, VOCAB - 1)] + [
        each_token(DenseTargets(logp))
    ]
    for coarser, finer in itertools.pairwise(rows):
        assert all(a <= b + 1e-12 for a, b in zip(coarser, finer, strict=True))
    assert rows[-2] == pytest.approx(rows[-1])  # one id in the bucket: all of them are known
    assert sum(rows[0]) < 0.9 * sum(rows[-1])


def test_draws_have_the_dense_gradient_and_divergence_on_average() -> None:
    logp_1V = teacher_logp(1, 12)
    copies = 20_000
    targets = sampled(logp_1V.expand(copies, -1), num_draws=50)
    hidden, weight, _ = inputs()
    hidden_1H, weight = hidden[:1].detach(), weight[:12].detach()
    labels = torch.zeros(copies, dtype=torch.int64)

    def gradient(targets: Targets, num: int) -> tuple[Tensor, Tensor]:
        hidden_NH = hidden_1H.repeat(num, 1).requires_grad_()
        loss, parts = linear_head_loss(
            hidden_NH, weight, labels[:num], targets, soft_weight=1.0, hard_weight=0.0
        )
        return torch.autograd.grad(loss, hidden_NH)[0], parts["soft"] / num

    drawn_NH, drawn_kl = gradient(targets, copies)
    dense_1H, dense_kl = gradient(DenseTargets(logp_1V), 1)
    top = logp_1V.topk(4)
    biased_1H, _ = gradient(SampledTargets(top.indices, top.values.softmax(-1)), 1)
    standard_error_H = drawn_NH.std(0) / math.sqrt(copies)
    assert ((drawn_NH.mean(0) - dense_1H[0]).abs() < 5 * standard_error_H).all()
    assert drawn_kl.item() == pytest.approx(dense_kl.item(), abs=0.02)
    # the test can fail: the renormalised top 4, which keep most of the mass, are far outside
    assert ((biased_1H[0] - dense_1H[0]).abs() > 20 * standard_error_H).any()


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
                weight,
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


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense", None])
def test_no_positions_give_zero_and_zero_gradients(kind: str | None) -> None:
    hidden, weight, labels = inputs(torch.float32)
    bias = torch.zeros(VOCAB, requires_grad=True)
    targets = None if kind is None else targets_of(kind, teacher_logp().float())[:0]
    loss, parts = linear_head_loss(
        hidden[:0],
        weight,
        labels[:0],
        targets,
        soft_weight=0.0 if kind is None else 1.0,
        hard_weight=1.0,
        bias_V=bias,
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
    for head in (weight, padded):
        loss, _ = linear_head_loss(
            hidden,
            head,
            labels,
            targets_of(kind, teacher_logp()),
            soft_weight=0.7,
            hard_weight=0.4,
            divergence=divergence,
            divergence_parameters=parameters,
            vocab_size=VOCAB,
        )
        results.append((loss, *torch.autograd.grad(loss, (hidden, head))))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(
            found[:VOCAB] if found.dim() else found, expected, rtol=0, atol=1e-12
        )
    assert (results[1][2][VOCAB:] == 0).all()


@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_fillers_are_not_read(kind: str) -> None:
    hidden, weight, labels = inputs()
    targets = targets_of(kind, teacher_logp())
    assert isinstance(targets, SampledTargets | TopKTargets)
    ids = F.pad(targets.ids_NK, (0, 3), value=-1)
    if isinstance(targets, SampledTargets):
        filled = SampledTargets(
            ids, F.pad(targets.weights_NK, (0, 3), value=math.nan), targets.entropy_N
        )
    else:
        filled = TopKTargets(
            ids, F.pad(targets.logp_NK, (0, 3), value=math.nan), targets.tail_logp_N
        )
    results = []
    for each in (targets, filled):
        loss, _ = linear_head_loss(hidden, weight, labels, each, soft_weight=0.7, hard_weight=0.4)
        results.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("divergence", "parameters"), DIVERGENCES)
def test_a_token_of_which_nothing_is_known_has_no_soft_loss(
    divergence: str, parameters: dict[str, float]
) -> None:
    hidden, weight, labels = inputs()
    known = top_k(teacher_logp())
    ids, logp, tail = known.ids_NK.clone(), known.logp_NK.clone(), known.tail_logp_N.clone()
    ids[4:7], logp[4:7], tail[4:7] = -1, math.nan, 0.0

    def loss_of(
        targets: Targets | None, soft: float, hard: float, rows: slice | list[int]
    ) -> tuple[Tensor, ...]:
        loss, _ = linear_head_loss(
            hidden[rows],
            weight,
            labels[rows],
            targets,
            soft_weight=soft,
            hard_weight=hard,
            divergence=divergence,
            divergence_parameters=parameters,
        )
        return loss, *torch.autograd.grad(loss, (hidden, weight))

    found = loss_of(TopKTargets(ids, logp, tail), 0.7, 0.4, slice(None))
    rest = [i for i in range(NUM_TOKENS) if not 4 <= i < 7]
    soft = loss_of(TopKTargets(ids[rest], logp[rest], tail[rest]), 0.7, 0.0, rest)
    hard = loss_of(None, 0.0, 0.4, slice(None))
    for mine, a, b in zip(found, soft, hard, strict=True):
        torch.testing.assert_close(mine, a + b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
def test_soft_weight_zero_is_cross_entropy_to_the_last_bit(kind: str) -> None:
    hidden, weight, labels = inputs(torch.float32)
    results = []
    for targets in (None, targets_of(kind, teacher_logp().float())):
        for chunk_size in (4, None):
            loss, parts = linear_head_loss(
                hidden,
                weight,
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


@pytest.mark.parametrize(("divergence", "parameters"), DIVERGENCES)
def test_a_vanishing_tail_stays_finite_in_float32(
    divergence: str, parameters: dict[str, float]
) -> None:
    hidden = torch.eye(2, dtype=torch.float32)
    weight = torch.zeros(VOCAB, 2).index_put(
        (torch.tensor([0, 1]),), torch.tensor([[300.0, 0.0], [0.0, 300.0]])
    )
    certain = TopKTargets(torch.tensor([[0], [0]]), torch.zeros(2, 1), torch.full((2,), -math.inf))
    unsure = TopKTargets(torch.tensor([[0], [0]]), torch.full((2, 1), -0.7), torch.full((2,), -0.7))
    for targets in (certain, unsure):
        tensors = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss, _ = linear_head_loss(
            tensors[0],
            tensors[1],
            torch.tensor([0, 0]),
            targets,
            soft_weight=1.0,
            hard_weight=0.0,
            divergence=divergence,
            divergence_parameters=parameters,
        )
        loss.backward()
        assert loss.isfinite()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
@pytest.mark.parametrize("way", ["bfloat16", "autocast"])
def test_bfloat16_is_within_one_percent(kind: str, way: str) -> None:
    """Stated bound: loss within 0.2 %, gradients within 1 % in norm, of float64 on the same bfloat16 numbers."""
    hidden, weight, labels = inputs()
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    logp = teacher_logp()
    exact = [t.double().requires_grad_() for t in (hidden, weight)]
    expected = plain_loss(
        exact[0], exact[1], labels, targets_of(kind, logp), soft_weight=0.7, hard_weight=0.4
    )
    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    tensors = [t.to(dtype).requires_grad_() for t in (hidden, weight)]
    options: dict[str, Any] = {"soft_weight": 0.7, "hard_weight": 0.4, "chunk_size": 3}
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss, _ = linear_head_loss(
            tensors[0], tensors[1], labels, targets_of(kind, logp.float()), **options
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
    loss, _ = linear_head_loss(hidden, weight, labels, None, soft_weight=0.0, hard_weight=1.0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call it again"):
        loss.backward()


def test_what_does_not_fit_is_refused() -> None:
    hidden, weight, labels = inputs()
    logp = teacher_logp()

    def call(targets: Targets | None, labels: Tensor = labels, **options: Any) -> None:
        options = {"soft_weight": 1.0, "hard_weight": 0.0} | options
        linear_head_loss(hidden, weight, labels, targets, **options)

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
        linear_head_loss(hidden.float(), weight, labels, None, soft_weight=0.0, hard_weight=1.0)
    with pytest.raises(ValueError, match="tail_logp_N has shape"):
        TopKTargets(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2), torch.zeros(3, 1))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_another_models_head_is_the_dense_signal_that_it_makes(softcap):
    generator = torch.Generator().manual_seed(0)
    hidden_NH, weight_VH = (
        torch.randn(37, 8, generator=generator),
        torch.randn(23, 8, generator=generator),
    )
    teacher_NG, teacher_VG = (
        torch.randn(37, 5, generator=generator),
        torch.randn(20, 5, generator=generator),
    )
    labels_N = torch.randint(20, (37,), generator=generator)
    logits_NV = 0.7 * (teacher_NG @ teacher_VG.T)
    logits_NV = logits_NV if softcap is None else softcap * (logits_NV / softcap).tanh()
    found = []
    for said in (
        DenseTargets(logits_NV.log_softmax(-1)),
        HeadTargets(teacher_NG, teacher_VG, 0.7, softcap),
    ):
        leaves = hidden_NH.clone().requires_grad_(), weight_VH.clone().requires_grad_()
        loss, _ = linear_head_loss(
            *leaves, labels_N, said, soft_weight=1.0, hard_weight=0.5, vocab_size=20, chunk_size=5
        )
        loss.backward()
        found.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    for dense, lazy in zip(*found, strict=True):
        torch.testing.assert_close(lazy, dense)
    with pytest.raises(MismatchError, match="the dense signal has 20 ids, vocab_size is 23"):
        linear_head_loss(
            hidden_NH,
            weight_VH,
            labels_N,
            HeadTargets(teacher_NG, teacher_VG),
            soft_weight=1.0,
            hard_weight=0.0,
        )
