"""The training loop, in plain sight: `train` and, below it, the one optimizer step that it repeats.

Forward, loss, backward, clip and step are in `run_step`; validate, log and checkpoint in `train`.
The loss of a step is a sum over its loss tokens divided once, in `run_step`, by their number over
all micro-batches and ranks. Everything random follows from (seed, step), so a resumed run is
bit-identical to an unbroken one on a CPU.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from distill.core import activity, shutdown
from distill.core.digests import digest
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.errors import Stopped, TrainingError
from distill.recipe.sections import Train
from distill.signals.collate import chunk_targets, hidden_targets, targets
from distill.training import packed_attention, sharding
from distill.training.batches import Batch, Plan, Rows, collate
from distill.training.checkpoints import WholeCheckpoints
from distill.training.metrics import Metrics
from distill.training.optimizer import build_optimizer
from distill.training.prepare import checkpoint_activations
from distill.training.run import Example, TrainingRun
from distill.training.sharded_checkpoints import ShardedCheckpoints
from distill.training.student import StudentLoss, outer_parameters, trainable_parameters

Checkpoints = WholeCheckpoints | ShardedCheckpoints


def train(run: TrainingRun) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint if there is one.

    Leaves the kept weights in `run.model`, where the student is sharded on rank 0 alone: the others
    have no model. Returns steps, tokens, seconds, the kept step and its validation loss. Raises
    TrainingError on a loss or gradient that is not finite (before the optimizer step) and Stopped
    after a signal (after a checkpoint).
    """
    options = run.options
    processes = run.processes
    whole = None if run.model is None else student_loss(run)
    student, module = on_ranks(run, whole)
    trainable = trainable_parameters(student)
    optimizer = build_optimizer(trainable, options, outer_parameters(student))
    plan = run.steps()
    saved = _checkpoints(run)
    step, state = _resume(run, saved, trainable, optimizer)
    if state.by_sequence:
        packed_attention.use(student.model)
    metrics_file = run.folder / f"{run.role}.metrics.jsonl"
    metrics = Metrics(metrics_file if processes.is_main else None, step)
    clock = _Clock()
    with _progress(run, plan, step) as bar:
        while step < len(plan):
            rate = run.learning_rate(step, len(plan))
            row = run_step(run, module, optimizer, trainable, plan[step], step, rate)
            step += 1
            is_last = step == len(plan)
            if step % options.validate_every == 0 or is_last:
                row["validation_loss"] = validate(run, module)
                _keep_if_best(run, saved, state, step, row["validation_loss"], trainable)
            state.num_loss_tokens += row["num_loss_tokens"]
            state.seconds += clock.lap()
            metrics.add({"step": step, **row})
            run.accelerator.log(dict(row), step=step)
            bar.advance(run.num_tokens(plan[step - 1]), note=f"loss {row['loss']:.3f}")

            is_stopped = processes.any(shutdown.requested())
            is_due = _checkpoint_is_due(options, step, clock.seconds_since_checkpoint())
            if run.is_sharded:  # all save together, and their clocks differ
                is_due = processes.any(is_due)
            if (is_stopped or is_due) and not is_last:
                saved.save(step, trainable, optimizer, asdict(state))
                clock.restart()
            if is_stopped:
                _stop(processes)
    processes.barrier()
    if options.keep == "best":
        assert state.best_step is not None  # the last step is always validated
        saved.load_best(state.best_step, trainable)
    if run.is_sharded:
        sharding.gather(trainable, None if whole is None else trainable_parameters(whole))
    return _result(run, plan, state)


def student_loss(run: TrainingRun) -> StudentLoss:
    """Return the run's whole student with its loss."""
    return StudentLoss(
        run.model,
        run.options,
        run.vocab_size,
        run.teacher_width,
        projection_seed=run.repeat - 1,
        stop_ids=run.stop_ids,
        own_divergence=run.own_divergence,
    )


def on_ranks(run: TrainingRun, whole: StudentLoss | None) -> tuple[StudentLoss, nn.Module]:
    """Return (the student as this rank holds it, the module that is called)."""
    if run.is_sharded:
        student = sharding.shard(whole, run.placement, run.options.shard, run.processes)
    else:
        assert whole is not None  # every rank has loaded it
        student = whole
    if run.options.gradient_checkpointing:
        checkpoint_activations(student.model)
    return student, student if run.is_sharded else run.accelerator.prepare_model(student)


def _checkpoints(run: TrainingRun) -> Checkpoints:
    if run.is_sharded:
        return ShardedCheckpoints(run.checkpoint_folder, run.processes, run.options.shard)
    return WholeCheckpoints(run.checkpoint_folder, run.processes)


def run_step(
    run: TrainingRun,
    module: nn.Module,
    optimizer: Any,
    trainable: dict[str, nn.Parameter],
    rows: Rows,
    step: int,
    rate: float,
) -> dict[str, Any]:
    """Do one optimizer step over `rows`; return its log row, means a loss token over all ranks."""
    processes = run.processes
    # everything random in this step (dropout) follows from here, so that a resumed run repeats it
    torch.manual_seed(int(digest(str(run.seed), str(step), str(processes.rank))[:8], 16))
    num_tokens = run.num_loss_tokens(rows)
    micro_batches = run.micro_batches(rows)
    names = ["soft", "hard"]
    if run.teacher_width is not None:
        names.append("hidden")
    if run.has_own_text:
        names.append("own")
    sums = torch.zeros(1 + len(names), dtype=torch.float64)
    module.train()
    for number, micro_batch in enumerate(micro_batches):
        is_last = number == len(micro_batches) - 1
        with nullcontext() if is_last else _accumulating(run, module):
            loss_sum, parts = forward(run, module, micro_batch)
            # the one reduction: a sum over tokens / tokens of all micro-batches and ranks; DDP
            # averages, hence x ranks
            with (
                activity.waiting()
            ):  # for the gradients of the slowest; on a GPU, where sums are read
                run.accelerator.backward(loss_sum * (processes.num / num_tokens))
                detached = [loss_sum.detach(), *(parts[name] for name in names)]
                sums += torch.stack([value.double().cpu() for value in detached])
    loss, *means = (processes.sum(sums) / num_tokens).tolist()
    total_norm = nn.utils.clip_grad_norm_(trainable.values(), run.options.max_grad_norm)
    norm = float(sharding.whole_tensor(total_norm))
    _require_finite(run, step, loss, norm)
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


def _accumulating(run: TrainingRun, module: nn.Module) -> AbstractContextManager[None]:
    """Return the context of a backward that is not the last of its step."""
    if run.is_sharded:
        return sharding.accumulating(module)
    return run.accelerator.no_sync(module)


def forward(run: TrainingRun, module: nn.Module, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (summed loss, its parts) of one micro-batch, which may have no rows."""
    packed = [[run.examples[i] for i in row] for row in rows]
    batch = collate([[(e.ids, e.answer_start) for e in row] for row in packed], run.pad_id)
    examples = list(chain.from_iterable(packed))
    first_own = None
    if run.has_own_text:
        batch, examples, first_own = _own_text_last(batch, examples)
    keys = [e.signal_key for e in examples if e.signal_key]
    device = next(module.parameters()).device
    # without loss tokens any weights give 0, with zero gradients for other ranks to average with
    soft_weight = run.soft_weight if rows else 0.0
    hard_weight = run.hard_weight if rows else 1.0
    teacher_targets = None
    teacher_states = None
    if soft_weight and keys:
        assert run.store is not None
        records = [run.store.read(key) for key in keys]
        if run.sets_SV is None:
            teacher_targets = targets(records, device)
        else:
            alignments = [e.alignment for e in examples if e.alignment is not None]
            teacher_targets = chunk_targets(records, alignments, run.sets_SV, device)
    if run.teacher_width is not None:
        assert run.store is not None
        stored = [run.store.read_hidden_states(key) for key in keys]
        teacher_states = hidden_targets(stored, run.teacher_width, device)
    told_N = None if run.store is None else _told(examples, device)
    # of a divided student each layer is gathered from all ranks, so that one that is late is waited
    # for here; one that holds it whole computes alone
    with activity.waiting() if run.is_sharded else nullcontext(), run.autocast(device):
        return module(
            batch.to(device),
            teacher_targets,
            soft_weight,
            hard_weight,
            teacher_states,
            first_own,
            told_N=told_N,
        )


def _told(examples: Sequence[Example], device: torch.device) -> Tensor | None:
    """Return which loss tokens have a signal, bool [N]; None where all have.

    Those of a teacher that gives text alone have none.
    """
    if all(e.signal_key for e in examples):
        return None
    return _of_tokens(examples, [bool(e.signal_key) for e in examples]).to(device)


def _of_tokens(examples: Sequence[Example], flags: Sequence[bool]) -> Tensor:
    """Return each example's flag at each of its loss tokens, bool [N]."""
    counts = torch.tensor([e.num_loss_tokens for e in examples], dtype=torch.long)
    return torch.tensor(flags, dtype=torch.bool).repeat_interleave(counts)


def _own_text_last(batch: Batch, examples: list[Example]) -> tuple[Batch, list[Example], int]:
    """Put what the student wrote after the rest; return also the number of its first position."""
    is_own_N = _of_tokens(examples, [e.by_student for e in examples])
    ordered = sorted(examples, key=lambda e: e.by_student)
    return batch.with_last(is_own_N), ordered, int((~is_own_N).sum())


@torch.no_grad()
def validate(run: TrainingRun, module: nn.Module) -> float:
    """Return the mean negative log-likelihood (nats a token) of the validation answers.

    Every rank makes equally many passes, some of padding alone: those of a sharded student meet.
    """
    module.eval()
    student = run.accelerator.unwrap_model(module)
    device = next(module.parameters()).device
    own_examples = run.validation[run.processes.rank :: run.processes.num]
    largest_share = -(-len(run.validation) // run.processes.num)
    size = 8 * run.rows_per_micro_batch
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, largest_share, size):
        examples = own_examples[start : start + size]
        rows = [[(example.ids, example.answer_start)] for example in examples]
        batch = collate(rows, run.pad_id).to(device)
        with activity.waiting() if run.is_sharded else nullcontext(), run.autocast(device):
            loss_sum, _ = student(batch, None, 0.0, 1.0)
            sums += torch.tensor([float(loss_sum), len(batch.labels_N)], dtype=torch.float64)
    total, num_tokens = run.processes.sum(sums).tolist()
    return total / num_tokens


@dataclass
class _State:
    """What a checkpoint holds beside the tensors, in this order."""

    best_step: int | None = None
    best_loss: float | None = None
    last_loss: float | None = None
    seconds: float = 0.0
    num_loss_tokens: int = 0
    by_sequence: bool = False  # of an older version: it had a mask


class _Clock:
    """The time since the last lap and since the last checkpoint, in seconds.

    A lap does not hold the time that a checkpoint took.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a lap, after a checkpoint."""
        self._checkpoint = time.monotonic()
        self._lap = self._checkpoint

    def lap(self) -> float:
        """Return the seconds of the lap that ends now; begin the next one."""
        now = time.monotonic()
        seconds = now - self._lap
        self._lap = now
        return seconds

    def seconds_since_checkpoint(self) -> float:
        return time.monotonic() - self._checkpoint


def _resume(
    run: TrainingRun,
    saved: Checkpoints,
    trainable: dict[str, nn.Parameter],
    optimizer: Any,
) -> tuple[int, _State]:
    """Load the newest checkpoint; return its (step, state), or the start's if there is none.

    It goes on attending as it began, so that it ends bit for bit as unbroken, if that can be here.
    """
    newest = saved.load_newest(trainable, optimizer, with_best=run.options.keep == "best")
    if newest is None:
        return 0, _State(by_sequence=run.by_sequence)
    state = _State(**newest.state)
    if run.processes.is_main:
        for note in newest.notes:
            print(f"  train: {note}")
        print(f"  train: {run.title} continues at step {newest.step}")
        if state.by_sequence != run.by_sequence:
            print(f"  train: {run.title}: {_other_attention(state.by_sequence)}")
    state.by_sequence &= run.by_sequence
    return newest.step, state


def _other_attention(began_by_sequence: bool) -> str:
    """Return what is to be said where a training began to attend otherwise than it would now."""
    if began_by_sequence:
        return "packed rows have a mask from here on, they had none: it does not go on bit for bit"
    return "it began with a mask for packed rows, and goes on with it"


def _progress(run: TrainingRun, plan: Plan, step: int) -> Progress:
    return Progress(
        f"train {run.title} ({run.placement})",
        sum(map(run.num_tokens, plan)),
        "tokens",
        done=sum(map(run.num_tokens, plan[:step])),
        shown=run.processes.is_main,
    )


def _require_finite(run: TrainingRun, step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise TrainingError(
        f"{run.title}, step {step + 1}: loss {loss}, gradient norm {norm}: not finite; "
        "the last checkpoint is kept. "
        f"Lower {run.stage}.learning_rate (the peak was {run.options.learning_rate:g}) and use "
        f"--redo {run.stage}"
    )


def _keep_if_best(
    run: TrainingRun,
    saved: Checkpoints,
    state: _State,
    step: int,
    validation_loss: float,
    trainable: dict[str, nn.Parameter],
) -> None:
    """Note the validation loss of `step`; save its weights if they are the best and to be kept."""
    state.last_loss = validation_loss
    is_best = state.best_loss is None or validation_loss < state.best_loss
    if not is_best:
        return
    state.best_step = step
    state.best_loss = validation_loss
    if run.options.keep == "best":
        saved.save_best(step, trainable)


def _checkpoint_is_due(options: Train, step: int, seconds: float) -> bool:
    """Return whether `seconds` since the last checkpoint, or the steps, are as many as wished."""
    if seconds > options.checkpoint_minutes * 60:
        return True
    return bool(options.checkpoint_every and step % options.checkpoint_every == 0)


def _stop(processes: Processes) -> None:
    """Raise Stopped on every rank, whichever got the signal."""
    processes.barrier()
    shutdown.check()
    raise Stopped("stopped by a signal to another process; run the same command to continue")


def _result(run: TrainingRun, plan: Plan, state: _State) -> dict[str, Any]:
    num_tokens = sum(map(run.num_tokens, plan))
    keeps_best = run.options.keep == "best"
    return {
        "num_steps": len(plan),
        "num_tokens": num_tokens,
        "num_loss_tokens": state.num_loss_tokens,
        "seconds": round(state.seconds, 1),
        "tokens_per_second": round(num_tokens / max(state.seconds, 1e-9)),
        "kept_step": state.best_step if keeps_best else len(plan),
        "validation_loss": state.best_loss if keeps_best else state.last_loss,
    }
