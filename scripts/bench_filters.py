"""How fast are the filters? Samples a second of each, and 100,000 texts deduplicated: seconds and memory.

    python scripts/bench_filters.py              # about three minutes on two cores
    python scripts/bench_filters.py --num 500

The texts are made from the quickstart's own prompts in five languages (its teacher's kind of answer, lengthened to what
a chat answer has), so that every script is there; each filter sees texts that it keeps, which is what costs most.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.data.samples import Prompt
from distill.filters.answer_filters import (
    bad_format,
    bad_length,
    identity,
    loop,
    refusal,
    truncated,
)
from distill.filters.contamination import EvalIndex
from distill.filters.dedup import near_prompts
from distill.filters.prompt_filters import judge_prompts
from distill.text.language import wrong_language

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ["en", "zh", "sw", "id", "hi"]
TARGET = 2000  # samples a second of everything but language identification, maths and judge


def texts(num: int, length: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, language): about `length` characters each, of problems shuffled together, no two alike."""
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
    """Prompts of 900 characters: an instruction that all share, a passage that four share, a question."""
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


INDEX = EvalIndex([text for text, _ in texts(300, 150, seed=9)])


def cheap(samples: list[tuple[str, str]]) -> int:
    """Every filter of an answer but language identification; how many were dropped."""
    return sum(
        any(
            (
                truncated("stop"),
                bad_length(t, 1, 20_000),
                loop(t),
                refusal(t, language),
                identity(t),
                bad_format(t),
                INDEX.hit(t),
            )
        )
        for t, language in samples
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, the least of three: what else the machine does hardly counts."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def single_filters(samples: list[tuple[str, str]]) -> dict[str, float]:
    """Samples a second of each filter alone, on one core."""
    checks: dict[str, Callable[[str, str], object]] = {
        "length": lambda text, language: bad_length(text, 1, 20_000),
        "loop": lambda text, language: loop(text),
        "refusal": refusal,
        "identity": lambda text, language: identity(text),
        "format": lambda text, language: bad_format(text),
        "contaminated": lambda text, language: INDEX.hit(text),
        "wrong_language": lambda text, language: wrong_language(text, language, LANGUAGES),
    }
    for check in checks.values():
        check(*samples[0])  # tables and models are loaded once
    return {
        n: len(samples) / cpu_seconds(lambda c=c: [c(t, language) for t, language in samples])
        for n, c in checks.items()
    }


def deduplicate(num: int, context: bool, pipe: Connection) -> None:
    """In a process of its own, so that its peak memory is its own."""
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
    for name, rate in single_filters(samples).items():
        print(f"  {name:<16}{rate:>10,.0f}")
    rate = 2 * len(samples) / cpu_seconds(lambda: cheap(samples))
    print(
        f"all but language identification, on two cores: {rate:,.0f} samples a second (wanted: {TARGET:,})"
    )
    prompts = prompts_of(texts(given.num, 200))
    rate = len(prompts) / cpu_seconds(lambda: judge_prompts(prompts, near_duplicate=0.9))
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
