"""A student with a trimmed vocabulary learns as an untrimmed one that may not say what was removed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny_qwen3
from loss_helpers import CASES, HIDDEN, NUM_TOKENS, VOCAB, randn
from torch import Tensor

from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets
from distill.recipe.sections import Train
from distill.shaping.rows import keep_rows
from distill.signals.collate import targets
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.signals.pieces import Pieces
from distill.teachers.records import records_of_logits
from distill.training.batches import collate
from distill.training.student import StudentLoss

KEPT = [0, 1, 4, 5, 6, 9, 13, 14, 17, 18]
REMOVED = [i for i in range(VOCAB) if i not in KEPT]


def targets_of_trimmed(kind: str) -> Targets:
    """What a teacher of VOCAB ids says, in the ids of a student that has KEPT."""
    logits_NC = (2 * randn(5, NUM_TOKENS, VOCAB)).float()
    pieces = {token: (token % len(KEPT), 3, 1) for token in REMOVED}
    kinds: dict[str, dict[str, Any]] = {
        "sampled": {"kind": "sampled", "num_draws": 20},
        "scored": {"kind": "sampled", "num_draws": 5, "draw_log_probs": True},
        "top_k": {"kind": "top_k", "top_k": 4},
        "dense": {"kind": "dense"},
    }
    records = records_of_logits(
        SignalHeader(vocab_size=len(KEPT), **kinds[kind]),
        [(slice(0, NUM_TOKENS), logits_NC)],
        [[token % len(KEPT) for token in range(NUM_TOKENS)]],
        ["1" * 16],
        Columns(VOCAB, Pieces(KEPT, pieces, VOCAB)),
    )
    return targets([*records], "cpu")


def in_parent_ids(said: Targets) -> Targets:
    """The same targets as an untrimmed student meets them; removed ids have no mass in a dense one."""
    parents_V = torch.tensor(KEPT)
    if isinstance(said, DenseTargets):
        logp_NC = torch.full((len(said), VOCAB), -torch.inf)
        return DenseTargets(logp_NC.index_copy(1, parents_V, said.logp_NV))
    assert isinstance(said, SampledTargets | TopKTargets)
    ids_NK = torch.where(said.ids_NK < 0, said.ids_NK, parents_V[said.ids_NK.clamp(min=0)])
    if isinstance(said, SampledTargets):
        return replace(said, ids_NK=ids_NK)
    return TopKTargets(ids_NK, said.logp_NK, said.tail_logp_N)


def learnt(
    hidden_NH: Tensor, head: Head, labels_N: Tensor, said: Targets, **options: Any
) -> list[Tensor]:
    """Loss, its two parts, and its gradients on hidden states and head."""
    hidden_NH, weight = hidden_NH.clone().requires_grad_(), head.weight.clone().requires_grad_()
    loss, parts = linear_head_loss(
        hidden_NH,
        Head(weight, head.bias),
        labels_N,
        said,
        soft_weight=0.7,
        hard_weight=0.4,
        **options,
    )
    return [loss.detach(), *parts.values(), *torch.autograd.grad(loss, (hidden_NH, weight))]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "divergence", "parameters"), CASES)
def test_loss_and_gradient_are_those_of_a_masked_untrimmed_student(
    kind: str, divergence: str, parameters: dict[str, float], temperature: float
) -> None:
    hidden_NH, weight_CH = randn(1, NUM_TOKENS, HIDDEN), randn(2, VOCAB, HIDDEN)
    labels_N = torch.arange(NUM_TOKENS) % len(KEPT)
    mask_C = torch.zeros(VOCAB, dtype=weight_CH.dtype).index_fill(
        0, torch.tensor(REMOVED), -torch.inf
    )
    said = targets_of_trimmed(kind)
    options: dict[str, Any] = {
        "divergence": divergence,
        "divergence_parameters": parameters,
        "loss_temperature": temperature,
    }
    trimmed = learnt(hidden_NH, Head(weight_CH[KEPT]), labels_N, said, **options)
    masked = learnt(
        hidden_NH,
        Head(weight_CH, mask_C),
        torch.tensor(KEPT)[labels_N],
        in_parent_ids(said),
        **options,
    )
    assert (masked[-1][REMOVED] == 0).all() and masked[-1].abs().max() > 0.1
    masked[-1] = masked[-1][KEPT]
    for ours, theirs in zip(trimmed, masked, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def untrimmed(tied: bool) -> Any:
    """A random two-layer Qwen3 of VOCAB tokens in float64, its head that of its embedding or another."""
    model = tiny_qwen3(vocabulary=VOCAB).double()
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(randn(4, *model.lm_head.weight.shape) / 8)
    return model


def with_masked_head(model: Any) -> Any:
    """The model that gives the tokens that were removed no mass."""
    mask_V = torch.zeros(VOCAB, dtype=torch.float64).index_fill(
        0, torch.tensor(REMOVED), -torch.inf
    )
    model.lm_head.bias = torch.nn.Parameter(mask_V, requires_grad=False)
    return model


def step_of(model: Any, rows: Any, said: Targets, options: Train) -> dict[str, Tensor]:
    """Loss, its parts, and the gradient of each parameter, as a training step computes them."""
    student = StudentLoss(model, options, model.config.vocab_size)
    loss, parts = student(collate(rows, pad_id=0), said, 0.7, 0.4)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **parts, **gradients}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "head of its own"])
@pytest.mark.parametrize(
    ("kind", "divergence"),
    [("sampled", "forward_kl"), ("top_k", "jsd"), ("dense", "skew_kl"), ("scored", "reverse_kl")],
)
def test_a_whole_model_has_the_loss_and_gradients_of_the_masked_one_it_was_cut_from(
    kind: str, divergence: str, tied: bool
) -> None:
    # two samples packed in a row, one alone: their answers are NUM_TOKENS long together
    ids = [[3, 1, 7, 2, 9, 4, 0], [5, 8, 6, 1, 1, 3], [2, 9, 9, 4, 0, 7, 8, 5]]
    starts = [2, 3, 3]
    shown = [[KEPT[token] for token in sample] for sample in ids]
    said, options = targets_of_trimmed(kind), Train(divergence=divergence)
    assert sum(map(len, ids)) - sum(starts) == NUM_TOKENS

    def rows(samples: Any) -> Any:
        first, second, third = zip(samples, starts, strict=True)
        return [[first, second], [third]]

    theirs = step_of(with_masked_head(untrimmed(tied)), rows(shown), in_parent_ids(said), options)
    trimmed = untrimmed(tied)
    keep_rows(trimmed, KEPT)
    ours = step_of(trimmed, rows(ids), said, options)

    tables = ["model.embed_tokens.weight", "lm_head.weight"][: 1 if tied else 2]
    for name in tables:
        assert (theirs[name][REMOVED] == 0).all() and ours[name].abs().max() > 1e-2
        theirs[name] = theirs[name][KEPT]
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-12)
