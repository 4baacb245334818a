#!/usr/bin/env python3
"""Rounds of the student's own answers beside the peers' on-policy trainers: accuracy, time, peak memory.

    distill run recipes/quickstart.yaml generate.num_prompts=2000 run_folder=runs/two_thousand
    python scripts/bench_rounds.py runs/two_thousand work --seeds 1,2,3 generate.num_prompts=2000

RUN is a finished run of the quickstart, in which nothing is written; its answers and signals are taken, and the
overrides are those that it had. For each seed a student learns from the teacher's answers for half of the epochs
(--epochs), and each contender goes on from those very weights on as many samples as that took, in a process of its own,
with one thread where OMP_NUM_THREADS says so (peers: scripts/bench_requirements.txt):

    distill         rounds of the student's own answers, two to each prompt; the learning rate falls from round to round
    gkd             TRL's GKDTrainer (experimental), lmbda 0.5: half of the batches the student's answers
    distillation    TRL's DistillationTrainer (stable): all of them the student's answers
    plain           none: the training of the recipe itself over all epochs, in one go

All learn by the recipe's own optimizer, forward KL, the same learning rate and about as many tokens a step; TRL's
decays linearly. Seconds: of all that, libraries and models loaded and the student written among it; of distill the
validation after each round, too, but not what the capture of the teacher's own answers took in RUN. Memory: the highest
resident size of the process. Each is a JSON line of work/rounds.jsonl and is not run again; one that was killed is
begun anew.

Overrides of `rounds` make other rounds, a contender of their own:

    python scripts/bench_rounds.py runs/two_thousand work --contenders distill generate.num_prompts=2000 \
        rounds.answers_per_prompt=1 rounds.num_rounds=4 rounds.epochs=2
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmark_sections import table
from measure_seeds import held_out, mean_and_deviation, measure, train_anew

from distill import rounds
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE
from distill.core.run_folder import RunFolder
from distill.core.subprocesses import peak_memory
from distill.data.stored_samples import read_samples, split_samples
from distill.models.load import Placement, load_model, load_tokenizer
from distill.recipe import Recipe, load_recipe
from distill.training.optimizer import build_optimizer

RECIPE = ROOT / "recipes" / "quickstart.yaml"
TEACHER = RECIPE.parent / "quickstart" / "teacher"
CONTENDERS = ("plain", "distill", "gkd", "distillation")
Line = dict[str, Any]


def recipe_of(
    options: argparse.Namespace, seed: int, epochs: int, *more: str, without_rounds: bool = False
) -> Recipe:
    """Return the recipe of a training of so many epochs by this seed, on the run's answers."""
    own = ["train.control=false", f"seed={seed}", f"train.epochs={epochs}"]
    run_folder = f"run_folder={options.run.resolve()}"
    recipe = load_recipe(RECIPE, [*own, run_folder, *more, *options.overrides])
    return recipe.model_copy(update={"rounds": None}) if without_rounds else recipe


def rows_to_learn(recipe: Recipe, run: RunFolder) -> list[Line]:
    """Return the teacher's answers that training learns from, as conversations."""
    path = run.stage("generate") / "kept.jsonl"
    learn, _ = split_samples(read_samples(path), recipe.train.validation_share)
    keys = {sample.key for sample in learn}
    rows = [row for _, row in read_jsonl(path) if row["key"] in keys]
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["answer"]},
            ],
            "num_tokens": len(row["prompt_ids"]) + len(row["answer_ids"]),
        }
        for row in rows
    ]


def label(contender: str, options: argparse.Namespace) -> str:
    """Return a contender's name: of other rounds than the usual ones with what they have of their own."""
    own = [word for word in options.overrides if word.startswith("rounds.")]
    return " ".join([contender, *own]) if contender == "distill" else contender


def by_rounds(recipe: Recipe, run: RunFolder, place: Path, contender: str) -> Path:
    """Make the rounds from the trained student of `place`; return the kept student's folder."""
    shutil.rmtree(place / contender, ignore_errors=True)
    folder = RunFolder(place / contender)
    folder.stage("rounds").mkdir(parents=True)
    for name in ("generate", "capture"):
        folder.stage(name).symlink_to(run.stage(name).resolve())
    for name in ("initialize", "train"):
        folder.stage(name).symlink_to((place / name).resolve())
    assert rounds.run(recipe, folder, ALONE) is not None
    return folder.stage("rounds") / "student"


def by_trl(contender: str, recipe: Recipe, run: RunFolder, place: Path, rate: float) -> Path:
    """Go on from the trained student of `place` with one of TRL's trainers; return its folder."""
    from datasets import Dataset

    start, out = place / "train" / "student", place / contender
    student = load_model(str(start), Placement("cpu", "float32"))
    teacher = load_model(str(TEACHER), Placement("cpu", "float32"))
    tokenizer = load_tokenizer(str(start))
    rows = rows_to_learn(recipe, run)
    mean_tokens = statistics.mean(row["num_tokens"] for row in rows)
    options = recipe.train.model_copy(update={"learning_rate": rate})
    outer = [student.get_input_embeddings().weight, student.get_output_embeddings().weight]
    optimizer = build_optimizer(dict(student.named_parameters()), options, outer)
    common: dict[str, Any] = {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": round(recipe.train.batch_tokens / mean_tokens),
        "num_train_epochs": recipe.train.epochs,
        "learning_rate": rate,
        "warmup_steps": recipe.train.warmup_share,
        "lr_scheduler_type": "linear",
        "max_grad_norm": recipe.train.max_grad_norm,
        "bf16": False,
        "gradient_checkpointing": False,
        "beta": 0.0,  # forward KL
        "seed": recipe.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 50,
        "use_cpu": True,
    }
    if contender == "gkd":
        from trl.experimental.gkd import (  # pyright: ignore[reportMissingImports]
            GKDConfig,
            GKDTrainer,
        )

        trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=GKDConfig(
                **common,
                lmbda=0.5,
                temperature=1.0,
                max_length=recipe.train.max_length,
                max_new_tokens=recipe.generate.max_new_tokens,
            ),
            train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
            processing_class=tokenizer,
            optimizers=(optimizer, None),
        )
    else:
        from trl import (  # pyright: ignore[reportMissingImports]
            DistillationConfig,
            DistillationTrainer,
        )

        trainer = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            args=DistillationConfig(**common, max_completion_length=recipe.generate.max_new_tokens),
            train_dataset=Dataset.from_list([{"prompt": row["messages"][:1]} for row in rows]),
            processing_class=tokenizer,
            optimizers=(optimizer, None),
        )
    trainer.train()
    student.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def child(options: argparse.Namespace) -> None:
    """Run one contender for one seed; write where its student is and what it took beside it, as JSON."""
    run, place = RunFolder(options.run.resolve()), options.work / f"seed-{int(options.seeds)}"
    recipe = recipe_of_rounds(options, int(options.seeds))
    started = time.monotonic()
    if options.child == "distill":
        student = by_rounds(recipe, run, place, label(options.child, options))
    else:
        student = by_trl(options.child, recipe, run, place, options.rate)
    peak = peak_memory("self")
    line = {
        "seconds": round(time.monotonic() - started, 1),
        # not getrusage's, which would be that of the process that started this one where that was more
        "peak_mib": None if peak is None else peak >> 20,
        "student": str(student),
    }
    (place / f"{label(options.child, options)}.json").write_text(json.dumps(line))


def recipe_of_rounds(options: argparse.Namespace, seed: int) -> Recipe:
    """Return the recipe of the second half: each round learns as many samples as two epochs hold."""
    half = options.epochs // 2
    recipe = recipe_of(options, seed, half)
    num_prompts = len(rows_to_learn(recipe, RunFolder.of(recipe)))
    return recipe_of(
        options,
        seed,
        half,
        f"rounds.num_rounds={half // 2}",
        f"rounds.prompts_per_round={num_prompts}",
        "rounds.answers_per_prompt=2",
        "rounds.mix={current: 1.0, earlier: 0.0, teacher: 0.0}",
        f"rounds.learning_rate={options.rate}",
        "rounds.learning_rate_decay=inverse",
    )


def run_apart(contender: str, seed: int, options: argparse.Namespace) -> None:
    """Run one contender in a process of its own (`child`)."""
    words = [sys.executable, __file__, options.run, options.work, "--child", contender]
    words += ["--seeds", seed, "--rate", options.rate, "--epochs", options.epochs]
    subprocess.run([*map(str, words), *options.overrides], check=True)


def measured(contender: str, seed: int, options: argparse.Namespace) -> Line:
    """Train with one contender where it has not been, and return its figures."""
    run, place = RunFolder(options.run.resolve()), options.work / f"seed-{seed}"
    recipe = recipe_of_rounds(options, seed)
    eval_set = held_out(recipe, run, options.more)
    if contender == "plain":
        whole = recipe_of(options, seed, options.epochs, without_rounds=True)
        work = options.work / f"plain-{seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        model, cost = train_anew(whole, run, work)["student"]
        told: Line = {"seconds": cost["seconds"], "peak_mib": None}
    else:
        run_apart(contender, seed, options)
        told = json.loads((place / f"{label(contender, options)}.json").read_text())
        model = Path(told.pop("student"))
    num_own = len(eval_set.prompts) - options.more
    figures = measure(recipe, eval_set, num_own, model)
    return {"contender": label(contender, options), "seed": seed, **told, **figures}


def start_of(seed: int, options: argparse.Namespace, out: Path) -> None:
    """Train the student that all contenders go on from, and measure it."""
    run, place = RunFolder(options.run.resolve()), options.work / f"seed-{seed}"
    if (place / "train" / "student" / "config.json").is_file():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    recipe = recipe_of(options, seed, options.epochs // 2, without_rounds=True)
    model, cost = train_anew(recipe, run, place)["student"]
    eval_set = held_out(recipe_of_rounds(options, seed), run, options.more)
    figures = measure(recipe, eval_set, len(eval_set.prompts) - options.more, model)
    line = {"contender": "start", "seed": seed, "seconds": cost["seconds"], "peak_mib": None}
    write(out, {**line, **figures})


def write(out: Path, line: Line) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def tell(lines: list[Line]) -> str:
    rows = []
    for name in dict.fromkeys(line["contender"] for line in lines):
        found = [line for line in lines if line["contender"] == name]
        rows.append([name, str(len(found)), *(cell(found, *column) for column in COLUMNS)])
    return table(["", "seeds", *(heading for heading, *_ in COLUMNS)], rows)


COLUMNS = (
    ("exact match %", "exact_match", 100, 1),
    ("of more %", "more", 100, 1),
    ("NLL", "nll", 1, 4),
    ("seconds", "seconds", 1, 0),
    ("peak MiB", "peak_mib", 1, 0),
)


def cell(found: list[Line], _: str, name: str, factor: float, digits: int) -> str:
    values = [factor * line[name] for line in found if line[name] is not None]
    return mean_and_deviation(values, digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="with commas between")
    parser.add_argument(
        "--epochs", type=int, default=24, help="of all training; the second half by the contenders"
    )
    parser.add_argument(
        "--rate", type=float, default=2e-3, help="peak learning rate after the start"
    )
    parser.add_argument(
        "--more", type=int, default=600, help="held-out problems beside the recipe's"
    )
    parser.add_argument("--child", choices=CONTENDERS[1:], help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.child:
        return child(options)
    options.work.mkdir(parents=True, exist_ok=True)
    out = options.work / "rounds.jsonl"
    for seed in map(int, options.seeds.split(",")):
        start_of(seed, options, out)
        for contender in options.contenders.split(","):
            lines = [row for _, row in read_jsonl(out)] if out.is_file() else []
            known = [(line["contender"], line["seed"]) for line in lines]
            if (label(contender, options), seed) not in known:
                write(out, measured(contender, seed, options))
                print(tell([row for _, row in read_jsonl(out)]), flush=True)


if __name__ == "__main__":
    main()
