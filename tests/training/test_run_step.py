"""What must not change an optimizer step's loss or gradient: how it is cut, shared, packed, padded.

A sum over tokens, divided once: tests/losses has the same for the loss alone, here it is the whole
step.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import step_helpers as helpers
import torch
import torch.nn.functional as F
from run_helpers import Forked, environment, free_port
from step_helpers import VOCAB, examples, model, one_step, targets_of, training_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.core import activity
from distill.errors import TrainingError
from distill.losses.targets import Targets
from distill.models.head import head_of
from distill.models.score import TokenSequence, answer_hidden_states
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter
from distill.teachers.records import records_of
from distill.training.batches import Batch, collate
from distill.training.loop import forward
from distill.training.student import StudentLoss
from distill.training.written import accelerator_without_defaults

ROWS = [[0, 1], [2, 3], [4, 5], [6]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return helpers.signal(tmp_path_factory.mktemp("step") / "signals")


@pytest.mark.parametrize(("shard", "waits"), [("none", False), ("full", True)])
def test_a_forward_pass_waits_for_other_ranks_where_they_hold_its_layers(store, shard, waits):
    run = training_run(model(), store)
    run = replace(run, options=run.options.model_copy(update={"shard": shard}))
    student, seen = StudentLoss(run.model, run.options, run.vocab_size), []
    student.register_forward_pre_hook(lambda *_: seen.append(activity.waits()))
    forward(run, student, [[0, 1]])
    assert seen == [waits] and not activity.waits()
    assert accelerator_without_defaults().ddp_handler.broadcast_buffers is False


@pytest.fixture(scope="module")
def reference(store):
    """The step that others are compared with: every row in one forward pass of one process."""
    row, gradients = one_step(training_run(model(), store, rows_per_micro_batch=4), ROWS)
    assert row["loss"] > 1 and all(g.abs().max() > 1e-4 for g in gradients.values()), (
        "there is something to compare"
    )
    assert "hidden" not in row and "hidden_state_projection" not in gradients
    return row, gradients


@pytest.fixture(scope="module")
def reference_with_hidden_states(store):
    """The same, with the teacher's hidden states to match."""
    row, gradients = one_step(
        training_run(model(), store, rows_per_micro_batch=4, hidden_weight=0.5), ROWS
    )
    assert row["hidden"] == pytest.approx(1, abs=0.1), "random states are at right angles"
    assert row["loss"] == pytest.approx(
        0.7 * row["soft"] + 0.4 * row["hard"] + 0.5 * row["hidden"], rel=1e-6
    )
    assert gradients["hidden_state_projection"].abs().max() > 1e-4
    return row, gradients


def assert_same(
    found: tuple[dict[str, Any], dict[str, Tensor]],
    expected: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    assert found[0].keys() == expected[0].keys()
    for name in found[0]:
        assert found[0][name] == pytest.approx(expected[0][name], rel=1e-9), name
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("rows_per_micro_batch", [1, 2, 3])
def test_micro_batches_change_nothing(store, reference, rows_per_micro_batch):
    """1 x 4 rows, 2 x 2, 4 x 1, and 3 + 1: token counts differ, so a mean of means would show."""
    assert_same(
        one_step(training_run(model(), store, rows_per_micro_batch=rows_per_micro_batch), ROWS),
        reference,
    )


def test_micro_batches_do_not_change_hidden_state_matching(store, reference_with_hidden_states):
    assert_same(
        one_step(training_run(model(), store, rows_per_micro_batch=1, hidden_weight=0.5), ROWS),
        reference_with_hidden_states,
    )


def test_processes_change_nothing(store, tmp_path):
    """Two real processes.

    Two micro-batches each; three rows, so that one has an empty micro-batch; a single row.
    """
    steps = {
        "even": (ROWS, 0.0),
        "odd": (ROWS[:3], 0.0),
        "one": (ROWS[:1], 0.0),
        "hidden": (ROWS[:3], 0.5),
    }
    torch.save(steps, tmp_path / "steps.pt")
    (tmp_path / "signals").symlink_to(store.folder)
    everywhere = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
    }
    children = [
        Forked(
            helpers.save_steps_of_a_process,
            tmp_path,
            2,
            variables=environment(**everywhere, RANK=rank, LOCAL_RANK=rank),
        )
        for rank in "01"
    ]
    for child in children:
        result = child.result(timeout=120)
        assert result.returncode == 0, result.stderr[-3000:]
    for name, (rows, weight) in steps.items():
        expected = one_step(
            training_run(model(), store, rows_per_micro_batch=4, hidden_weight=weight), rows
        )
        for rank in "01":  # DDP gives both the sum of what each has found, divided once
            assert_same(torch.load(tmp_path / f"{name}-{rank}.pt"), expected)


def test_packing_changes_nothing(store):
    """The rows that the plan makes of all the samples, with packing and without."""
    packed, alone = (
        training_run(model(), store, packing=p, rows_per_micro_batch=8) for p in (True, False)
    )
    (packed_rows,), (alone_rows,) = packed.steps(), alone.steps()
    assert len(packed_rows) < len(alone_rows) == len(examples())
    assert_same(one_step(packed, packed_rows), one_step(alone, alone_rows))


def test_where_a_sample_lies_in_its_row_changes_nothing(store, reference):
    assert_same(one_step(training_run(model(), store), [[6], [1, 0], [5, 4], [3, 2]]), reference)


def loss_and_gradients(
    student: Any, batch: Batch, targets: Targets
) -> tuple[float, dict[str, Tensor]]:
    student.zero_grad(set_to_none=True)
    loss, _ = StudentLoss(student, training_run(student, None).options, VOCAB)(
        batch, targets, 0.7, 0.4
    )
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in student.named_parameters()}


def left_padded(batch: Batch, sizes: list[int]) -> Batch:
    """The same rows with their padding in front, where it has positions of its own.

    `sizes` are tokens without it.
    """
    width = batch.input_ids_BT.shape[1]
    rolled = [width - size for size in sizes]
    ids, positions = (
        torch.stack([row.roll(r) for row, r in zip(t, rolled, strict=True)])
        for t in (batch.input_ids_BT, batch.position_ids_BT)
    )
    shift_N = torch.tensor(rolled)[batch.positions_N // width]
    return replace(
        batch, input_ids_BT=ids, position_ids_BT=positions, positions_N=batch.positions_N + shift_N
    )


def test_the_side_of_the_padding_changes_nothing(store):
    chosen = [examples()[i] for i in (2, 0, 6)]
    right = collate([[(i.ids, i.answer_start)] for i in chosen], pad_id=0)
    left = left_padded(right, [len(i.ids) for i in chosen])
    assert (left.input_ids_BT[:, -1] != 0).all() and (right.input_ids_BT[:, -1] == 0).any()
    student = model()
    targets = targets_of(chosen, store)
    (one_loss, one), (other_loss, other) = (
        loss_and_gradients(student, batch, targets) for batch in (right, left)
    )
    assert one_loss == pytest.approx(other_loss, rel=1e-9)
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-8)


def test_what_the_padding_is_changes_nothing(store):
    chosen = [examples()[i] for i in (2, 0, 6)]
    rows = [[(e.ids, e.answer_start)] for e in chosen]
    student = model()
    targets = targets_of(chosen, store)
    (one_loss, one), (other_loss, other) = (
        loss_and_gradients(student, collate(rows, pad), targets) for pad in (0, 77)
    )
    assert one_loss == pytest.approx(other_loss, rel=1e-12)
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-8)


def test_a_padded_vocabulary_changes_nothing_and_gets_no_gradient(store, reference):
    padded = model()
    padded.resize_token_embeddings(VOCAB + 20, mean_resizing=False)
    head = padded.get_output_embeddings().weight
    assert head.shape[0] == VOCAB + 20
    with torch.no_grad():
        head[VOCAB:] = 100 * torch.randn(
            20, head.shape[1], dtype=head.dtype
        )  # logits that would win everywhere
    row, gradients = one_step(training_run(padded, store), ROWS)
    assert (gradients["model.embed_tokens.weight"][VOCAB:] == 0).all()
    gradients["model.embed_tokens.weight"] = gradients["model.embed_tokens.weight"][:VOCAB]
    assert_same((row, gradients), reference)


STOPS = [5, 9, 40]


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("stop_ids", [[], STOPS])
@pytest.mark.parametrize(
    ("header", "divergence"),
    [
        (SignalHeader("dense", VOCAB), "forward_kl"),
        (SignalHeader("dense", VOCAB), "skew_reverse_kl"),
        (SignalHeader("top_k", VOCAB, top_k=100), "jsd"),
        (SignalHeader("sampled", VOCAB, num_draws=20, draw_log_probs=True), "reverse_kl"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_a_students_own_signal_costs_nothing_and_one_that_is_a_token_late_does(
    tmp_path, header, divergence, stop_ids, late
):
    """From hidden states to shards to a packed step.

    Capture and training mean the same position by a token.
    """
    student, chosen = model().eval(), [i for row in ROWS for i in row]
    sequences = [TokenSequence(examples()[i].ids, examples()[i].answer_start) for i in chosen]
    keys = [examples()[i].signal_key for i in chosen]
    hidden = [h_TH.roll(late, 0) for h_TH in answer_hidden_states(student, sequences, 0)]
    with SignalWriter(tmp_path, header) as writer:
        answers = [s.ids[s.answer_start :] for s in sequences]
        for key, record in zip(
            keys, records_of(header, head_of(student), hidden, answers, keys), strict=True
        ):
            writer.add(key, record)
    run = training_run(student, SignalStore(tmp_path, header), soft_weight=1.0, hard_weight=0.0)
    options = run.options.model_copy(update={"divergence": divergence})
    row, _ = one_step(replace(run, options=options, stop_ids=stop_ids), ROWS)
    assert (abs(row["soft"]) < 1e-6) if late == 0 else (row["soft"] > 1e-3)
    # a thousandth is what float16 on disk leaves
    assert (row["grad_norm"] < 1e-3) if late == 0 else (row["grad_norm"] > 1e-2)


def test_positions_without_loss_get_no_gradient(store):
    """Prompts, padding and each example's last token.

    Exactly zero where the head meets the student's hidden states.
    """
    chosen = [[examples()[i] for i in row] for row in ([0, 1], [6])]
    batch = collate([[(i.ids, i.answer_start) for i in row] for row in chosen], pad_id=0)
    student, seen = model(), []

    def watch(_module: Any, _inputs: Any, hidden_BTH: Tensor) -> None:
        if hidden_BTH.requires_grad:
            hidden_BTH.register_hook(seen.append)

    student.model.norm.register_forward_hook(watch)
    loss_and_gradients(student, batch, targets_of([i for row in chosen for i in row], store))
    (gradient_BTH,) = seen
    gradient_norm = gradient_BTH.flatten(0, 1).norm(dim=-1)
    carries_loss = torch.zeros_like(gradient_norm, dtype=torch.bool)
    carries_loss[batch.positions_N] = True
    assert carries_loss.sum() == sum(i.num_loss_tokens for row in chosen for i in row)
    assert (gradient_norm[~carries_loss] == 0).all() and (gradient_norm[carries_loss] > 1e-3).all()


def test_an_empty_micro_batch_gives_zero_and_zero_gradients(store):
    idle = training_run(model(), store)
    module = StudentLoss(idle.model, idle.options, VOCAB)
    loss, parts = forward(idle, module, [])
    loss.backward()
    assert loss.item() == parts["soft"].item() == parts["hard"].item() == 0
    for (
        name,
        parameter,
    ) in idle.model.named_parameters():  # zeros, not None: other ranks average with them
        assert parameter.grad is not None and (parameter.grad == 0).all(), name


class ShapesMade(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.zeros_like.default, torch.ops.aten.empty_like.default):
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize("frozen", [False, True])
def test_for_a_frozen_head_no_gradient_is_made(store, reference, frozen):
    student = model()
    head = student.get_output_embeddings().weight
    head.requires_grad_(not frozen)
    with ShapesMade() as made:
        row, gradients = one_step(training_run(student, store, rows_per_micro_batch=4), ROWS)
    assert (tuple(head.shape) in made.shapes) == (not frozen)
    assert ("model.embed_tokens.weight" in gradients) == (not frozen)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[1][name], rtol=1e-6, atol=1e-9)
    assert row["loss"] == pytest.approx(reference[0]["loss"], rel=1e-12)


def test_without_soft_weight_a_step_is_plain_fine_tuning_and_needs_no_store(store):
    without, with_store = (
        one_step(training_run(model(), s, soft_weight=0.0, hard_weight=1.0), ROWS)
        for s in (None, store)
    )
    assert without[0] == with_store[0] and without[0]["soft"] == 0
    assert all(torch.equal(without[1][n], g) for n, g in with_store[1].items())

    student, total, count = model(), torch.zeros((), dtype=torch.float64), 0
    for i in (i for row in ROWS for i in row):
        example = examples()[i]
        logits_TV = student(torch.tensor([example.ids])).logits[0, example.answer_start - 1 : -1]
        total = total + F.cross_entropy(
            logits_TV, torch.tensor(example.ids[example.answer_start :]), reduction="sum"
        )
        count += example.num_loss_tokens
    (total / count).backward()
    stock = {n: p.grad for n, p in student.named_parameters()}
    assert_same(
        without,
        ({**without[0], "loss": (total / count).item(), "hard": (total / count).item()}, stock),
    )


@pytest.mark.parametrize("stage", ["train", "rounds"])
def test_a_loss_that_is_not_finite_names_the_learning_rate_that_it_was_trained_with(stage):
    run = helpers.training_run(model(), None, soft_weight=0.0, hard_weight=1.0)
    options = run.options.model_copy(update={"learning_rate": 2e-6})
    run = replace(run, stage=stage, options=options)
    with torch.no_grad():
        run.model.get_input_embeddings().weight.fill_(math.nan)
    told = rf"Lower {stage}\.learning_rate \(the peak was 2e-06\) and use --redo {stage}$"
    with pytest.raises(TrainingError, match=told):
        helpers.one_step(run, [[0, 1]])
