"""Measure what each part of the data path holds in memory a sample, and how long it takes.

    python scripts/measure_growth.py --sizes 1000 10000
    python scripts/measure_growth.py --sizes 100000 --without-language
    python scripts/measure_growth.py --sizes 1000000 --parts train

Prompts and answers of about 60 and 240 tokens are made of the quickstart's problems in five languages,
the ids at random. Each part runs in a process of its own; what is told is the growth of its peak
resident memory over what it had after its imports, on Linux, and the CPU time with that of the
processes that it starts. The slope is the growth between the two largest sizes.

Parts: `write` a file of samples; `read_log`, then each of its rows; `prompts`: all filters of
prompts, near duplicates among them; `generate`: the stage with all its answers in the log, from the
files of prompts to the files of samples, with every filter; `train`: what each rank does before its
first step, for three epochs, and the samples of ten steps. `--without-language` leaves out the
filters of languages, which hold nothing and take most of the time.
"""

import argparse
import itertools
import json
import multiprocessing
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill import generate
from distill.core.digests import digest
from distill.core.jsonl import Row, RowLog, write_jsonl
from distill.core.processes import ALONE
from distill.core.run_folder import RunFolder
from distill.core.subprocesses import peak_memory
from distill.data.bad_rows import Left
from distill.data.prompts import split_prompts
from distill.data.stored_samples import read_samples, split_samples
from distill.filters import answer_filters, prompt_filters
from distill.recipe import Recipe, load_recipe
from distill.teachers import connect
from distill.teachers.keys import request_maker
from distill.teachers.log import read_best_rows
from distill.teachers.requests import RequestOptions

QUICKSTART = Path(__file__).resolve().parent.parent / "recipes" / "quickstart.yaml"
HELD_OUT = QUICKSTART.parent / "smollm2_laptop" / "held_out.jsonl"
PROMPT_CHARACTERS, ANSWER_CHARACTERS = 220, 900
PROMPT_TOKENS, ANSWER_TOKENS = 60, 240
LONGEST = 1024
IDS = range(300, 800)  # of the quickstart's tokenizer, none that marks anything


def problems() -> dict[str, list[str]]:
    """Return the quickstart's problems by their language."""
    by_language: dict[str, list[str]] = {}
    with open(QUICKSTART.parent / "quickstart" / "prompts.jsonl", encoding="utf-8") as f:
        for row in map(json.loads, f):
            by_language.setdefault(row["language"], []).append(row["prompt"])
    return by_language


PROBLEMS = problems()


def text(number: int, characters: int) -> tuple[str, str]:
    """Return (text, language): problems one after the other, the same ones for a number."""
    draw = random.Random(number)
    language = list(PROBLEMS)[number % len(PROBLEMS)]
    pieces = [f"({number})"]
    size = characters // (3 if language == "zh" else 1)
    while sum(map(len, pieces)) < size:
        pieces.append(draw.choice(PROBLEMS[language]))
    return " ".join(pieces), language


def prompt_rows(count: int) -> Iterator[Row]:
    for number in range(count):
        prompt, language = text(number, PROMPT_CHARACTERS)
        yield {"id": str(number), "prompt": prompt, "language": language}


def ids(number: int, count: int) -> list[int]:
    return random.Random(number).choices(IDS, k=count)


def sample_row(number: int) -> Row:
    """Return a row of kept.jsonl."""
    prompt, language = text(number, PROMPT_CHARACTERS)
    return {
        "key": digest("key", str(number)),
        "prompt_id": digest("prompt", str(number)),
        "prompt": prompt,
        "language": language,
        "reference": None,
        "answer": text(number, ANSWER_CHARACTERS)[0],
        "prompt_ids": ids(number, PROMPT_TOKENS),
        "answer_ids": ids(-number - 1, ANSWER_TOKENS),
    }


def recipe_in(folder: Path) -> Recipe:
    """Return a recipe whose prompts are those of the folder, and whose run lies there."""
    overrides = [
        f"generate.prompts={folder / 'prompts.jsonl'}",
        f"run_folder={folder / 'run'}",
        f"evaluate.prompts={HELD_OUT}",
        "generate.task=null",
        "generate.max_new_tokens=1024",
    ]
    return load_recipe(QUICKSTART, overrides)


def prepare(folder: Path, count: int, parts: Sequence[str]) -> None:
    """Write the files that the parts read: kept samples; prompts, and the log of their answers."""
    if "train" in parts:
        write_jsonl(folder / "kept.jsonl", map(sample_row, range(count)))
    if not {"read_log", "prompts", "generate"}.intersection(parts):
        return
    write_jsonl(folder / "prompts.jsonl", prompt_rows(count))
    recipe = recipe_in(folder)
    teacher = connect(recipe)
    make = request_maker(teacher, RequestOptions.of(recipe))
    prompts, _ = split_prompts(recipe, Left())
    end = teacher.tokenizers.asked.eos_token_id
    with RowLog(teacher.logs.answers.folder) as log:
        for number, prompt in enumerate(prompts):
            log.append(answer_row(make(prompt, 0), recipe, number, end))


def answer_row(request: Any, recipe: Recipe, number: int, end: int) -> Row:
    """Return a row of the log."""
    return {
        "key": request.key,
        "prompt_id": request.prompt.id,
        "seed": request.seed,
        "teacher": recipe.teacher.model,
        "finish_reason": "stop",
        "max_new_tokens": recipe.generate.max_new_tokens,
        "text": text(number, ANSWER_CHARACTERS)[0],
        "token_ids": [*ids(-number - 1, ANSWER_TOKENS - 1), end],
    }


def write(folder: Path, count: int) -> str:
    return f"{write_jsonl(folder / 'written.jsonl', map(sample_row, range(count))):,} rows"


def read_log(folder: Path, count: int) -> str:
    best = read_best_rows(connect(recipe_in(folder)).logs.answers)
    num_tokens = sum(len(row["token_ids"]) for row in best.values())
    return f"{num_tokens:,} tokens"


def filter_prompts(folder: Path, count: int) -> str:
    recipe = recipe_in(folder)
    prompts, held_out = split_prompts(recipe, Left())
    good, bad = prompt_filters.select_prompts(recipe, prompts, held_out)
    return f"{len(good):,} of {len(good) + len(bad):,} kept"


def run_generate(folder: Path, count: int) -> str:
    recipe = recipe_in(folder)
    output = generate.run(recipe, RunFolder.of(recipe), ALONE)
    assert output is not None
    return f"{output.result.num_kept:,} kept"


def train(folder: Path, count: int) -> str:
    run = training_run(folder)
    plan = run.steps()
    num_tokens = 0
    for step in itertools.islice(plan, 10):
        run.num_loss_tokens(step)
        num_tokens += sum(len(run.examples[number].ids) for row in step for number in row)
    return f"{len(plan):,} steps"


def training_run(folder: Path) -> Any:
    from distill.recipe.sections import Train
    from distill.training.run import TrainingRun, examples_of

    learn, validation = split_samples(read_samples(folder / "kept.jsonl"), 0.02)
    options = Train(epochs=3, max_length=LONGEST, batch_tokens=32 * LONGEST)
    nothing: Any = None
    return TrainingRun(
        role="student",
        model=nothing,
        options=options,
        soft_weight=0.0,
        hard_weight=1.0,
        examples=examples_of(learn, with_signal=True),
        validation=examples_of(validation, with_signal=False),
        store=None,
        vocab_size=150_000,
        pad_id=0,
        seed=0,
        placement=nothing,
        folder=folder,
        processes=ALONE,
        accelerator=nothing,
    )


Part = Callable[[Path, int], str]
PARTS: dict[str, Part] = {
    "write": write,
    "read_log": read_log,
    "prompts": filter_prompts,
    "generate": run_generate,
    "train": train,
}


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak() -> int:
    """Return the most bytes that this process held; getrusage would tell its parent's."""
    held = peak_memory("self")
    assert held is not None, "measured on Linux"
    return held


def leave_out_languages() -> None:
    """Take the filters of languages out of those of this process."""
    answer_filters.ANSWER_FILTERS = tuple(
        one for one in answer_filters.ANSWER_FILTERS if not one.name.endswith("_language")
    )
    prompt_filters.PROMPT_FILTERS = tuple(
        one for one in prompt_filters.PROMPT_FILTERS if not one.name.endswith("_language")
    )


def measured(part: Part, folder: Path, count: int, languages: bool, answer: Any) -> None:
    """Send (bytes of growth, all bytes, seconds of CPU, what the part says) of a part."""
    import distill.training.run  # noqa: F401 - so that it is in memory before

    if not languages:
        leave_out_languages()
    before, start = peak(), cpu_seconds()
    told = part(folder, count)
    answer.send((peak() - before, peak(), cpu_seconds() - start, told))


def in_a_process(
    part: Part, folder: Path, count: int, languages: bool
) -> tuple[int, int, float, str]:
    """Return what `measured` sends, of a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    receiving, sending = fresh.Pipe(duplex=False)
    process = fresh.Process(target=measured, args=(part, folder, count, languages, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--without-language", action="store_true")
    options = parser.parse_args()
    languages = not options.without_language
    grown: dict[str, list[tuple[int, int]]] = {name: [] for name in options.parts}
    for count in sorted(options.sizes):
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), count, options.parts)
            for part in options.parts:
                size, whole, seconds, told = in_a_process(PARTS[part], Path(name), count, languages)
                grown[part].append((count, size))
                print(
                    f"{part:10} {count:>9,} samples: {size / 1e6:8.1f} MB more, {whole / 1e6:7.0f} "
                    f"MB in all, {seconds:7.2f} s of CPU ({told})",
                    flush=True,
                )
    for part, points in grown.items():
        if len(points) > 1:
            (few, small), (many, large) = points[-2:]
            print(f"{part:10} {(large - small) / (many - few) / 1e3:8.2f} KB a sample")


if __name__ == "__main__":
    main()
