"""Measure what each part of the data path holds in memory a sample, and how long it takes.

    python scripts/measure_growth.py --sizes 1000 10000

Samples are made of random words: 60 prompt and 240 answer tokens, the ids at random below 150,000.
Each part runs in a process of its own; what is told is the growth of its peak resident memory over
what it had after its imports, on Linux. The slope is the growth between the two largest sizes.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.core.digests import digest
from distill.core.jsonl import Row, RowLog, read_jsonl, write_jsonl
from distill.data.stored_samples import read_samples, split_samples
from distill.filters.dedup import near_duplicates, near_prompts
from distill.teachers.log import AnswerLog, read_best_rows
from distill.teachers.server.budget import FREE

PROMPT_TOKENS, ANSWER_TOKENS = 60, 240
LONGEST = 1024


def words(seed: int, count: int) -> str:
    """Return `count` words, the same ones for a seed."""
    draw = random.Random(seed)
    return " ".join(f"w{int(draw.paretovariate(0.6)) % 50_000}" for _ in range(count))


def sample_row(number: int) -> Row:
    """Return a row of kept.jsonl."""
    draw = random.Random(number)
    ids = [draw.randrange(150_000) for _ in range(PROMPT_TOKENS + ANSWER_TOKENS)]
    return {
        "key": digest("key", str(number)),
        "prompt_id": digest("prompt", str(number)),
        "prompt": words(number, 45),
        "language": "en",
        "reference": None,
        "answer": words(-number - 1, 180),
        "prompt_ids": ids[:PROMPT_TOKENS],
        "answer_ids": ids[PROMPT_TOKENS:],
    }


def answer_row(number: int) -> Row:
    """Return a row of a log of answers."""
    row = sample_row(number)
    return {
        "key": row["key"],
        "prompt_id": row["prompt_id"],
        "seed": number,
        "finish_reason": "stop",
        "max_new_tokens": 1024,
        "text": row["answer"],
        "token_ids": row["answer_ids"],
    }


def rows(count: int) -> Iterator[Row]:
    return map(sample_row, range(count))


def prepare(folder: Path, count: int) -> None:
    """Write the files that the parts read."""
    with open(folder / "kept.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count))
    with RowLog(folder / "raw") as log:
        for number in range(count):
            log.append(answer_row(number))


def write(folder: Path, count: int) -> None:
    write_jsonl(folder / "written.jsonl", rows(count))


def read_log(folder: Path, count: int) -> None:
    log = AnswerLog(folder, "raw", "answers", FREE)
    best = read_best_rows(log)
    assert sum(len(best[digest("key", str(number))]["token_ids"]) for number in range(count)) > 0


def deduplicate(folder: Path, count: int) -> None:
    """Hold the answers as text, as the filters do, and find those that repeat each other."""
    texts = [row["answer"] for _, row in read_jsonl(folder / "kept.jsonl")]
    near_duplicates(texts, 0.8)


def select_prompts(folder: Path, count: int) -> None:
    """Hold the prompts as text, and find those that repeat each other."""
    texts = [row["prompt"] for _, row in read_jsonl(folder / "kept.jsonl")]
    near_prompts(texts, 0.9, [0] * count)


def train(folder: Path, count: int) -> None:
    """Do what each rank does before its first step, for three epochs; and collate ten steps."""
    run = training_run(folder)
    plan = run.steps()
    for step in plan[:10]:
        run.num_loss_tokens(step)
        _ = [run.examples[i].ids for row in step for i in row]


def training_run(folder: Path) -> Any:
    from distill.core.processes import ALONE
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


PARTS = {
    "write": write,
    "read_log": read_log,
    "prompts": select_prompts,
    "answers": deduplicate,
    "train": train,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(part: Callable[[Path, int], None], folder: Path, count: int, answer: Any) -> None:
    import distill.training.run  # noqa: F401 - so that it is in memory before

    before, start = peak(), time.perf_counter()
    part(folder, count)
    answer.send((peak() - before, time.perf_counter() - start))


def in_a_process(part: Callable[[Path, int], None], folder: Path, count: int) -> tuple[int, float]:
    """Return (bytes of growth, seconds) of a part in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    receiving, sending = fresh.Pipe(duplex=False)
    process = fresh.Process(target=measured, args=(part, folder, count, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    grown: dict[str, list[tuple[int, int]]] = {name: [] for name in options.parts}
    for count in sorted(options.sizes):
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), count)
            for part in options.parts:
                size, seconds = in_a_process(PARTS[part], Path(name), count)
                grown[part].append((count, size))
                print(f"{part:12} {count:>9,} samples  {size / 1e6:8.1f} MB  {seconds:7.2f} s")
                sys.stdout.flush()
    for part, points in grown.items():
        if len(points) > 1:
            (few, small), (many, large) = points[-2:]
            print(f"{part:12} {(large - small) / (many - few) / 1e3:8.2f} KB a sample")


if __name__ == "__main__":
    main()
