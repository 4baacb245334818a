"""train: the student learns from the stored signal, the control by cross-entropy alone.

    train/student/   train/control/     model folders like any other, with training.json
    train/*.metrics.jsonl               a row a step
    train/checkpoints/                  while it works; removed when all are done
    train/repeat-2/, repeat-3/, ...     the same of every repeat after the first (train.repeats)

Both learn the same tokens; the teacher is not in memory. Repeats differ in what is random in
training: the start of `method: random` and of LoRA, and the order of the samples. What is quantized
and used is the first, whichever is the best: a choice would publish luck. This file is also what
`accelerate launch distill/train.py RECIPE` starts: it then runs the whole pipeline.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script inside the package: Python put distill/ first on sys.path, where `import evaluate`
    # elsewhere would find ours, and `import distill` would fail. Put the checkout first instead, and
    # start from a module of its own name.
    package = Path(__file__).resolve().parent
    sys.path[:] = [
        str(package.parent),
        *(p for p in sys.path if Path(p or ".").resolve() != package),
    ]
    from distill.__main__ import main

    sys.exit(main(["run", *sys.argv[1:]]))

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill import chat
from distill.core.files import files_under
from distill.core.processes import Processes
from distill.core.repeats import repeat_folder, repeat_seed
from distill.core.results import (
    CaptureResult,
    GenerateResult,
    TrainedModel,
    TrainResult,
    TrimResult,
)
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage, by_seed
from distill.data.stored_samples import Samples, read_samples, split_samples
from distill.errors import DataError, MismatchError
from distill.models import find, load
from distill.models.memory import free_memory
from distill.models.precision import Placed
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.training import checkpoint_bytes, training_bytes, training_seconds
from distill.recipe import Recipe
from distill.recipe.sections import Train
from distill.shaping.trimmed import kept_path, samples_stage
from distill.signals.alignment import ALIGNMENT_FILE
from distill.training.placing import check_ranks, training_placed

if TYPE_CHECKING:
    from distill.signals.store import SignalStore
    from distill.signals.stores import SignalsOfSeveral
    from distill.training.run import Example

ROLES = ("student", "control")


@dataclass(frozen=True)
class _Lesson:
    """What every model of the stage learns from, in all repeats."""

    recipe: Recipe
    folder: RunFolder
    processes: Processes
    learn: Samples
    validation: Samples
    placed: Placed

    def place(self, repeat: int) -> Path:
        """Return the folder of a repeat, from 1."""
        return repeat_folder(self.folder.stage("train"), repeat)


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    stage = folder.stage("train")
    samples = read_samples(kept_path(recipe, folder))
    tokenizer = load.load_tokenizer(str(folder.stage("initialize") / "student"))
    _require_own_tokens(recipe, folder, tokenizer)
    fitting = samples.fitting(recipe.train.max_length)
    learn, validation = split_samples(fitting, recipe.train.validation_share)
    if not learn:
        raise DataError(
            f"{stage}: {len(samples)} samples, none left to learn from: {_why_none(samples, fitting, recipe)}"
        )
    where = training_placed(recipe, folder)
    if where.told is not None and processes.is_main:
        print(f"  train: {where.told}", flush=True)
    lesson = _Lesson(recipe, folder, processes, learn, validation, where)
    repeats = range(1, recipe.train.repeats + 1)
    first, *others = [_train_repeat(lesson, repeat) for repeat in repeats]
    if not processes.is_main:
        return None
    files = []
    for repeat in repeats:
        place = lesson.place(repeat)
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        for role in first:
            files += [*files_under(place / role), place / f"{role}.metrics.jsonl"]
    result = TrainResult(
        roles=first,
        num_samples=len(learn),
        num_validation=len(validation),
        num_too_long=len(samples) - len(fitting),
        repeats=others,
        precision=where.told,
    )
    return StageOutput(result, files)


def _train_repeat(lesson: _Lesson, repeat: int) -> dict[str, TrainedModel]:
    """Train what of a repeat is not there yet; return how each of its models was trained."""
    from distill.training.written import require_as_trained, result_of

    options, processes, place = lesson.recipe.train, lesson.processes, lesson.place(repeat)
    results = {}
    for role in ROLES[: options.num_roles]:
        if not (place / role / "training.json").is_file():
            _train_role(lesson, role, repeat)
            free_memory()
        elif processes.is_main:
            require_as_trained(place, role)
        if options.repeats > 1 and processes.is_main:
            # those of all repeats together could fill the disk
            shutil.rmtree(place / "checkpoints" / role, ignore_errors=True)
        processes.barrier()
        results[role] = result_of(place / role)
    return results


def _train_role(lesson: _Lesson, role: str, repeat: int) -> None:
    """Train the student or the control from the initialized student, and write its folder."""
    from distill.teachers.byte_chunks import token_sets
    from distill.training.prepare import rows_of
    from distill.training.run import TrainingRun, chunk_examples, examples_of
    from distill.training.written import train_and_write

    recipe, folder, processes = lesson.recipe, lesson.folder, lesson.processes
    options, place = recipe.train, lesson.place(repeat)
    seed = repeat_seed(recipe.seed, repeat)
    placement = lesson.placed.placement
    tokenizer = load.load_tokenizer(str(folder.stage("initialize") / "student"))
    model = _start(lesson, placement.device, repeat, seed)
    packing, by_sequence = rows_of(model, options, placement, processes)
    soft, hard, hidden = _loss_weights(options, role)
    store = sets_SV = None
    if soft and recipe.capture.signal == "chunks":
        learn = chunk_examples(folder.stage("capture") / ALIGNMENT_FILE, lesson.learn)
        sets_SV = token_sets(tokenizer)
        store = _open_signal(folder, None, learn, lesson.learn)
    elif soft or hidden:
        learn = examples_of(lesson.learn, with_signal=True, text_of=_text_teachers(folder))
        store = _open_signal(folder, tokenizer, learn, lesson.learn)
    else:
        learn = examples_of(lesson.learn, with_signal=False)
    train_and_write(
        TrainingRun(
            role=role,
            model=model,
            options=options,
            soft_weight=soft,
            hard_weight=hard,
            examples=learn,
            validation=examples_of(lesson.validation, with_signal=False),
            store=store,
            vocab_size=len(tokenizer),
            pad_id=tokenizer.pad_token_id,
            seed=seed,
            placement=placement,
            folder=place,
            processes=processes,
            accelerator=_accelerator(recipe, folder, role, repeat),
            packing=packing,
            by_sequence=by_sequence,
            teacher_width=store.hidden_size if store and hidden else None,
            repeat=repeat,
            sets_SV=sets_SV,
            stop_ids=_stop_ids(options, folder, tokenizer),
        ),
        tokenizer,
    )


def _why_none(samples: Samples, fitting: Samples, recipe: Recipe) -> str:
    """Return why no sample can be learnt, and the way out."""
    options = recipe.train
    if len(fitting):
        return (
            f"{len(fitting)} fit into train.max_length {options.max_length}, and all of them are validated on: "
            f"generate more, or lower train.validation_share {options.validation_share:g}"
        )
    lengths = zip(samples.prompt_lengths, samples.answer_lengths, strict=True)
    shortest = min((prompt + answer for prompt, answer in lengths), default=0)
    return (
        f"the shortest has {shortest:,} tokens, prompt and answer together, and train.max_length is "
        f"{options.max_length}: raise that"
    )


def _start(lesson: _Lesson, device: str, repeat: int, seed: int) -> Any:
    """Return the model that a repeat begins with: the initialized student (see `load_start`).

    Where that is random, repeats after the first begin with other random weights of its shape.
    """
    from distill.training.prepare import draw_weights_anew, load_start

    folder = str(lesson.folder.stage("initialize") / "student")
    model = load_start(folder, device, lesson.recipe.train, lesson.processes)
    if model is not None and repeat > 1 and lesson.recipe.student.method == "random":
        draw_weights_anew(model, seed)
    return model


def _stop_ids(options: Train, folder: RunFolder, tokenizer: Any) -> list[int]:
    """Return the ids of the tokens that count as one: those at which the student stops, or none."""
    if options.stop_tokens == "apart":
        return []
    student = str(folder.stage("initialize") / "student")
    return chat.stop_ids(tokenizer, find.stop_ids_of_files(student))


def _text_teachers(folder: RunFolder) -> set[str]:
    """Return the names of those of several teachers whose text alone is learnt."""
    captured = folder.require("capture", CaptureResult).result
    return {teacher.name for teacher in captured.teachers if teacher.folder is None}


def _loss_weights(options: Train, role: str) -> tuple[float, float, float]:
    """Return the weights of the soft, the hard and the hidden-state loss; the control has the hard."""
    if role == "control":
        return 0.0, 1.0, 0.0
    return options.soft_weight, options.hard_weight, options.hidden_weight


def _accelerator(recipe: Recipe, folder: RunFolder, role: str, repeat: int) -> Any:
    from distill.training.written import accelerator_without_defaults

    if recipe.train.tracker == "none":
        return accelerator_without_defaults()
    accelerator = accelerator_without_defaults(recipe.train.tracker, folder.stage("train"))
    project, options = _tracker_names(recipe, role, repeat)
    accelerator.init_trackers(project, init_kwargs=options)
    return accelerator


def _tracker_names(recipe: Recipe, role: str, repeat: int) -> tuple[str, dict[str, Any]]:
    """Return (project, the tracker's options by its name): the recipe's, and a run a repeat."""
    tracker = recipe.train.tracker
    if recipe.train.repeats == 1:
        return recipe.name, {}
    name = f"{role}-{repeat}"
    if tracker == "tensorboard":  # knows no projects: this is the name of the run
        return f"{recipe.name}-{name}", {}
    return recipe.name, {tracker: {"name": name}}


def _require_own_tokens(recipe: Recipe, folder: RunFolder, tokenizer: Any) -> None:
    """Raise MismatchError where the samples are in another tokenizer or template than the student's:
    the recipe has changed between the two."""
    stage = samples_stage(recipe)
    made: GenerateResult | TrimResult
    if stage == "trim":
        made = folder.require(stage, TrimResult).result
    else:
        made = folder.require(stage, GenerateResult).result
    if made.format == chat.fingerprint_of_format(tokenizer):
        return
    raise MismatchError(
        f"{kept_path(recipe, folder)}: in another tokenizer or chat template "
        f"({made.vocab_size} tokens) than the student's ({len(tokenizer)}); "
        "run `distill run RECIPE --redo generate`, which asks the teacher nothing again"
    )


def _open_signal(
    folder: RunFolder, tokenizer: Any | None, learn: Sequence["Example"], samples: Samples
) -> "SignalStore | SignalsOfSeveral":
    """Return the signal of what is learnt, an example of each sample; of several teachers each
    one's of its own.

    `tokenizer`: whose ids it must be about; None: the teacher's own.
    """
    from distill.signals.stores import SignalsOfSeveral

    fingerprint = None if tokenizer is None else chat.fingerprint_of_tokenizer(tokenizer)
    captured = folder.require("capture", CaptureResult).result
    if captured.teachers:
        stores = {
            teacher.name: _open_store(folder, fingerprint, teacher.folder)
            for teacher in captured.teachers
            if teacher.folder is not None and teacher.num_sequences
        }
        names = {
            example.signal_key: sample.teacher
            for example, sample in zip(learn, samples, strict=True)
            if sample.teacher in stores
        }
        return SignalsOfSeveral(stores, names)
    assert captured.folder is not None  # the recipe's own check: there is a signal
    store = _open_store(folder, fingerprint, captured.folder)
    if missing := store.missing(example.signal_key for example in learn):
        raise DataError(
            f"{store.folder}: no signal for {len(missing)} of {len(learn)} samples; "
            "run `distill run RECIPE --redo capture`"
        )
    return store


def _open_store(folder: RunFolder, fingerprint: str | None, name: str) -> "SignalStore":
    """Return the store in the folder `name`. Raises MismatchError where it is in other tokens.

    `fingerprint`: of the tokenizer whose ids it must be about; None: whichever.
    """
    from distill.signals.store import SignalStore

    store = SignalStore(folder.stage("capture") / "signals" / name)
    stored = store.header.fingerprints["tokenizer"]
    if fingerprint is not None and fingerprint != stored:
        raise MismatchError(
            f"{store.folder}: captured with another tokenizer ({stored[:12]}) than the "
            f"student's ({fingerprint[:12]}); run `distill run RECIPE --redo capture`"
        )
    return store


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the training."""
    return {"train": recipe.train.identity()}


def cost(work: Workload) -> Cost:
    """Reckon the training of every role, its checkpoints among what lies on disk."""
    options, parameters = work.recipe.train, work.student.parameters
    tokens = work.sample_tokens * options.epochs
    if options.max_steps:
        tokens = min(tokens, options.max_steps * options.batch_tokens)
    num_models = options.num_roles * options.repeats
    return Cost(
        PROCESS_BYTES + training_bytes(work),
        training_seconds(work, num_models * tokens),
        disk=num_models * 4 * parameters + checkpoint_bytes(work),
    )


STAGE = Stage(
    "train",
    "distil the student, and train the control",
    run,
    TrainResult,
    section,
    seed=by_seed,
    reads=lambda recipe: (samples_stage(recipe), "capture", "initialize"),
    cost=cost,
    check_launch=check_ranks,
    shared=True,
)
