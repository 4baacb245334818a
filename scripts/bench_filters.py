"""Measure the filters: samples a second of each; seconds and memory to deduplicate 100,000 texts.

    python scripts/bench_filters.py              # about three minutes on two cores
    python scripts/bench_filters.py --num 500

The texts are made from the quickstart's own prompts in five languages (its teacher's kind of
answer, lengthened to what a chat answer has), so that every script is there; each filter sees texts
that it keeps, which is what costs most.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.data.samples import Prompt
from distill.filters import answer_filters, prompt_filters
from distill.filters.base import Answer, FilterContext
from distill.filters.contamination import EvalIndex
from distill.filters.dedup import near_prompts
from distill.recipe.sections import Generate

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ["en", "zh", "sw", "id", "hi"]
TARGET = 2000  # samples a second of everything but language identification, maths and judge


def texts(num: int, length: int, seed: int = 0) -> list[tuple[str, str]]:
    """Make (text, language): about `length` characters of shuffled problems, no two alike."""
    by_language: dict[str, list[str]] = {}
    for line in (
        (ROOT / "recipes/quickstart/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        row = json.loads(line)
        by_language.setdefault(row["language"], []).append(row["prompt"])
    rng = random.Random(seed)
    found = []
    for n in range(num):
        language = LANGUAGES[n % len(LANGUAGES)]
        target, text = length // (3 if language == "zh" else 1), f"{n}. "
        while len(text) < target:
            text += rng.choice(by_language[language]) + " "
        found.append((text, language))
    return found


def with_context(num: int) -> list[str]:
    """Make prompts of 900 characters.

    An instruction that all share, a passage that four share, a question.
    """
    asked, passages = texts(num, 100, seed=5), texts(-(-num // 4), 400, seed=4)
    (instruction, _), *_ = texts(1, 400, seed=6)
    return [
        f"{instruction}\n{passages[n // 4][0]}\n{question}" for n, (question, _) in enumerate(asked)
    ]


def prompts_of(samples: list[tuple[str, str]]) -> list[Prompt]:
    return [
        Prompt(({"role": "user", "content": text},), language, check_language=False)
        for text, language in samples
    ]


def answers_of(samples: list[tuple[str, str]]) -> list[Answer]:
    return [
        Answer("", str(n), text, None, "stop", language)
        for n, (text, language) in enumerate(samples)
    ]


CONTEXT = FilterContext(
    Generate.model_validate({"prompts": "prompts.jsonl"}),
    LANGUAGES,
    eval_index=EvalIndex(text for text, _ in texts(300, 150, seed=9)),
)
SLOW = ("wrong_language", "wrong_reasoning_language")


def all_but_slow(answers: list[Answer]) -> int:
    """Apply every filter of an answer but language identification; return how many it drops."""
    everything = answer_filters.ANSWER_FILTERS
    answer_filters.ANSWER_FILTERS = tuple(f for f in everything if f.name not in SLOW)
    try:
        return sum(answer_filters.first_reason(a, CONTEXT) is not None for a in answers)
    finally:
        answer_filters.ANSWER_FILTERS = everything


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return CPU time of this process, the least of three: other work hardly counts."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def single_filters(answers: list[Answer]) -> dict[str, float]:
    """Return samples a second of each filter alone, on one core."""
    for answer_filter in answer_filters.ANSWER_FILTERS:
        answer_filter(replace(answers[0]), CONTEXT)  # tables and models are loaded once
    return {
        f.name: len(answers)
        / cpu_seconds(lambda f=f: [f(replace(answer), CONTEXT) for answer in answers])
        for f in answer_filters.ANSWER_FILTERS
    }


def deduplicate(num: int, context: bool, pipe: Connection) -> None:
    """Run in a process of its own, so that its peak memory is its own."""
    short = with_context(num) if context else [text for text, _ in texts(num, 300, seed=3)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu_start = time.perf_counter(), time.process_time()
    found = near_prompts(short, 0.8, [""] * num)
    used = (time.perf_counter() - start, time.process_time() - cpu_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(
        (
            used,
            peak / 1024,
            before / 1024,
            sum(f is not None for f in found),
            sum(map(len, short)) / num,
        )
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--num", type=int, default=2000, help="samples for the filters")
    options.add_argument("--texts", type=int, default=100_000, help="texts to deduplicate")
    given = options.parse_args()
    samples = texts(given.num, 1200)
    size = sum(len(text.encode()) for text, _ in samples) / len(samples)
    print(
        f"{len(samples)} samples of {size:,.0f} bytes, five languages; samples a second of CPU time:"
    )
    answers = answers_of(samples)
    for name, rate in single_filters(answers).items():
        print(f"  {name:<26}{rate:>12,.0f}")
    rate = 2 * len(answers) / cpu_seconds(lambda: all_but_slow(answers))
    print(
        f"all but language identification, on two cores: {rate:,.0f} samples a second (wanted: {TARGET:,})"
    )
    prompts = prompts_of(texts(given.num, 200))
    no_index = replace(CONTEXT, eval_index=None)
    rate = len(prompts) / cpu_seconds(lambda: prompt_filters.filter_prompts(prompts, no_index))
    print(f"prompts, without language identification: {rate:,.0f} a second of CPU time")
    for context in (False, True):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(
            target=deduplicate, args=(given.texts, context, theirs)
        )
        child.start()
        used, peak, before, found, characters = ours.recv()
        child.join()
        what = (
            "prompts about passages, four about each, under one instruction"
            if context
            else "prompts"
        )
        wanted = "" if context else " (wanted: under 60 s and 1,000 MB)"
        print(
            f"{given.texts:,} {what}, of {characters:.0f} characters, deduplicated in {used[0]:.1f} s ({used[1]:.1f} s of CPU), peak "
            f"{peak:,.0f} MB ({before:,.0f} MB of them before it began); {found:,} repeated another{wanted}",
            flush=True,
        )


if __name__ == "__main__":
    main()
