"""The whole loop on a tiny student: what is trained, logged, checkpointed and continued."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import step_helpers as helpers
import torch
from conftest import tiny_qwen3
from safetensors.torch import load_file

from distill.recipe.sections import Train
from distill.training.loop import train
from distill.training.metrics import read_metrics
from distill.training.run import TrainingRun
from distill.training.student import initial_projection

NUM_STEPS = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return helpers.signal(tmp_path_factory.mktemp("loop") / "signals")


def training_run(folder: Path, store: Any, **options: Any) -> TrainingRun:
    """24 steps with dropout, two rows each, a checkpoint after the tenth and the twentieth."""
    settings = Train(
        epochs=100,
        max_steps=NUM_STEPS,
        max_length=helpers.LONGEST,
        batch_tokens=2 * helpers.LONGEST,
        micro_batch_tokens=helpers.LONGEST,
        learning_rate=3e-3,
        validate_every=6,
        keep="last",
        checkpoint_every=10,
        **options,
    )
    student = tiny_qwen3(dropout=0.1)
    run = helpers.training_run(
        student, store, soft_weight=1.0, hard_weight=0.0, hidden_weight=settings.hidden_weight
    )
    return replace(run, options=settings, folder=folder, validation=helpers.examples()[:2])


@pytest.fixture(scope="module", params=["adamw", "muon"])
def unbroken(request, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run = training_run(folder, store, hidden_weight=0.5, optimizer=request.param)
    train(run)
    return run


def test_the_distance_of_hidden_states_falls_and_has_a_column_of_its_own(unbroken):
    rows = read_metrics(unbroken.folder / "student.metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert 0.8 < rows[0]["hidden"] < 1.2 and rows[-1]["hidden"] < 0.75 * rows[0]["hidden"]
    for row in rows:
        assert row["loss"] == pytest.approx(row["soft"] + 0.5 * row["hidden"], rel=1e-5)


def test_without_hidden_weight_nothing_is_left_of_it(store, tmp_path):
    run = training_run(tmp_path, store)
    train(run)
    assert all("hidden" not in row for row in read_metrics(tmp_path / "student.metrics.jsonl"))
    saved = load_file(next(tmp_path.glob("checkpoints/student/step-00000020/model.safetensors")))
    assert saved.keys() == dict(run.model.named_parameters()).keys()


def test_a_run_that_continues_from_a_checkpoint_ends_bit_for_bit_alike_with_its_projection(
    unbroken, store, tmp_path
):
    """The newest checkpoint is damaged, so it goes on from the tenth step.

    Fourteen steps are done again.
    """
    source = unbroken.folder / "checkpoints"
    for path in source.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(unbroken.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "checkpoints/student/step-00000020/model.safetensors").write_bytes(b"half of it")
    metrics = (unbroken.folder / "student.metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "student.metrics.jsonl").write_text("".join(metrics[:13]))

    saved = load_file(tmp_path / "checkpoints/student/step-00000010/model.safetensors")
    projection = saved["hidden_state_projection"]
    start = initial_projection(helpers.TEACHER_WIDTH, projection.shape[1])
    assert projection.shape == start.shape and (projection - start).abs().max() > 1e-3, (
        "it has been trained"
    )

    run = training_run(tmp_path, store, hidden_weight=0.5, optimizer=unbroken.options.optimizer)
    train(run)
    for (name, one), other in zip(
        unbroken.model.state_dict().items(), run.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert (tmp_path / "student.metrics.jsonl").read_text() == "".join(metrics)
    newest = [
        load_file(f / "checkpoints/student/step-00000020/model.safetensors")
        for f in (unbroken.folder, tmp_path)
    ]
    assert all(torch.equal(newest[0][name], newest[1][name]) for name in newest[0])


def test_the_projection_is_no_part_of_the_student(unbroken, tmp_path):
    unbroken.model.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "projection" in name]
