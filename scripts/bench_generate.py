#!/usr/bin/env python3
"""Our decoding beside `model.generate`.

    python scripts/bench_generate.py                        # about 10 minutes on 2 quiet cores
    python scripts/bench_generate.py --write BENCHMARKS.md  # replaces its own section there
    python scripts/bench_generate.py --device cuda --dtype bfloat16 --shape 2048x24 --batch-tokens 65536

The peer is transformers' `model.generate` as a short script calls it: batches in the order of arrival, cut at the same
number of tokens (longest prompt + longest possible answer, times rows), padded on the left, each until its longest
answer ends. Ours is what `distill generate` does (distill/models/by_length.py, decode.py). Same model, prompts,
sampling values and threads; all in turns in one process, the order turned round every other round; ratios are taken
within a round. Only tokens of answers are counted, up to their stop token.

Teachers are the quickstart's own on its own prompts, which answers as long as it likes, and a random Qwen3 that is made
to answer in given lengths: log-normal (sigma 0.8), median 96, cut at 512 tokens; prompts log-normal (sigma 0.6), median
48. Real answers spread like this. A random model would not stop where a real one does, so its logits are made, drawn
from, and then bent to the planned answer: all of the work is done, and both sides must give the same tokens.
"""

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from benchmark_sections import machine, replace_section, table  # noqa: E402
from measure_capture import seconds  # noqa: E402
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

from distill.models.by_length import blocks_by_length  # noqa: E402
from distill.models.decode import Sampling, answer  # noqa: E402
from distill.models.load import Placement, load_model, load_tokenizer, stop_ids  # noqa: E402
from distill.rows import read_jsonl  # noqa: E402
from distill.text import chat  # noqa: E402

HEADING = "## Generation"
TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
Answers = dict[int, list[int]]


@dataclass(frozen=True)
class Case:
    """A teacher and what it is asked. `plan`: number of tokens that each answer must have, where that is fixed."""

    name: str
    model: Any
    prompts: list[list[int]]
    sampling: Sampling
    max_new_tokens: int
    stop_ids: list[int]
    pad_id: int
    vocab_size: int
    batch_tokens: int
    plan: list[int] | None = None


class Planned(Qwen3ForCausalLM):
    """A prompt's last token is its number; it is drawn again and again until the answer is as long as planned."""

    plan: dict[int, int]  # number -> position after which the answer stops
    stop_id: int

    def forward(  # named as they are looked up by name
        self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, past_key_values: Any = None,
        use_cache: Any = None, logits_to_keep: Any = 0, **named: Any,
    ) -> Any:  # fmt: skip
        found = super().forward(
            input_ids, attention_mask, position_ids, past_key_values, use_cache=use_cache, logits_to_keep=logits_to_keep, **named
        )
        ids_N, positions_N = input_ids[:, -1].tolist(), position_ids[:, -1].tolist()
        chosen = [self.stop_id if p >= self.plan.get(i, 0) else i for i, p in zip(ids_N, positions_N, strict=True)]
        found.logits[torch.arange(len(chosen)), -1, torch.tensor(chosen)] = 1e4
        return found


def quickstart_case(num_prompts: int, batch_tokens: int) -> Case:
    tokenizer = load_tokenizer(str(TEACHER))
    model = load_model(str(TEACHER), Placement("cpu", "float32"))
    rows = [row for _, row in read_jsonl(TEACHER.parent / "prompts.jsonl")][:num_prompts]
    prompts = [chat.prompt_ids(tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows]
    ends = chat.stop_ids(tokenizer, stop_ids(model))
    return Case("quickstart's teacher", model, prompts, Sampling(1.0), 96, ends, tokenizer.pad_token_id, len(tokenizer), batch_tokens)


def planned_case(shape: str, num_prompts: int, batch_tokens: int, vocab_size: int, device: str, dtype: str) -> Case:
    """A random Qwen3 of width x layers (heads of 64, feed-forward 3 x width) and answers of planned lengths."""
    width, num_layers = map(int, shape.split("x"))
    draw = random.Random(1)
    lengths = [min(512, max(8, round(draw.lognormvariate(4.564, 0.8)))) for _ in range(num_prompts)]
    sizes = [min(256, max(12, round(draw.lognormvariate(3.871, 0.6)))) for _ in range(num_prompts)]
    numbers = range(vocab_size - num_prompts, vocab_size)
    prompts = [[*(draw.randrange(2, vocab_size - num_prompts) for _ in range(size - 1)), n] for size, n in zip(sizes, numbers, strict=True)]
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=num_layers, head_dim=64,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 256), tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device(device):
        model = Planned(config).to(getattr(torch, dtype)).eval()
    model.plan = {n: size + length - 2 for n, size, length in zip(numbers, sizes, lengths, strict=True)}
    model.stop_id = 1
    name = f"Qwen3, {num_layers} layers of {width}, planned lengths"
    return Case(name, model, prompts, Sampling(0.7, 0.8, 20), 512, [1], 0, vocab_size, batch_tokens, lengths)


def ours(case: Case) -> Answers:
    found: Answers = {}
    widths = [len(prompt) + case.max_new_tokens for prompt in case.prompts]
    for block in blocks_by_length(widths, case.batch_tokens):

        def finished(i: int, ids: list[int], _reason: str, block: Any = block) -> None:
            found[block.indices[i]] = ids

        answer(
            case.model, [case.prompts[i] for i in block.indices], seeds=block.indices, sampling=case.sampling,
            max_new_tokens=case.max_new_tokens, stop_ids=case.stop_ids, pad_id=case.pad_id, on_finished=finished,
            vocab_size=case.vocab_size, num_slots=block.num_slots,
        )  # fmt: skip
    return found


def naive(case: Case) -> Answers:
    """`model.generate`, batch after batch."""
    sampling = case.sampling
    config = GenerationConfig(
        max_new_tokens=case.max_new_tokens, do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p,
        top_k=sampling.top_k, eos_token_id=case.stop_ids, pad_token_id=case.pad_id,
    )  # fmt: skip
    torch.manual_seed(1)
    found: Answers = {}
    for batch in arrival_batches(case):
        width = max(len(case.prompts[i]) for i in batch)
        ids_BT = torch.tensor([[case.pad_id] * (width - len(case.prompts[i])) + case.prompts[i] for i in batch])
        mask_BT = torch.tensor([[0] * (width - len(case.prompts[i])) + [1] * len(case.prompts[i]) for i in batch])
        device = case.model.device
        made = case.model.generate(ids_BT.to(device), attention_mask=mask_BT.to(device), generation_config=config)
        for i, ids in zip(batch, made[:, width:].tolist(), strict=True):
            ends = [n for n, token in enumerate(ids) if token in case.stop_ids]
            found[i] = ids[: ends[0] + 1] if ends else ids
    return found


def arrival_batches(case: Case) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    longest = 0
    for i, prompt in enumerate(case.prompts):
        longest = max(longest, len(prompt) + case.max_new_tokens)
        if batches[-1] and longest * (len(batches[-1]) + 1) > case.batch_tokens:
            batches.append([])
            longest = len(prompt) + case.max_new_tokens
        batches[-1].append(i)
    return batches


def measure(case: Case, ways: dict[str, Callable[[Case], Answers]], num_rounds: int, device: str) -> dict[str, list[float]]:
    """Answer tokens a second of each way, a figure a round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds):
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            gc.collect()
            answers: Answers = {}
            took = seconds(lambda way=way, answers=answers: answers.update(way(case)), device)
            lengths = [len(answers[i]) for i in range(len(case.prompts))]
            assert case.plan is None or lengths == case.plan, f"{name}: not the planned answers"
            found[name].append(sum(lengths) / took)
            print(f"{case.name}, round {number + 1}: {name} {found[name][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    return found


def ratio(ours_: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios within a round, and their range."""
    found = [a / b for a, b in zip(ours_, theirs, strict=True)]
    return f"**{statistics.median(found):.2f}x** ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="384x6", help="random Qwen3: width x layers")
    parser.add_argument("--prompts", type=int, default=192, help="prompts of the random teacher; twice as many of the quickstart's")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too")
    options = parser.parse_args()
    logging.set_verbosity_error()
    cases = [] if options.device == "cuda" else [quickstart_case(2 * options.prompts, options.batch_tokens)]
    vocab_size = 151_936 if options.device == "cuda" else 1024
    cases += [planned_case(options.shape, options.prompts, options.batch_tokens, vocab_size, options.device, options.dtype)]
    for case in cases:
        found = measure(case, {"ours": ours, "naive": naive}, options.rounds, options.device)
        print(case.name, ratio(found["ours"], found["naive"]))


if __name__ == "__main__":
    main()
