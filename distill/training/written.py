"""Train one model and write its folder: what every training here ends with.

The folder is one like any other model's, with `training.json` beside the weights: how it was made.
"""

import json
from pathlib import Path
from typing import Any

import torch

from distill.core.checksums import CHECKSUMS, checksum_problem, write_checksums
from distill.core.files import FolderWriter
from distill.core.results import TrainedModel
from distill.errors import DataError
from distill.models.saving import save_model
from distill.training.loop import train
from distill.training.prepare import add_lora
from distill.training.run import TrainingRun

TRAINING = "training.json"
TRAIN_AGAIN = (
    "delete that folder and run the same command: it is trained again, from its last checkpoint "
    "where there still is one"
)


def train_and_write(run: TrainingRun, tokenizer: Any, *, goes_on: bool = False) -> None:
    """Train `run.model`, which is used up, and write it to the folder of `run.role`.

    An adapter is merged. In bfloat16 where its passes were; in float32 where another training
    `goes_on` from it, in which 16 bits would round most of a step of small rate away.
    """
    options, model, processes = run.options, run.model, run.processes
    torch.manual_seed(run.seed)
    adapter = None
    if options.lora_rank and run.model is not None:  # ranks of a divided student have none
        adapter = add_lora(options, model)
    result = train(run)
    if options.tracker != "none":
        for tracker in run.accelerator.trackers:
            # not end_training(), which also parts the processes, long before the end of the run
            tracker.finish()
    if processes.is_main:
        model = model if adapter is None else adapter.merge_and_unload()
        if run.placement.dtype == "bfloat16" and not goes_on:
            model = model.to(torch.bfloat16)
        with FolderWriter(run.folder / run.role) as temporary:
            fill(temporary, model, tokenizer, json.dumps(result, indent=1))
            write_checksums(temporary, checksums_of(run.folder, run.role))
    processes.barrier()


def fill(folder: Path, model: Any, tokenizer: Any, training: str) -> None:
    """Write a trained model's files to `folder`; `training`: the text of its training.json."""
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    (folder / TRAINING).write_text(training)


def checksums_of(place: Path, role: str) -> Path:
    """Return where the checksums of a role's folder are until the stage has its manifest."""
    return place / "checkpoints" / f"{role}.{CHECKSUMS}"


def require_as_trained(place: Path, role: str) -> None:
    """Raise DataError where a model that an earlier process trained is not as it wrote it."""
    folder = place / role
    try:
        problem = checksum_problem(folder, checksums_of(place, role))
    except FileNotFoundError:
        print(f"  train: {folder}: there are no checksums to compare it with; taken as it is")
        return
    if problem is not None:
        raise DataError(f"{folder}: damaged ({problem}); {TRAIN_AGAIN}")


def result_of(folder: Path) -> TrainedModel:
    """Return how the model in `folder` was trained. Raises DataError where that cannot be read."""
    try:
        return TrainedModel(**json.loads((folder / TRAINING).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{folder}: {TRAINING} is broken; {TRAIN_AGAIN}") from None


def accelerator_without_defaults(tracker: str | None = None, folder: Path | None = None) -> Any:
    """Return an Accelerator that takes nothing of the launcher's defaults.

    Precision, accumulation and clipping are ours (see loop.run_step), and nothing is compiled. Nor
    is the model moved: a recipe that says cpu is trained there, on a machine with a GPU too.
    `tracker` writes to `folder`.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

    return Accelerator(
        mixed_precision="no",
        dynamo_backend="no",
        # given as a plugin: the launcher's variable would overrule a plain number
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=tracker,
        project_dir=folder if tracker else None,
        device_placement=False,
        # buffers (of rotary positions) are the same on all ranks: else a forward pass would wait for
        # rank 0, and a rank that waits be taken for one that works
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
