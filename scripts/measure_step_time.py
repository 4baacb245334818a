#!/usr/bin/env python3
"""How long a training step of models takes beside that of the first, in turns: what a cut or a trimmed vocabulary saves.

    python scripts/measure_step_time.py teacher runs/a/initialize/student runs/b/initialize/student --rounds 7

A model is a folder as transformers saves it. A step is forward under autocast to bfloat16, cross-entropy, backward, clipping and
AdamW over four rows of four sequences of 62 random tokens, the first 36 of each without loss. Each model takes one step a round, the
order turned round every other time; the ratio is taken within a round.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import machine, table

from distill.models.load import Placement, load_model
from distill.recipe.sections import Train
from distill.training.batches import collate
from distill.training.optimizer import build_optimizer
from distill.training.student import StudentLoss, trainable_parameters

ROWS, SEQUENCES, TOKENS, PROMPT = 4, 4, 62, 36
HEADS = ["model", "million parameters", "seconds", "of the first (quartiles)"]


def step_of(folder: str) -> tuple[int, Callable[[], None]]:
    """Return the model's parameters, and its step."""
    model = load_model(folder, Placement("cpu", "float32"))
    options, width = Train(), model.config.vocab_size
    student = StudentLoss(model, options, width)
    optimizer = build_optimizer(trainable_parameters(student), options)
    dice = random.Random(0)
    rows = [
        [([dice.randrange(width) for _ in range(TOKENS)], PROMPT) for _ in range(SEQUENCES)]
        for _ in range(ROWS)
    ]
    num_loss_tokens = ROWS * SEQUENCES * (TOKENS - PROMPT)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = student(collate(rows, 0), None, 0.0, 1.0)[0]
        (loss / num_loss_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return model.num_parameters(), step


def times_in_turns(steps: list[Callable[[], None]], num_rounds: int) -> list[list[float]]:
    """Return the seconds of each step in each round, a list a step."""
    found: list[list[float]] = [[] for _ in steps]
    turns = list(zip(steps, found, strict=True))
    for _ in range(num_rounds):
        turns.reverse()
        for step, times in turns:
            started = time.monotonic()
            step()
            times.append(time.monotonic() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    made = [step_of(folder) for folder in options.models]
    found = times_in_turns([step for _, step in made], max(2, options.rounds))
    rows = []
    for folder, (num_parameters, _), times in zip(options.models, made, found, strict=True):
        ratios = [a / b for a, b in zip(times, found[0], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        ratio = f"{statistics.median(ratios):.2f}x ({low:.2f} to {high:.2f})"
        rows.append(
            [folder, f"{num_parameters / 1e6:.1f}", f"{statistics.median(times):.2f}", ratio]
        )
    print(machine())
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
