"""The student and its loss: heads of every form, and the projection that is not part of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import step_helpers as helpers
import torch
import torch.nn.functional as F
from conftest import tiny_qwen3
from safetensors.torch import load_file
from torch import Tensor

from distill.losses.targets import SampledTargets
from distill.recipe.sections import Train
from distill.training.batches import collate
from distill.training.loop import train
from distill.training.metrics import read_metrics
from distill.training.student import StudentLoss, initial_projection, outer_parameters

SOFT, HARD = 0.7, 0.4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return helpers.signal(tmp_path_factory.mktemp("student") / "signals")


def plain_loss(student: Any, examples: list[Any], targets: SampledTargets) -> Tensor:
    """The weighted sum from the model's own logits, one example at a time."""
    total = torch.zeros((), dtype=torch.float64)
    start = 0
    for example in examples:
        ids = torch.tensor(example.ids)
        logits_TV = student(ids[None]).logits[0, example.answer_start - 1 : -1]
        logp_TV = logits_TV.log_softmax(-1)
        part = targets[start : start + len(logp_TV)]
        is_id_TK = part.ids_NK >= 0
        drawn_TK = logp_TV.gather(1, part.ids_NK.clamp(min=0)) * is_id_TK
        assert part.entropy_N is not None
        soft = -(part.weights_NK * drawn_TK).sum() - part.entropy_N.sum()
        hard = F.nll_loss(logp_TV, ids[example.answer_start :], reduction="sum")
        total = total + SOFT * soft + HARD * hard
        start += len(logp_TV)
    return total


def test_a_head_with_a_bias_has_the_loss_and_the_gradients_of_the_models_own_logits(
    store: Any,
) -> None:
    student = helpers.biased_phi().double()
    examples = [helpers.examples()[i] for i in (2, 0, 6)]
    targets = helpers.targets_of(examples, store)
    assert isinstance(targets, SampledTargets)
    parameters = dict(student.named_parameters())

    expected = plain_loss(student, examples, targets)
    expected_gradients = torch.autograd.grad(expected, list(parameters.values()))
    batch = collate([[(e.ids, e.answer_start)] for e in examples], pad_id=0)
    loss, _ = StudentLoss(student, Train(), helpers.VOCAB)(batch, targets, SOFT, HARD)
    gradients = torch.autograd.grad(loss, list(parameters.values()))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient, wanted in zip(parameters, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    bias_gradient = gradients[list(parameters).index("lm_head.bias")]
    assert bias_gradient.abs().max() > 1e-2
    with torch.no_grad():
        student.lm_head.bias.zero_()
    without, _ = StudentLoss(student, Train(), helpers.VOCAB)(batch, targets, SOFT, HARD)
    assert abs(without.item() - loss.item()) > 1, "the bias matters here"


def test_a_student_with_a_biased_head_is_trained_and_so_is_its_bias(
    store: Any, tmp_path: Path
) -> None:
    student = helpers.biased_phi()
    before = student.lm_head.bias.detach().clone()
    options = Train(
        epochs=100,
        max_steps=20,
        max_length=helpers.LONGEST,
        batch_tokens=4 * helpers.LONGEST,
        micro_batch_tokens=2 * helpers.LONGEST,
        learning_rate=1e-2,
        checkpoint_every=10,
        validate_every=10,
        keep="last",
    )
    run = helpers.training_run(student, store, soft_weight=SOFT, hard_weight=HARD)
    run = replace(run, options=options, folder=tmp_path, validation=helpers.examples()[:2])
    train(run)
    rows = read_metrics(tmp_path / "student.metrics.jsonl")
    assert len(rows) == 20 and rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert (student.lm_head.bias - before).abs().max() > 1e-2
    saved = load_file(tmp_path / "checkpoints/student/step-00000010/model.safetensors")
    assert not torch.equal(saved["lm_head.bias"], before)


def test_a_projection_between_equal_widths_begins_as_the_identity_else_it_keeps_lengths():
    assert torch.equal(initial_projection(8, 8), torch.eye(8))
    states = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    lengths = (states @ initial_projection(4096, 64).T).norm(dim=1) / states.norm(dim=1)
    assert torch.equal(initial_projection(96, 64), initial_projection(96, 64))
    assert (lengths - 8).abs().max() < 1, "8 = the root of 4096 / 64"


@pytest.mark.parametrize("make", [tiny_qwen3, helpers.biased_phi], ids=["tied", "not tied"])
def test_embedding_head_and_projection_are_beside_the_hidden_layers(make: Any) -> None:
    student = StudentLoss(make(), Train(), helpers.VOCAB, helpers.TEACHER_WIDTH)
    outer = set(outer_parameters(student))
    matrices = {name: p for name, p in student.named_parameters() if p.ndim == 2}
    for name, parameter in matrices.items():
        assert (parameter in outer) == ("layers" not in name), name
    assert student.projection in outer
