"""train: the student learns from the stored signal; the control learns the same tokens by cross-entropy alone.

    train/student/   train/control/     model folders like any other, with training.json
    train/*.metrics.jsonl               a row a step
    train/checkpoints/                  while it works; removed when both are done

The teacher is not in memory here. This file is also what `accelerate launch distill/train.py RECIPE` starts: it then
runs the whole pipeline.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script inside the package: Python put distill/ first on sys.path, where `import evaluate` elsewhere would find
    # ours, and `import distill` would fail. Put the checkout first instead, and start from a module of its own name.
    package = Path(__file__).resolve().parent
    sys.path[:] = [
        str(package.parent),
        *(p for p in sys.path if Path(p or ".").resolve() != package),
    ]
    from distill.__main__ import main

    sys.exit(main(["run", *sys.argv[1:]]))

import json
import shutil
from typing import Any

from distill import chat
from distill.core.files import FolderWriter, files_under
from distill.core.processes import Processes
from distill.core.results import CaptureResult, GenerateResult, TrainedModel, TrainResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Sample, read_samples, split_samples
from distill.errors import DataError, MismatchError
from distill.models import load
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.signals.store import SignalStore, sequence_key

LORA_TARGETS = "all-linear"
ROLES = ("student", "control")
OVERHEAD, GPU_OVERHEAD = 1.3, 2.0  # beyond the products' arithmetic


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    stage = folder.stage("train")
    samples = read_samples(folder.stage("generate") / "kept.jsonl")
    _require_own_tokens(folder, load.load_tokenizer(str(folder.stage("initialize") / "student")))
    fitting = [s for s in samples if len(s.ids) <= recipe.train.max_length]
    learn, validation = split_samples(fitting, recipe.train.validation_share)
    if not learn:
        raise DataError(
            f"{stage}: {len(samples)} samples, none left to learn from; generate more, or raise train.max_length"
        )
    results = {}
    roles = ROLES[: recipe.train.num_roles]
    for role in roles:
        done = stage / role / "training.json"
        if not done.is_file():
            _train_role(recipe, folder, processes, role, learn, validation)
        processes.barrier()
        results[role] = TrainedModel(**json.loads(done.read_text()))
    if not processes.is_main:
        return None
    shutil.rmtree(stage / "checkpoints", ignore_errors=True)
    result = TrainResult(
        roles=results,
        num_samples=len(learn),
        num_validation=len(validation),
        num_too_long=len(samples) - len(fitting),
    )
    files = [
        p for role in roles for p in [*files_under(stage / role), stage / f"{role}.metrics.jsonl"]
    ]
    return StageOutput(result, files)


def _train_role(
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes,
    role: str,
    learn: list[Sample],
    validation: list[Sample],
) -> None:
    import torch
    from accelerate import Accelerator

    from distill.training.loop import train
    from distill.training.run import Example, TrainingRun

    stage = folder.stage("train")
    where = load.placement(recipe.train.device, recipe.train.precision)
    start = folder.stage("initialize") / "student"
    tokenizer = load.load_tokenizer(str(start))
    model = load.load_model(
        str(start), load.Placement(where.device, "float32"), local_rank=processes.local_rank
    )
    options = recipe.train
    weights = options.soft_weight, options.hard_weight, options.hidden_weight
    soft, hard, hidden = weights if role == "student" else (0.0, 1.0, 0.0)
    store = (
        _open_signal(folder, tokenizer, [_signal_key(s) for s in learn]) if soft or hidden else None
    )
    tracker = None if recipe.train.tracker == "none" else recipe.train.tracker
    # precision, accumulation and clipping are ours (see loop.run_step): nothing of the launcher's defaults is taken
    # nor is the model moved: a recipe that says cpu is trained there, on a machine with a GPU too
    accelerator = Accelerator(
        mixed_precision="no",
        gradient_accumulation_steps=1,
        log_with=tracker,
        project_dir=stage if tracker else None,
        device_placement=False,
    )
    if tracker:
        accelerator.init_trackers(recipe.name)
    torch.manual_seed(recipe.seed)
    adapter = _add_lora(recipe, model) if recipe.train.lora_rank else None
    if recipe.train.gradient_checkpointing:
        checkpoint_activations(model)
    training_run = TrainingRun(
        role=role,
        model=model,
        options=recipe.train,
        soft_weight=soft,
        hard_weight=hard,
        examples=[Example(s.ids, len(s.prompt_ids), _signal_key(s)) for s in learn],
        validation=[Example(s.ids, len(s.prompt_ids), "") for s in validation],
        store=store,
        vocab_size=len(tokenizer),
        pad_id=tokenizer.pad_token_id,
        seed=recipe.seed,
        placement=where,
        folder=stage,
        processes=processes,
        accelerator=accelerator,
        packing=_packing_isolates(model),
        teacher_width=store.hidden_size if store and hidden else None,
    )
    result = train(training_run)
    if tracker:
        accelerator.end_training()
    if processes.is_main:
        if adapter is not None:
            model = adapter.merge_and_unload()
        if where.dtype == "bfloat16":
            model = model.to(torch.bfloat16)
        with FolderWriter(stage / role) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            (temporary / "training.json").write_text(json.dumps(result, indent=1))
    processes.barrier()


def _signal_key(sample: Sample) -> str:
    return sequence_key(sample.ids, len(sample.prompt_ids))


def _require_own_tokens(folder: RunFolder, tokenizer: Any) -> None:
    """Raise MismatchError where generate's samples are in another tokenizer or template than the
    student's: the recipe has changed between the two."""
    generated = folder.require("generate", GenerateResult).result
    if generated.format == chat.fingerprint_of_format(tokenizer):
        return
    raise MismatchError(
        f"{folder.stage('generate') / 'kept.jsonl'}: in another tokenizer or chat template "
        f"({generated.vocab_size} tokens) than the student's ({len(tokenizer)}); "
        "run with --redo generate, which asks the teacher nothing again"
    )


def _open_signal(folder: RunFolder, tokenizer: Any, keys: list[str]) -> SignalStore:
    captured = folder.require("capture", CaptureResult).result
    assert captured.folder is not None  # the recipe's own check: there is a signal
    store = SignalStore(folder.stage("capture") / "signals" / captured.folder)
    stored_fingerprint = store.header.fingerprints["tokenizer"]
    fingerprint = chat.fingerprint_of_tokenizer(tokenizer)
    if stored_fingerprint != fingerprint:
        raise MismatchError(
            f"{store.folder}: captured with another tokenizer ({stored_fingerprint[:12]}) than the "
            f"student's ({fingerprint[:12]}); run with --redo capture"
        )
    if missing := store.missing(keys):
        raise DataError(
            f"{store.folder}: no signal for {len(missing)} of {len(keys)} samples; run with --redo capture"
        )
    return store


def _add_lora(recipe: Recipe, model: Any) -> Any:
    """Put adapters into `model` in place; everything else is frozen. Returns the PeftModel that can merge them."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.train.lora_rank,
        lora_alpha=recipe.train.lora_alpha,
        target_modules=LORA_TARGETS,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def checkpoint_activations(model: Any) -> None:
    """Activations are computed again in the backward pass; transformers 5.23 has another name for it."""
    enable = (
        getattr(model, "activation_checkpointing_enable", None)
        or model.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


def _packing_isolates(model: Any) -> bool:
    """Whether position ids that begin anew keep this architecture's attention inside a sample; measured on two.

    Where they do not (recurrent layers), every sample gets a row of its own.
    """
    import torch

    # a recurrent state ignores position ids, and how much it carries over depends on the weights: not left to a tolerance
    if "linear_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        return False
    ids = torch.arange(2, 14, device=model.device) % model.config.get_text_config().vocab_size
    second = ids[6:]
    positions = torch.arange(6, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = model.base_model(
            input_ids=ids[None], position_ids=positions, use_cache=False
        ).last_hidden_state[0, 6:]
        alone = model.base_model(input_ids=second[None], use_cache=False).last_hidden_state[0]
        other = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, 6:]
    model.train(was_training)
    return bool((packed - alone).abs().max() < 1e-3 * (1 + (other - alone).abs().max()))


def fingerprint(recipe: Recipe) -> Fingerprint:
    return Fingerprint({"train": recipe.train.identity()}, seed=recipe.seed)


def cost(work: Workload) -> Cost:
    """Reckon the training of every role, its checkpoints among what lies on disk."""
    options, parameters = work.recipe.train, work.student.parameters
    tokens = work.sample_tokens * options.epochs
    if options.max_steps:
        tokens = min(tokens, options.max_steps * options.batch_tokens)
    overhead = GPU_OVERHEAD if work.machine.gpu else OVERHEAD
    if options.gradient_checkpointing:
        overhead *= 4 / 3  # the forward pass once more
    optimizer_bytes = 8 if options.optimizer == "adamw" else 2
    flops = options.num_roles * tokens * 6 * parameters
    return Cost(
        PROCESS_BYTES + _memory(work, optimizer_bytes),
        flops / work.machine.flops * overhead,
        disk=options.num_roles * 4 * parameters + 3 * parameters * (4 + optimizer_bytes),
    )


def _memory(work: Workload, optimizer_bytes: int) -> float:
    """Return the bytes of weights, gradients and the optimizer's state in float32; on a GPU of a copy
    in 16 bits; of the gradients of head and embedding before they are added up; and of the
    activations of one micro-batch."""
    options, student = work.recipe.train, work.student
    trained_share = 0.02 if options.lora_rank else 1.0
    weights = student.parameters * (4 + trained_share * (4 + optimizer_bytes))
    head = 0 if options.lora_rank else 8 * student.head
    copies = 2 * student.parameters + 400 * 2**20 if work.machine.gpu else 200 * 2**20
    kept_per_number = 70 * student.layers  # bytes of activations for each number of the width
    if options.gradient_checkpointing:
        kept_per_number = 4 * student.layers + 70
    activations = options.micro_batch_tokens * student.hidden * kept_per_number
    return weights + head + copies + activations


STAGE = Stage(
    "train",
    "distil the student, and train the control",
    run,
    TrainResult,
    fingerprint,
    reads=("generate", "capture", "initialize"),
    cost=cost,
    shared=True,
)
