"""The training loop, in plain sight: forward, loss, backward, clip, step, log, checkpoint.

The loss of a step is a sum over its loss tokens divided once, in `run_step`, by their number over all micro-batches and
ranks. Everything random follows from (seed, step), so a resumed run is bit-identical to an unbroken one on a CPU.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.core import shutdown
from distill.core.digests import digest
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.errors import MismatchError, RecipeError, Stopped, TrainingError
from distill.losses.hidden_states import HiddenTargets, hidden_state_loss
from distill.losses.linear_head import linear_head_loss
from distill.models.head import Head, head_of
from distill.models.load import Placement
from distill.recipe.sections import Train
from distill.signals.collate import hidden_targets, targets
from distill.signals.store import SignalStore
from distill.training import checkpoints
from distill.training.batches import Batch, collate, plan_epoch, share_of_rank
from distill.training.metrics import Metrics


@dataclass(frozen=True)
class Item:
    """One training sample: its token ids, where the answer begins, and the key of its signal."""

    ids: Sequence[int]
    answer_start: int
    signal_key: str

    @property
    def num_loss_tokens(self) -> int:
        return len(self.ids) - self.answer_start


class StudentLoss(nn.Module):
    """The student and its loss as one module, so that what DDP wraps is what is called.

    teacher_width: of the teacher's hidden states, where the student is to match them; the module then has a
    `projection` [teacher_width, H] that is trained with the student and is no part of it.
    """

    def __init__(
        self, model: Any, options: Train, vocab_size: int, teacher_width: int | None = None
    ):
        super().__init__()
        self.model, self.options, self.vocab_size = model, options, vocab_size
        head = head_of(model)
        if head.bias is not None:
            raise MismatchError(
                f"{type(model).__name__}: its head has a bias, which the loss does not know; take another student"
            )
        self.scale, self.softcap = head.scale, head.softcap
        self.projection = None
        if teacher_width is not None:
            self.projection = nn.Parameter(
                initial_projection(teacher_width, head.weight.shape[1]).to(head.weight)
            )

    def forward(
        self,
        batch: Batch,
        said: Any,
        soft_weight: float,
        hard_weight: float,
        states: HiddenTargets | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(summed loss, {"soft", "hard", "hidden"} sums without gradient) of a batch.

        said: the teacher's targets, or None. states: its hidden states, or None: then there is no "hidden".
        """
        hidden_BTH = self.model.base_model(
            input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False
        ).last_hidden_state
        hidden_NH = hidden_BTH.flatten(0, 1)[batch.positions_N]
        head = Head(
            self.model.get_output_embeddings().weight, scale=self.scale, softcap=self.softcap
        )
        parameters = {"beta": self.options.beta, "alpha": self.options.alpha}
        loss, parts = linear_head_loss(
            hidden_NH,
            head.weight,
            batch.labels_N,
            said,
            divergence=self.options.divergence,
            divergence_parameters=parameters,
            soft_weight=soft_weight,
            hard_weight=hard_weight,
            vocab_size=self.vocab_size,
            logit_scale=head.scale,
            softcap=head.softcap,
        )
        if states is None or self.projection is None:
            return loss, parts
        hidden = hidden_state_loss(hidden_NH, self.projection, states)
        return loss + self.options.hidden_weight * hidden, parts | {"hidden": hidden.detach()}


def initial_projection(teacher_width: int, width: int) -> Tensor:
    """The identity where student and teacher are as wide, else random: the same on every rank, at every start."""
    if teacher_width == width:
        return torch.eye(width)
    return torch.randn(
        teacher_width, width, generator=torch.Generator().manual_seed(0)
    ) / math.sqrt(width)


@dataclass
class Course:
    """One training: what is learnt (student or control), from what, where.

    Without `soft_weight` and `teacher_width` (of the hidden states to match) it needs no `store`.
    """

    role: str
    model: Any
    options: Train
    soft_weight: float
    hard_weight: float
    items: Sequence[Item]
    validation: Sequence[Item]
    store: SignalStore | None
    vocab_size: int
    pad_id: int
    seed: int
    where: Placement
    folder: Path
    processes: Processes
    accelerator: Any
    packing: bool = True
    teacher_width: int | None = None

    def steps(self) -> list[list[list[int]]]:
        """The rows of every optimizer step of the whole course."""
        plan: list[list[list[int]]] = []
        for epoch in range(self.options.epochs):
            plan += plan_epoch(
                [len(i.ids) for i in self.items],
                max_length=self.options.max_length,
                batch_tokens=self.options.batch_tokens,
                seed=self.seed,
                epoch=epoch,
                packing=self.packing,
            )
            if self.options.max_steps and len(plan) >= self.options.max_steps:
                return plan[: self.options.max_steps]
        return plan


def train(course: Course) -> dict[str, Any]:
    """Run the course to its end, from its newest checkpoint if there is one; leave the kept weights in `course.model`.

    Returns steps, tokens, seconds, the kept step and its validation loss. Raises TrainingError on a loss or gradient
    that is not finite (before the optimizer step) and Stopped after a signal (after a checkpoint).
    """
    options, processes = course.options, course.processes
    student = StudentLoss(course.model, options, course.vocab_size, course.teacher_width)
    module, trainable = course.accelerator.prepare_model(student), trainable_parameters(student)
    optimizer = build_optimizer(trainable, options)
    plan = course.steps()
    checkpoint_folder = course.folder / "checkpoints" / course.role
    metrics_file = course.folder / f"{course.role}.metrics.jsonl"

    step, state = (
        0,
        {
            "best_step": None,
            "best_loss": None,
            "last_loss": None,
            "seconds": 0.0,
            "num_loss_tokens": 0,
        },
    )
    if (found := checkpoints.load_newest(checkpoint_folder, optimizer)) is not None:
        step, tensors, state, notes = found
        _put(trainable, tensors)
        if processes.is_main:
            print(
                *(f"  train: {note}" for note in notes),
                f"  train: {course.role} continues at step {step}",
                sep="\n",
            )
    metrics = Metrics(metrics_file if processes.is_main else None, step)
    last_save = last_time = time.monotonic()
    total_tokens = sum(sum(len(course.items[i].ids) for row in rows for i in row) for rows in plan)
    done_tokens = sum(
        sum(len(course.items[i].ids) for row in rows for i in row) for rows in plan[:step]
    )
    label = f"train {course.role} ({course.where})"
    with Progress(label, total_tokens, "tokens", done=done_tokens, shown=processes.is_main) as bar:
        while step < len(plan):
            rate = learning_rate(options, step, len(plan))
            row = run_step(course, module, optimizer, trainable, plan[step], step, rate)
            step += 1
            state["num_loss_tokens"] += row["num_loss_tokens"]
            if step % options.validate_every == 0 or step == len(plan):
                row["validation_loss"] = state["last_loss"] = validate(course, module)
                if state["best_loss"] is None or row["validation_loss"] < state["best_loss"]:
                    state |= {"best_step": step, "best_loss": row["validation_loss"]}
                    if processes.is_main and options.keep == "best":
                        checkpoints.save_best(checkpoint_folder, step, _take(trainable))
            now = time.monotonic()
            state["seconds"] += now - last_time
            last_time = now
            metrics.add({"step": step, **row})
            course.accelerator.log(dict(row), step=step)
            bar.advance(
                sum(len(course.items[i].ids) for r in plan[step - 1] for i in r),
                note=f"loss {row['loss']:.3f}",
            )
            stop = processes.any(shutdown.requested())
            due = now - last_save > options.checkpoint_minutes * 60 or bool(
                options.checkpoint_every and step % options.checkpoint_every == 0
            )
            if (stop or due) and step < len(plan):
                if processes.is_main:
                    checkpoints.save(checkpoint_folder, step, _take(trainable), optimizer, state)
                last_save = last_time = time.monotonic()
            if stop:
                processes.barrier()
                shutdown.check()
                raise Stopped(
                    "stopped by a signal to another process; run the same command to continue"
                )
    processes.barrier()
    if options.keep == "best":
        _put(trainable, checkpoints.load_best(checkpoint_folder, state["best_step"]))
    return {
        "num_steps": len(plan),
        "num_tokens": total_tokens,
        "num_loss_tokens": state["num_loss_tokens"],
        "seconds": round(state["seconds"], 1),
        "tokens_per_second": round(total_tokens / max(state["seconds"], 1e-9)),
        "kept_step": state["best_step"] if options.keep == "best" else len(plan),
        "validation_loss": state["best_loss" if options.keep == "best" else "last_loss"],
    }


def trainable_parameters(student: StudentLoss) -> dict[str, nn.Parameter]:
    """What the optimizer changes and checkpoints hold: the model's own names, and the projection if there is one."""
    trainable = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
    return (
        trainable
        if student.projection is None
        else {**trainable, "hidden_state_projection": student.projection}
    )


def run_step(
    course: Course,
    module: nn.Module,
    optimizer: Any,
    trainable: dict[str, nn.Parameter],
    rows: list[list[int]],
    step: int,
    rate: float,
) -> dict[str, Any]:
    """One optimizer step over `rows`; returns its log row (means per loss token over all ranks)."""
    processes, options = course.processes, course.options
    # everything random in this step (dropout) follows from here, so that a resumed run repeats it
    torch.manual_seed(int(digest(str(course.seed), str(step), str(processes.rank))[:8], 16))
    num_tokens = sum(course.items[i].num_loss_tokens for row in rows for i in row)
    per_micro_batch = max(1, options.micro_batch_tokens // options.max_length)
    micro_batches = share_of_rank(
        rows, rank=processes.rank, num_ranks=processes.num, rows_per_micro_batch=per_micro_batch
    )
    names = ("soft", "hard") if course.teacher_width is None else ("soft", "hard", "hidden")
    sums = torch.zeros(1 + len(names), dtype=torch.float64)
    module.train()
    for number, micro_batch in enumerate(micro_batches):
        with _no_sync_until_last(course.accelerator, module, number == len(micro_batches) - 1):
            loss_sum, parts = _forward(
                course, module, micro_batch, course.soft_weight, course.hard_weight
            )
            # the one reduction: a sum over tokens / tokens of all micro-batches and ranks; DDP averages, hence x ranks
            course.accelerator.backward(loss_sum * (processes.num / num_tokens))
        sums += torch.stack(
            [loss_sum.detach().double().cpu(), *(parts[k].double().cpu() for k in names)]
        )
    loss, *means = (processes.sum(sums) / num_tokens).tolist()
    norm = float(nn.utils.clip_grad_norm_(trainable.values(), options.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"{course.role}, step {step + 1}: loss {loss}, gradient norm {norm}: not finite; the last checkpoint is kept. "
            f"Lower train.learning_rate (now {options.learning_rate}) and use --redo train"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "loss": loss,
        **dict(zip(names, means, strict=True)),
        "learning_rate": rate,
        "grad_norm": norm,
        "num_loss_tokens": num_tokens,
    }


def _forward(
    course: Course, module: nn.Module, rows: list[list[int]], soft: float, hard: float
) -> tuple[Tensor, Any]:
    items = [[course.items[i] for i in row] for row in rows]
    batch = collate([[(i.ids, i.answer_start) for i in row] for row in items], course.pad_id)
    device = next(module.parameters()).device
    keys = [i.signal_key for row in items for i in row]
    said = states = None
    if not items:  # no loss tokens: any weights give 0, with zero gradients for the other ranks to average with
        soft, hard = 0.0, 1.0
    elif soft:
        assert course.store is not None
        said = targets([course.store.read(key) for key in keys], device)
    if course.teacher_width is not None:
        assert course.store is not None
        states = hidden_targets(
            [course.store.read_hidden_states(key) for key in keys], course.teacher_width, device
        )
    with torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=course.where.dtype == "bfloat16"
    ):
        return module(batch.to(device), said, soft, hard, states)


@torch.no_grad()
def validate(course: Course, module: nn.Module) -> float:
    """Mean negative log-likelihood (nats a token) of the validation answers."""
    module.eval()
    inner = course.accelerator.unwrap_model(module)
    per_pass = max(1, course.options.micro_batch_tokens // course.options.max_length)
    mine = list(course.validation)[course.processes.rank :: course.processes.num]
    device = next(module.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(mine), 8 * per_pass):
        part = mine[start : start + 8 * per_pass]
        batch = collate([[(i.ids, i.answer_start)] for i in part], course.pad_id).to(device)
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=course.where.dtype == "bfloat16"
        ):
            loss_sum, _ = inner(batch, None, 0.0, 1.0)
        sums += torch.tensor([float(loss_sum), len(batch.labels_N)], dtype=torch.float64)
    total, count = course.processes.sum(sums).tolist()
    return total / count


def learning_rate(options: Train, step: int, num_steps: int) -> float:
    """Linear warm-up, then cosine or linear to 0, or constant. `step` counts from 0."""
    warmup = max(1, round(options.warmup_share * num_steps))
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, num_steps - warmup)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "linear": left, "constant": 1.0}
    return options.learning_rate * factor[options.schedule]


def build_optimizer(trainable: dict[str, nn.Parameter], options: Train) -> Any:
    """AdamW, weight decay on matrices only; 8-bit ones from bitsandbytes."""
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    vectors = [p for p in trainable.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)
    if not matrices[0].is_cuda:
        raise RecipeError(
            f"train.optimizer {options.optimizer} needs a CUDA GPU; set train.optimizer to adamw"
        )
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    kind = PagedAdamW8bit if options.optimizer == "paged_adamw_8bit" else AdamW8bit
    return kind(groups, lr=options.learning_rate, betas=(0.9, 0.95))


def _no_sync_until_last(accelerator: Any, module: nn.Module, last: bool) -> Any:
    return nullcontext() if last else accelerator.no_sync(module)


def _take(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().contiguous() for name, p in parameters.items()}


@torch.no_grad()
def _put(parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.copy_(tensors[name])
