#!/usr/bin/env python3
"""A training step over packed rows with their dense mask and without one: time in turns, memory.

    python scripts/bench_packed_rows.py                                   # rows of 192 to 2,048 tokens, a few minutes
    python scripts/bench_packed_rows.py --lengths 2048 --model .venv/smollm2
    python scripts/bench_packed_rows.py --device cuda --lengths 2048 8192 --shape 1024x28      # bfloat16
    python scripts/bench_packed_rows.py --write BENCHMARKS.md             # replaces its own section there

A step is forward, cross-entropy, backward and AdamW of one row and more: the same row with both, one after the other,
the order turned round every other time; the ratio is taken within such a pair. Sequences have a third of --mean more or
fewer tokens. Memory: on a CPU the bytes that the forward keeps for its backward, each once; on CUDA the allocator's peak
above what was there before the step.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from bench_kd import qwen3
from benchmark_sections import machine, replace_section, table
from torch import Tensor

from distill.models.load import Placement, from_folder
from distill.recipe.sections import Train
from distill.training import packed_attention
from distill.training.batches import Batch, collate
from distill.training.optimizer import build_optimizer
from distill.training.student import StudentLoss, trainable_parameters

HEADING = "## Packed rows without a mask"
WAYS = ("sdpa", packed_attention.NAME)  # as transformers calls them: with the mask, without
HEADS = ["a row's tokens", "sequences", "with its mask", "without", "time", "kept with", "without"]


def row_of(length: int, mean: int, vocabulary: int) -> Batch:
    """Return a row of sequences of `mean` tokens, about; the last is cut to fit."""
    dice = random.Random(length)
    samples: list[tuple[list[int], int]] = []
    left = length
    while left > 1:
        size = min(left, max(2, round(dice.gauss(mean, mean / 3))))
        samples.append(([dice.randrange(vocabulary) for _ in range(size)], 1))
        left -= size
    return collate([samples], 0)


def step_of(model: Any, batch: Batch, device: str) -> Callable[[], None]:
    """Return the step; on CUDA under autocast to bfloat16, as a training there has it."""
    options = Train()
    student = StudentLoss(model.eval(), options, model.config.vocab_size)
    optimizer = build_optimizer(trainable_parameters(student), options)
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def step() -> None:
        with autocast:
            loss, _ = student(batch, None, 0.0, 1.0)
        (loss / len(batch.labels_N)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def kept_bytes(model: Any, step: Callable[[], None], device: str) -> int:
    """Return what a step takes; on a CPU of what is kept for the backward alone."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}
    held = []  # else the same address is had twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def measured(model: Any, length: int, options: argparse.Namespace) -> list[str]:
    """Return a line of the table."""
    batch = row_of(length, options.mean, model.config.vocab_size).to(model.device)
    step = step_of(model, batch, options.device)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    kept = {}
    for way in WAYS:  # the first step of a shape is not like the others
        model.set_attn_implementation(way)
        step()
        kept[way] = kept_bytes(model, step, options.device)
    for number in range(options.pairs):
        for way in WAYS if number % 2 else WAYS[::-1]:
            model.set_attn_implementation(way)
            started = time.perf_counter()
            step()
            seconds[way].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    milliseconds = [f"{1000 * statistics.median(s):,.0f} ms" for s in seconds.values()]
    num_sequences = len(packed_attention.Sequences(batch.position_ids_BT).lengths)
    found = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    memory = [f"{value / 2**20:,.0f} MiB" for value in kept.values()]
    return [f"{length:,}", str(num_sequences), *milliseconds, found, *memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", type=Path, help="a folder; else a random Qwen3 of --shape")
    parser.add_argument("--shape", default="256x8", help="width x layers")
    parser.add_argument("--layers", type=int, help="the first so many of --model's alone")
    parser.add_argument("--lengths", type=int, nargs="+", default=[192, 512, 1024, 2048])
    parser.add_argument("--mean", type=int, default=300, help="tokens of a sequence")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--write", type=Path, help="BENCHMARKS.md, or - for the terminal alone")
    options = parser.parse_args()
    if options.model:
        model = from_folder(options.model, dtype=torch.float32).to(options.device)
        if options.layers:
            model.model.layers = model.model.layers[: options.layers]
            model.config.num_hidden_layers = options.layers
    else:
        model = qwen3(options.shape, options.device, 3).float()
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    found = packed_attention.attention_of(
        model, Train(max_length=max(options.lengths)), Placement(options.device, dtype)
    )
    what = options.model.name if options.model else f"a random Qwen3 of {options.shape}"
    is_possible = found.by_sequence or options.device == "cpu"  # a CPU can go either way
    lines = [measured(model, length, options) for length in options.lengths if is_possible]
    text = "\n".join(
        [
            HEADING,
            "",
            f"`{' '.join(['scripts/bench_packed_rows.py', *sys.argv[1:]])}`: {machine()}. Training",
            f"steps of {what} in {dtype}, {options.pairs} pairs in turns, a row a step. Of its",
            f"longest rows it says: packed rows are attended to {found.told}.",
            "",
            table(HEADS, lines),
        ]
    )
    print(text)
    if options.write and str(options.write) != "-":
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
