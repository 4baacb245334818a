#!/usr/bin/env python3
"""What a student of another tokenizer learns from chunks, against text alone and a student of the teacher's tokenizer.

    python scripts/measure_chunks.py runs/quickstart work --seeds 1,2,3
    python scripts/measure_chunks.py runs/quickstart work --arms bpe --seeds 1 train.soft_weight=3

RUN is a finished run of the quickstart: its raw answers and the teacher's answers to the held-out problems are taken,
and nothing is written there. Three kinds of student, of the quickstart's shape, each trained from random weights with
a control on the same tokens by cross-entropy alone: `same` has the teacher's tokenizer (draws, as the quickstart
does), `bpe` a byte-level BPE of 2,048 ids trained on the quickstart's prompts and answers, `bytes` the 256 bytes.
Overrides change the last two. Each model is a JSON line of work/chunks.jsonl and is not trained again.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmark_sections import table

from distill import initialize, teachers, train
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.evaluation.eval_set import eval_sets
from distill.evaluation.figures import figures_of
from distill.evaluation.models import evaluate_transformers
from distill.models.load import Placement, load_model, load_tokenizer
from distill.pipeline import run
from distill.recipe import Recipe, load_recipe

RECIPE = ROOT / "recipes" / "quickstart.yaml"
TEACHER = RECIPE.parent / "quickstart" / "teacher"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ARMS = {"same": None, "bpe": 2048, "bytes": 256 + len(SPECIAL)}
LENGTHS = {"same": 192, "bpe": 192, "bytes": 576}  # tokens of the longest samples
SMALL = ["generate.num_prompts=2000", "train.epochs=12", "evaluate.max_new_tokens=400"]
CHUNKS = ["capture.signal=chunks", "train.hard_weight=0.1"]
Line = dict[str, Any]


def tokenizer_of(num_ids: int, texts: Iterable[str]) -> Any:
    """Train a byte-level BPE with the splits and the template of the teacher's tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    like = load_tokenizer(str(TEACHER)).backend_tokenizer
    core = Tokenizer(BPE())
    core.normalizer, core.pre_tokenizer = like.normalizer, like.pre_tokenizer
    core.decoder = like.decoder
    trainer = BpeTrainer(
        vocab_size=num_ids - len(SPECIAL),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = (TEACHER / "chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer


def texts_of(finished: Path) -> list[str]:
    rows = read_jsonl(finished / "generate" / "kept.jsonl")
    return [text for _, row in rows for text in (row["prompt"], row["answer"])]


def make_student(folder: Path, tokenizer: Any, seed: int) -> None:
    """Write a model of the quickstart's shape with random weights of this seed."""
    import torch
    from transformers import GenerationConfig, Qwen3ForCausalLM

    if (folder / "config.json").is_file():
        return
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(initialize.random_config(load_recipe(RECIPE), tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe_of(arm: str, student: Path, place: Path, more: list[str], seed: int) -> Recipe:
    length = LENGTHS[arm]
    own = [] if arm == "same" else [*CHUNKS, f"student={{method: base, model: {student}}}", *more]
    return load_recipe(
        RECIPE,
        [
            *SMALL,
            *own,
            f"seed={seed}",
            f"train.max_length={length}",
            f"train.batch_tokens={max(1024, 4 * length)}",
            f"run_folder={place}",
        ],
    )


def prepare(recipe: Recipe, finished: Path) -> RunFolder:
    """Filter the answers of the finished run, and capture, in the recipe's run folder."""
    folder = RunFolder.of(recipe)
    raw = folder.stage("generate") / "raw"
    if not raw.is_dir():
        shutil.copytree(finished / "generate" / "raw", raw)
    run(recipe, stages=["generate", "capture"])
    return folder


def trained(recipe: Recipe, prepared: RunFolder, work: Path) -> RunFolder:
    """Train student and control in `work`."""
    shutil.rmtree(work, ignore_errors=True)
    folder = RunFolder(work)
    for name in ("generate", "capture"):
        folder.stage(name).parent.mkdir(parents=True, exist_ok=True)
        folder.stage(name).symlink_to(prepared.stage(name).resolve())
    for stage in ("initialize", "train"):
        folder.stage(stage).mkdir()
    initialize.run(recipe, folder)
    assert train.run(recipe, folder, ALONE) is not None
    return folder


def figures(recipe: Recipe, folder: RunFolder, finished: Path, role: str) -> Line:
    tokenizers = teachers.connect(recipe, folder).tokenizers
    prompts = split_prompts(recipe)[1]
    answers = finished / "evaluate" / "teacher_answers.jsonl"
    path = folder.stage("train") / role
    eval_set = eval_sets(recipe, prompts, tokenizers, answers, path)[0]
    model = load_model(str(path), Placement("cpu", "float32"))
    with Progress("evaluate", len(prompts), "answers") as bar:
        found = figures_of(eval_set, evaluate_transformers(eval_set, model, bar))
    return {name: found[name] for name in ("exact_match", "nll_per_byte")}


def measure(arm: str, seed: int, options: argparse.Namespace, out: Path) -> None:
    first, student = (options.work / f"student-{arm}-{n}" for n in (1, seed))
    if (num_ids := ARMS[arm]) is not None:
        if not (first / "config.json").is_file():
            make_student(first, tokenizer_of(num_ids, texts_of(options.run)), 1)
        make_student(student, load_tokenizer(str(first)), seed)
    prepared = prepare(recipe_of(arm, first, options.work / f"run-{arm}", [], 1), options.run)
    recipe = recipe_of(arm, student, options.work / "training", options.overrides, seed)
    folder = trained(recipe, prepared, options.work / f"trained-{arm}-{seed}")
    for role in ("student", "control"):
        told = folder.stage("train") / role / "training.json"
        if not told.is_file():
            continue
        training = json.loads(told.read_text())
        line = {
            "arm": arm,
            "seed": seed,
            "role": role,
            "overrides": options.overrides,
            "tokens": training["num_tokens"],
            "seconds": training["seconds"],
            **figures(recipe, folder, options.run, role),
        }
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def tell(lines: list[Line]) -> None:
    rows = []
    for key in sorted({(row["arm"], row["role"], str(row["overrides"])) for row in lines}):
        found = [r for r in lines if (r["arm"], r["role"], str(r["overrides"])) == key]
        exact = [100 * row["exact_match"] for row in found]
        nll = [row["nll_per_byte"] for row in found]
        rows.append(
            [
                *key,
                str(len(found)),
                f"{statistics.mean(exact):.1f} ({min(exact):.1f}-{max(exact):.1f})",
                f"{statistics.mean(nll):.4f} ({min(nll):.4f}-{max(nll):.4f})",
                f"{statistics.mean(row['seconds'] for row in found):.0f}",
            ]
        )
    headings = ["arm", "role", "overrides", "seeds", "exact match %", "NLL/byte", "seconds"]
    print(table(headings, rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--arms", default=",".join(ARMS), help="with commas between")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between")
    options = parser.parse_intermixed_args()
    options.work.mkdir(parents=True, exist_ok=True)
    out = options.work / "chunks.jsonl"
    lines = [row for _, row in read_jsonl(out)] if out.is_file() else []
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            known = ((r["arm"], r["seed"], r["overrides"]) for r in lines)
            if (arm, seed, options.overrides) not in known:
                measure(arm, seed, options, out)
    tell([row for _, row in read_jsonl(out)])


if __name__ == "__main__":
    main()
