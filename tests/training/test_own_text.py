"""A step that learns from the teacher's text and from the student's own, with a divergence each."""

from dataclasses import replace
from typing import Any

import pytest
import step_helpers as helpers
import torch
from step_helpers import examples, model, one_step, training_run
from torch import Tensor

from distill.signals.encoding import DenseRecord
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter
from distill.training.loop import forward
from distill.training.run import Example, TrainingRun
from distill.training.student import StudentLoss

ROWS = [[0, 1], [2, 3], [4, 5], [6]]
OWN = {1, 4, 5, 6}
SOFT, HARD, HIDDEN = 0.7, 0.4, 0.3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return helpers.signal(tmp_path_factory.mktemp("own") / "signals", helpers.SCORED_DRAWS)


def marked(own: set[int]) -> list[Example]:
    return [replace(e, by_student=i in own) for i, e in enumerate(examples())]


def run_of(store: Any, own: set[int], divergence: str = "skew_kl", **changes: Any) -> TrainingRun:
    of_step = {n: changes.pop(n) for n in ("rows_per_micro_batch", "packing") if n in changes}
    run = training_run(model(), store, soft_weight=SOFT, hidden_weight=HIDDEN, **of_step)
    options = run.options.model_copy(update={"divergence": divergence})
    run = replace(run, options=options, examples=marked(own), own_divergence="skew_reverse_kl")
    return replace(run, **changes)


def summed(
    run: TrainingRun, rows: list[list[int]]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The summed loss of `rows`, its parts and its gradients."""
    module = StudentLoss(
        run.model,
        run.options,
        run.vocab_size,
        run.teacher_width,
        own_divergence=run.own_divergence,
        stop_ids=run.stop_ids,
    ).train()
    loss, parts = forward(run, module, rows)
    loss.backward()
    return (
        loss.detach(),
        parts,
        {n: p.grad for n, p in module.named_parameters() if p.grad is not None},
    )


def test_it_is_the_sum_of_a_step_on_each_text_with_its_own_loss(store: Any) -> None:
    """DistiLLM-2: skew_kl on the teacher's text, skew_reverse_kl on the student's."""
    both, parts, gradients = summed(run_of(store, OWN), ROWS)
    of_teacher = summed(run_of(store, set()), [[i] for i in range(7) if i not in OWN])
    as_plain = run_of(store, set(), "skew_reverse_kl", hard_weight=0.0)
    of_student = summed(as_plain, [[i] for i in sorted(OWN)])
    torch.testing.assert_close(both, of_teacher[0] + of_student[0])
    torch.testing.assert_close(parts["own"], of_student[1]["soft"])
    torch.testing.assert_close(parts["soft"], of_teacher[1]["soft"] + of_student[1]["soft"])
    torch.testing.assert_close(parts["hard"], of_teacher[1]["hard"])
    for name, gradient in gradients.items():
        expected = of_teacher[2][name] + of_student[2][name]
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def sure_model() -> Any:
    """A student that is far from the uniform distribution, to which all teachers are alike."""
    student = model()
    with torch.no_grad():
        student.model.norm.weight.mul_(8)
    return student


def test_each_token_is_compared_with_its_own_teacher_whatever_stands_between(tmp_path: Any) -> None:
    """By hand, an example after the other: the student's text is put last, with all that belongs to it."""
    logps = {e.signal_key: 3 * torch.randn(e.num_loss_tokens, helpers.VOCAB) for e in examples()}
    header = SignalHeader("dense", helpers.VOCAB)
    with SignalWriter(tmp_path / "signals", header) as writer:
        for key, logits_TV in logps.items():
            writer.add(key, DenseRecord(logits_TV.log_softmax(-1).numpy()))
    store = SignalStore(tmp_path / "signals", header)
    run = run_of(store, OWN, teacher_width=None, model=sure_model())
    loss, _, gradients = summed(run, ROWS)
    student, alpha = sure_model().train(), run.options.alpha
    expected = torch.zeros((), dtype=torch.float64)
    for number, example in enumerate(examples()[:7]):
        logits_TV = student(torch.tensor([example.ids])).logits[0, example.answer_start - 1 : -1]
        logq = logits_TV.log_softmax(-1)
        record = store.read(example.signal_key)
        assert isinstance(record, DenseRecord)
        p = torch.from_numpy(record.logp).double().softmax(-1)
        if number in OWN:
            mixture = (1 - alpha) * p + alpha * logq.exp().detach()
            expected = expected + SOFT * (logq.exp() * (logq - mixture.log())).sum()
            continue
        mixture = alpha * p + (1 - alpha) * logq.exp()
        labels = example.ids[example.answer_start :]
        expected = expected + SOFT * (p * (p.log() - mixture.log())).sum()
        expected = expected - HARD * logq[range(len(labels)), labels].sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in student.named_parameters():
        mine = gradients[f"model.{name}"]
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop_ids", [(), (5, 9, 40)])
def test_micro_batches_and_packing_change_nothing(store: Any, stop_ids: tuple[int, ...]) -> None:
    steps = [
        one_step(run_of(store, OWN, rows_per_micro_batch=n, stop_ids=stop_ids), rows)
        for n, rows in ((4, ROWS), (1, ROWS), (2, [[6], [1, 0], [5, 4], [3, 2]]))
    ]
    (row, gradients), *others = steps
    assert row["own"] > 0.1 and row["soft"] > row["own"]
    for other_row, other_gradients in others:
        assert other_row == pytest.approx(row, rel=1e-7)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_text_of_the_teacher_alone_and_of_the_student_alone(store: Any) -> None:
    row, _ = one_step(run_of(store, set()), ROWS)
    assert "own" not in row
    row, gradients = one_step(run_of(store, set(range(8))), ROWS)
    assert row["own"] == pytest.approx(row["soft"]) and row["hard"] == 0
    assert row["loss"] == pytest.approx(SOFT * row["soft"] + HIDDEN * row["hidden"])
    assert all(g.abs().max() > 1e-5 for g in gradients.values())


def test_its_own_divergence_is_the_runs_where_none_is_given(store: Any) -> None:
    as_given, _, _ = summed(run_of(store, OWN, own_divergence="skew_kl"), ROWS)
    as_the_run, _, _ = summed(run_of(store, OWN, own_divergence=None), ROWS)
    assert torch.equal(as_given, as_the_run)


def test_an_empty_micro_batch_gives_zero_and_zero_gradients(store: Any) -> None:
    loss, parts, gradients = summed(run_of(store, OWN), [])
    assert loss == 0 and all(part == 0 for part in parts.values())
    assert set(parts) == {"soft", "hard", "hidden", "own"}
    assert all((g == 0).all() for g in gradients.values())
