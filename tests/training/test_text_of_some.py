"""Samples without a signal among others: of those the text is learnt, by cross-entropy of both weights."""

import pytest
import torch
from conftest import tiny_qwen3

from distill.losses.hidden_states import HiddenTargets
from distill.losses.targets import DenseTargets, SampledTargets, TopKTargets
from distill.recipe.sections import Train
from distill.training.batches import collate
from distill.training.student import StudentLoss

VOCABULARY = 300
ROWS = [[([5, 6, 7, 8, 9], 2), ([11, 12, 13, 2], 1)], [([21, 22, 23, 24, 2], 3)]]
NUM = 3 + 3 + 2
TOLD = [True] * 3 + [False] * 3 + [True] * 2


def dense():
    return DenseTargets(torch.randn(NUM, VOCABULARY, generator=_seeded()).log_softmax(-1))


def top_k():
    logp, ids = dense().logp_NV.topk(8)
    return TopKTargets(ids, logp, (1 - logp.exp().sum(-1)).log())


def sampled():
    ids = torch.randint(0, VOCABULARY, (NUM, 1), generator=_seeded()) + torch.zeros(1, 3).long()
    return SampledTargets((ids + torch.arange(3)) % VOCABULARY, torch.full((NUM, 3), 1 / 3))


def _seeded():
    return torch.Generator().manual_seed(1)


def chosen(targets, mask):
    """The targets of some positions."""
    parts = [targets[i : i + 1] for i in range(NUM) if mask[i]]
    fields = type(targets).__dataclass_fields__
    columns = {n: [getattr(p, n) for p in parts] for n in fields}
    return type(targets)(
        **{n: torch.cat(v) if v[0] is not None else None for n, v in columns.items()}
    )


def loss_and_gradient(rows, targets, weights, told=None, divergence="forward_kl"):
    student = StudentLoss(tiny_qwen3(3), Train(divergence=divergence), VOCABULARY)
    batch = collate(rows, 0)
    mask = None if told is None else torch.tensor(told)
    loss, parts = student(batch, targets, *weights, None, mask)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    return loss.detach(), gradient, parts


def flat(rows):
    return [[example] for row in rows for example in row]


@pytest.mark.parametrize(
    ("make", "divergence"),
    [(sampled, "forward_kl"), (top_k, "reverse_kl"), (dense, "jsd"), (dense, "forward_kl")],
)
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 0.4)])
def test_the_loss_and_gradient_are_those_of_the_parts_learnt_apart(make, divergence, weights):
    examples = [example for row in ROWS for example in row]
    own, text = [examples[0], examples[2]], [examples[1]]
    targets = chosen(make(), TOLD)
    mixed, mixed_gradient, parts = loss_and_gradient(ROWS, targets, weights, TOLD, divergence)
    of_signal = loss_and_gradient([[e] for e in own], targets, weights, None, divergence)
    of_text = loss_and_gradient([[e] for e in text], None, (0.0, sum(weights)))
    torch.testing.assert_close(mixed, of_signal[0] + of_text[0])
    torch.testing.assert_close(mixed_gradient, of_signal[1] + of_text[1], atol=1e-5, rtol=1e-4)
    assert parts["soft"] == pytest.approx(float(of_signal[2]["soft"]), rel=1e-4)
    assert parts["hard"] == pytest.approx(
        float(of_signal[2]["hard"] + of_text[2]["hard"]), rel=1e-4
    )


def test_where_no_sample_has_a_signal_it_is_plain_cross_entropy():
    told = [False] * NUM
    mixed = loss_and_gradient(ROWS, None, (0.7, 0.4), told)
    plain = loss_and_gradient(ROWS, None, (0.0, 1.1))
    torch.testing.assert_close(mixed[0], plain[0])
    torch.testing.assert_close(mixed[1], plain[1], atol=1e-6, rtol=1e-5)
    assert mixed[2]["soft"] == 0


def test_hidden_states_are_compared_where_they_are():
    student = StudentLoss(tiny_qwen3(3), Train(hidden_weight=0.5), VOCABULARY, 64)
    batch, told = collate(ROWS, 0), torch.tensor(TOLD)
    num = int(told.sum())
    values = torch.randint(-127, 127, (num, 64), dtype=torch.int8, generator=_seeded())
    states = HiddenTargets(values, torch.ones(num, 1), 64)
    targets = chosen(dense(), TOLD)
    loss, parts = student(batch, targets, 1.0, 0.0, states, told)
    assert loss.isfinite() and 0 < float(parts["hidden"]) < 2 * num
