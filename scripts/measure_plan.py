#!/usr/bin/env python3
"""The plan's memory and time beside what models of the recipe's shapes take on this GPU.

    python scripts/measure_plan.py                          # recipes/qwen_to_1b.yaml in its three sizes, about 4 minutes
    python scripts/measure_plan.py --sizes "24 GB"          # as the recipe stands
    python scripts/measure_plan.py --write BENCHMARKS.md    # replaces its own section there

Teacher and student have the shapes of the recipe's models and random weights, on which neither memory nor speed depends.
They go through the stages' own code: load_model, the slots that decode, capture's records, run_step of the training loop.

generate: as many slots as the recipe's batch_tokens allow for prompts of 96 tokens; 200 decoding steps, of which the last
150 are timed, so the cache is read to position 300: longer answers are slower. capture: one whole batch. train: two timed
steps after one. Memory is the highest that torch had reserved, and 0.5 GB for CUDA itself, which it does not see.
"""

import argparse
import gc
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from accelerate import Accelerator
from benchmark_sections import machine, replace_section, table
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill.catalog import catalog
from distill.core.processes import Processes
from distill.models import load
from distill.models.decode import Drawer
from distill.models.head import head_of
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, answer_hidden_states
from distill.models.slots import Rolling
from distill.pipeline import PLANNED
from distill.plan import stage_costs
from distill.planning.costs import Workload
from distill.planning.machine import GB, Machine, this_machine
from distill.recipe import Recipe, load_recipe
from distill.signals import draws
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of
from distill.training.loop import run_step
from distill.training.optimizer import build_optimizer
from distill.training.packed_attention import attention_of, use
from distill.training.prepare import add_lora, checkpoint_activations
from distill.training.run import Example, TrainingRun
from distill.training.student import StudentLoss, trainable_parameters

HEADING = "## The plan on a GPU"
RECIPE = ROOT / "recipes" / "qwen_to_1b.yaml"
SIZES = {  # the recipe as it stands, and two changes of it that were measured
    "24 GB": [],
    "12 GB": [
        "teacher.quantization=nf4",
        "teacher.batch_tokens=8192",
        "train.optimizer=paged_adamw_8bit",
        "train.micro_batch_tokens=2048",
        "train.lora_rank=64",
    ],
    "80 GB": [
        "teacher.batch_tokens=131072",
        "train.micro_batch_tokens=16384",
        "train.gradient_checkpointing=false",
    ],
}
PROMPT, ANSWER = 96, 300  # tokens
STEPS, WARM = 200, 50
CUDA_ITSELF = 0.5 * GB
INTERMEDIATE = {
    "Qwen/Qwen3-8B": 12_288,
    "Qwen/Qwen3-1.7B": 6_144,
    "Qwen/Qwen3-4B": 9_728,
}  # the catalogue has the rest
NUM_IDS = 151_669  # of Qwen3's tokenizer; a trimmed student has fewer
Measured = tuple[float, float]  # bytes, tokens a second


def random_model(model: str, share: float = 1.0, num_ids: int | None = None) -> Any:
    """A Qwen3 of the shape of that model in bfloat16, `share` of its layers, `num_ids` rows in its table."""
    known = catalog.find(model)
    assert known is not None and known.shape is not None and known.width is not None
    layers, hidden, heads, kv_heads, head_dim = (number or 0 for number in known.shape)
    config = Qwen3Config(
        vocab_size=num_ids or known.width,
        hidden_size=hidden,
        intermediate_size=INTERMEDIATE[model],
        num_hidden_layers=round(layers * share),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings="8B" not in model,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def measured(work: Callable[[], float]) -> Measured:
    """(highest memory, what `work` says): tokens a second."""
    gc.collect()  # models hold themselves in cycles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    speed = work()
    return torch.cuda.max_memory_reserved() + CUDA_ITSELF, speed


def clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def generate(recipe: Recipe, model: Any) -> float:
    """Answer tokens a second with every slot taken."""
    options = recipe.generate
    longest = PROMPT + options.max_new_tokens
    num_slots = recipe.teacher.batch_tokens // longest
    dice = random.Random(1)
    prompts = [[dice.randrange(2, NUM_IDS) for _ in range(PROMPT)] for _ in range(num_slots)]
    drawer = Drawer(range(num_slots), Sampling.of(options), NUM_IDS)
    times: list[float] = []

    class Enough(Exception):
        pass

    def draw(logits_NV: Any, places: Any) -> list[int]:
        found = drawer(logits_NV, places)
        times.append(clock())
        if len(times) > STEPS:
            raise Enough
        return [max(2, i) for i in found]  # none of these ends an answer

    with torch.inference_mode():
        rolling = Rolling(
            model,
            prompts,
            num_slots=num_slots,
            max_new_tokens=options.max_new_tokens,
            stop_ids=[1],
            pad_id=0,
            known_lengths={},
        )
        with suppress(Enough):
            rolling.run(draw, lambda *_: None)
    return num_slots * (STEPS - WARM) / (times[-1] - times[WARM])


def capture(recipe: Recipe, model: Any, folder: Path) -> float:
    """Tokens a second, prompts counted, of one batch."""
    num = recipe.teacher.batch_tokens // (PROMPT + ANSWER)
    dice = random.Random(2)
    sequences = [
        TokenSequence([dice.randrange(2, NUM_IDS) for _ in range(PROMPT + ANSWER)], PROMPT)
        for _ in range(num)
    ]
    keys = [sequence_key(s.ids, s.answer_start) for s in sequences]
    header, head = (
        SignalHeader("sampled", NUM_IDS, num_draws=recipe.capture.num_draws),
        head_of(model),
    )
    took = []
    for number in range(2):
        started = clock()
        with SignalWriter(folder / f"capture{number}", header) as writer:
            hidden = answer_hidden_states(model, sequences, 0)
            for key, record in zip(
                keys,
                records_of(header, head, hidden, [s.ids[PROMPT:] for s in sequences], keys),
                strict=True,
            ):
                writer.add(key, record)
        took.append(clock() - started)
    return num * (PROMPT + ANSWER) / took[-1]


def signal(folder: Path, items: list[Example], num_ids: int) -> SignalStore:
    """What a teacher of 1.8 nats or so said about random answers, in a vocabulary of `num_ids`."""
    header = SignalHeader("sampled", num_ids, num_draws=50)
    generator = torch.Generator("cuda").manual_seed(3)
    with SignalWriter(folder, header) as writer:
        for item in items:
            labels_N = torch.tensor(item.ids[item.answer_start :])
            shape = len(labels_N), num_ids
            logits_NV = torch.randn(shape, generator=generator, device="cuda") * 4.5
            rows = draws.Rows.of(draws.seed_of(item.signal_key), len(labels_N))
            writer.add(
                item.signal_key,
                draws.draw(logits_NV, labels_N, rows, num_draws=50, columns=Columns(num_ids)),
            )
    return SignalStore(folder, header)


def train(recipe: Recipe, student: Any, folder: Path) -> float:
    """Tokens a second of the student's optimizer steps."""
    options = recipe.train
    model = student.float()
    num_ids = min(NUM_IDS, model.config.vocab_size)
    where = load.Placement("cuda", "bfloat16")
    if attention_of(model, options, where).by_sequence:
        use(model)
    if options.lora_rank:
        add_lora(recipe.train, model)
    if options.gradient_checkpointing:
        checkpoint_activations(model)
    dice = random.Random(4)
    size = PROMPT + ANSWER
    lists = [
        [dice.randrange(2, num_ids) for _ in range(size)]
        for _ in range(3 * options.batch_tokens // size + 1)
    ]
    items = [Example(ids, PROMPT, sequence_key(ids, PROMPT)) for ids in lists]
    accelerator = Accelerator(mixed_precision="no", device_placement=False)
    training_run = TrainingRun(
        role="student",
        model=model,
        options=options,
        soft_weight=options.soft_weight,
        hard_weight=options.hard_weight,
        examples=items,
        validation=[],
        store=signal(folder / "train", items, num_ids),
        vocab_size=num_ids,
        pad_id=0,
        seed=1,
        placement=where,
        folder=folder,
        processes=Processes(),
        accelerator=accelerator,
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    module = StudentLoss(model, options, num_ids)
    trainable = trainable_parameters(module)
    optimizer = build_optimizer(trainable, options)
    speeds = []
    for step, rows in enumerate(training_run.steps()[:3]):
        started = clock()
        run_step(training_run, module, optimizer, trainable, rows, step, 1e-6)
        speeds.append(sum(len(items[i].ids) for row in rows for i in row) / (clock() - started))
    return statistics.mean(speeds[1:])


def asked(recipe: Recipe, teacher: Any, folder: Path) -> dict[str, Measured]:
    return {
        "generate": measured(lambda: generate(recipe, teacher)),
        "capture": measured(lambda: capture(recipe, teacher, folder)),
    }


def of_size(recipe: Recipe, here: Machine, folder: Path, teacher_folder: Path) -> list[list[str]]:
    """A row a stage: planned and measured."""
    where = load.placement("cuda", "bfloat16", recipe.teacher.quantization)
    found = asked(recipe, load.load_model(str(teacher_folder), where), folder)
    options = recipe.student
    num_ids = options.vocabulary.size if options.vocabulary else None
    student = random_model(options.model or "", options.layer_share, num_ids)
    found["train"] = measured(lambda: train(recipe, student, folder))
    work = Workload.of(recipe, here, vocabulary=num_ids)
    work = replace(work, demand=replace(work.demand, prompt=PROMPT, answer=ANSWER))
    costs = stage_costs(work, PLANNED)
    answers, samples = work.demand.num_answers * ANSWER, work.sample_tokens
    num_tokens = {
        "generate": answers,
        "capture": samples,
        "train": (recipe.train.num_roles * recipe.train.repeats * samples * recipe.train.epochs),
    }
    return [
        [
            stage,
            f"{costs[stage].memory / GB:.1f}",
            f"{memory / GB:.1f}",
            f"{costs[stage].seconds / 60:,.0f}",
            f"{num_tokens[stage] / speed / 60:,.0f}",
            f"{speed:,.0f}",
        ]
        for stage, (memory, speed) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--folder",
        type=Path,
        help="for the teacher's 16 GB, e.g. /dev/shm (default: a temporary folder)",
    )
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the table into this file, too"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    here = this_machine(ROOT)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        teacher_folder = Path(name) / "teacher"
        random_model("Qwen/Qwen3-8B").save_pretrained(teacher_folder)
        for size in options.sizes:
            folder = Path(name) / "work"
            rows += [
                [f"{size}: {row[0]}", *row[1:]]
                for row in of_size(load_recipe(RECIPE, SIZES[size]), here, folder, teacher_folder)
            ]
            print(*rows[-3:], sep="\n", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    head = [
        "",
        "memory planned, GB",
        "taken, GB",
        "time planned, minutes",
        "at the speed measured",
        "tokens/s",
    ]
    text = f"""{HEADING}

`scripts/measure_plan.py`: recipes/qwen_to_1b.yaml as it stands (24 GB) and as its comments change it, random weights of the same
shapes, prompts of {PROMPT} and answers of {ANSWER} tokens; what is measured stands at the top of the script. {machine()}.

{table(head, rows)}
"""
    print(text)
    if options.write:
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
