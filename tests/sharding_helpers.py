"""Trainings of tiny students by several ranks that divide it (gloo, on CPUs), and by one process, to compare.

A rank leaves what it found in files of a folder; `ranks` starts some, as `accelerate launch` does.
"""

import gc
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import step_helpers as helpers
import torch
from conftest import tiny_qwen3
from run_helpers import Forked, environment, free_port
from torch import Tensor

from distill.core.processes import Processes, finish, start
from distill.models.load import Placement
from distill.recipe.sections import Train
from distill.training import packed_attention, sharding
from distill.training.loop import on_ranks, run_step, student_loss, train, validate
from distill.training.optimizer import build_optimizer
from distill.training.prepare import add_lora
from distill.training.run import TrainingRun
from distill.training.sharded_checkpoints import ShardedCheckpoints
from distill.training.student import outer_parameters, trainable_parameters

# rows of one to four micro-batches; with two ranks one has an empty one in every other step
STEPS = [[[0, 1], [2, 3], [4, 5], [6]], [[7, 1], [3, 5], [0]], [[0, 1, 3]]]
# AdamW divides by a gradient's own size: one of rounding errors alone moves a weight by up to the rate
RATE = 1e-4
LAYERS = 2
# steps of a whole training, and those after which a checkpoint is due
NUM_STEPS, EVERY, KILLED_AT = 8, 3, 7


def untied() -> Any:
    from transformers import Qwen3ForCausalLM

    config = tiny_qwen3(layers=LAYERS).config
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def tied() -> Any:
    return tiny_qwen3(layers=LAYERS)


def odd() -> Any:
    """Rows and widths that no two or four ranks divide evenly, as a trimmed vocabulary has them."""
    return tiny_qwen3(layers=LAYERS, vocabulary=301)


# name: (student, its type, what else the recipe says)
CASES: dict[str, tuple[Any, torch.dtype, dict[str, Any]]] = {
    "tied": (tied, torch.float64, {}),
    "untied": (untied, torch.float64, {}),
    "odd rows": (odd, torch.float64, {}),
    "biased head": (helpers.biased_phi, torch.float64, {}),
    "hidden states": (tied, torch.float64, {"hidden_weight": 0.5}),
    "adapter": (tied, torch.float64, {"lora_rank": 3}),
    "recomputed": (tied, torch.float64, {"gradient_checkpointing": True}),
    "muon": (untied, torch.float64, {"optimizer": "muon"}),
    "by sequence": (tied, torch.float64, {}),
    "float32": (tied, torch.float32, {}),
    "bfloat16": (untied, torch.float32, {"precision": "bfloat16"}),
}


def run_of(
    folder: Path, name: str, processes: Processes, *, how: str = "none", **settings: Any
) -> TrainingRun:
    """The training of a case; `how`: train.shard. On ranks of a divided student all but one have no model."""
    make, dtype, options = CASES[name]
    has_model = how == "none" or processes.is_main
    model = make().to(dtype) if has_model else None
    weight = options.get("hidden_weight", 0.0)
    store = helpers.signal(folder / "signals")
    run = helpers.training_run(model, store, processes=processes, hidden_weight=weight)
    changed = {"shard": how, "max_grad_norm": 0.5, "learning_rate": RATE, **options, **settings}
    train_options = Train(**{**run.options.model_dump(), **changed})
    torch.manual_seed(1)
    if model is not None and train_options.lora_rank:
        add_lora(train_options, model)
        model.to(dtype)
    in_bfloat16 = train_options.precision == "bfloat16"
    return replace(
        run,
        options=train_options,
        validation=[*helpers.examples(), *helpers.examples(), helpers.examples()[0]],
        placement=Placement("cpu", "bfloat16" if in_bfloat16 else "float32"),
        folder=folder,
        by_sequence=name == "by sequence",
    )


def steps_of(run: TrainingRun) -> dict[str, Any]:
    """Take the steps; return their log rows, the weights after them, the validation loss, this rank's share.

    "held": the bytes that the student took on this rank before the first step.
    """
    whole = None if run.model is None else student_loss(run)
    before = held_bytes()
    student, module = on_ranks(run, whole)
    held = at_rest(held_bytes) - before
    if run.by_sequence:
        packed_attention.use(student.model)
    trainable = trainable_parameters(student)
    optimizer = build_optimizer(trainable, run.options, outer_parameters(student))
    rows = []
    for step, step_rows in enumerate(STEPS):
        rows.append(run_step(run, module, optimizer, trainable, step_rows, step, RATE))
    loss = validate(run, module)
    local = sum(_local(p).numel() for p in trainable.values())
    if run.is_sharded:
        sharding.gather(trainable, None if whole is None else trainable_parameters(whole))
        trainable = {} if whole is None else trainable_parameters(whole)
    weights = {name: p.detach().clone() for name, p in trainable.items()}
    return {"rows": rows, "weights": weights, "validation": loss, "local": local, "held": held}


def held_bytes() -> int:
    """Bytes of all tensors that are alive in this process."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if type(value) in (Tensor, torch.nn.Parameter)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def at_rest(bytes_now: Callable[[], int]) -> int:
    """The least of some looks: a thread of gloo may hold for a moment what it has just sent."""
    looks = []
    for _ in range(5):
        looks.append(bytes_now())
        time.sleep(0.1)
    return min(looks)


def _local(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)
    return parameter if to_local is None else to_local()


def course(folder: Path, processes: Processes, how: str = "full") -> TrainingRun:
    """A whole training of a student with dropout, of which the best weights are kept; `how`: train.shard."""
    run = run_of(
        folder,
        "float32",
        processes,
        how=how,
        epochs=100,
        max_steps=NUM_STEPS,
        batch_tokens=3 * helpers.LONGEST,
        validate_every=2,
        checkpoint_every=EVERY,
        learning_rate=3e-3,
    )
    if run.model is not None:
        run.model = tiny_qwen3(dropout=0.1)
    return run


class DiesAt:
    """An accelerator whose process is killed, as by the kernel, when it logs a step."""

    def __init__(self, accelerator: Any, step: int) -> None:
        self._accelerator, self._step = accelerator, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def log(self, row: dict[str, Any], step: int) -> None:
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


class LeavesAt(DiesAt):
    """An accelerator that copies the folder of the run when it logs a step: what a kill leaves then."""

    def __init__(self, accelerator: Any, step: int, folder: Path, copy: Path) -> None:
        super().__init__(accelerator, step)
        self._folders = folder, copy

    def log(self, row: dict[str, Any], step: int) -> None:
        if step == self._step:
            shutil.copytree(*self._folders, symlinks=True)


def take_steps(folder: Path, processes: Processes, how: str, names: Iterable[str]) -> None:
    """Take the steps of these cases, and leave what came of each in a file."""
    for name in names:
        found = steps_of(run_of(folder, name, processes, how=how))
        torch.save(found, folder / f"{name}-{how}-{processes.rank}.pt")


def train_whole(run: TrainingRun) -> None:
    """Train to the end; rank 0 leaves the weights."""
    train(run)
    if run.processes.is_main:
        torch.save(run.model.state_dict(), run.folder / "trained.pt")
    run.processes.barrier()


def check_two(folder: Path) -> None:
    """As one of two ranks: all cases, trainings to the end, and one in which the other is killed."""
    processes = start(2)
    take_steps(folder, processes, "full", CASES)
    train_whole(course(folder / "unbroken", processes))
    whole = course(folder / "ddp", processes, "none")
    if processes.is_main:
        left = folder / "ddp left"
        whole.accelerator = LeavesAt(whole.accelerator, KILLED_AT, folder / "ddp", left)
    train_whole(whole)
    dying = course(folder / "killed", processes)
    if processes.rank == 1:
        dying.accelerator = DiesAt(dying.accelerator, KILLED_AT)
    train_whole(dying)


def go_on(folder: Path, names: list[str]) -> None:
    """As one of two ranks: go on with trainings that were broken off."""
    processes = start(2)
    for name in names:
        how = "none" if name.startswith("ddp") else "full"
        train_whole(course(folder / name, processes, how))
    finish(processes)


def check_two_clocks(folder: Path) -> None:
    """As one of two ranks: a training whose checkpoints are due by the clock of rank 1 alone, after every step."""
    processes = start(2)
    run = course(folder, processes)
    minutes = 0.0 if processes.rank == 1 else 1e6
    options = run.options.model_copy(
        update={"checkpoint_every": None, "checkpoint_minutes": minutes, "max_steps": 3}
    )
    train_whole(replace(run, options=options))
    finish(processes)


def check_four(folder: Path) -> None:
    """As one of four ranks, two a node: cases, and what two ranks saved."""
    processes = start(4)
    take_steps(folder, processes, "hybrid", ["tied", "odd rows", "hidden states"])
    run = course(folder / "unbroken", processes)
    whole = None if run.model is None else student_loss(run)
    student = sharding.shard(whole, run.placement, "hybrid", processes)
    trainable = trainable_parameters(student)
    optimizer = build_optimizer(trainable, run.options)
    checkpoints = ShardedCheckpoints(run.checkpoint_folder, processes, "hybrid")
    saved = checkpoints.load_newest(trainable, optimizer, with_best=True)
    assert saved is not None
    found = {f"model.{name}": sharding.whole_tensor(p) for name, p in trainable.items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            found[f"optimizer.{number}.{name}"] = sharding.whole_tensor(state[name])
    if processes.is_main:
        torch.save((found, saved.step, saved.notes), folder / "four.pt")
    finish(processes)


def ranks(
    function: Callable[..., int | None], num: int, *arguments: object, **more: str
) -> list[Forked]:
    """Start `num` ranks of a function; `more` are environment variables."""
    everywhere = {
        "WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
        **more,
    }
    return [
        Forked(
            function,
            *arguments,
            variables=environment(**everywhere, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(num)
    ]
