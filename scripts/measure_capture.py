#!/usr/bin/env python3
"""What capture costs on top of the teacher's own forward pass, which ends in its logits at the answer tokens.

    python scripts/measure_capture.py                        # about 5 minutes on 2 quiet cores, 8 GB of memory
    python scripts/measure_capture.py --write BENCHMARKS.md  # replaces its own section there
    python scripts/measure_capture.py --models 1024x28 --device cuda --dtype bfloat16

Two things are timed on the same batch, in turns: (a) the hidden states, and from them the logits chunk by chunk, which
are thrown away; (b) the same with all that `distill capture` does with them (distill/teachers/records.py: records_of; distill/
signals/store.py: SignalWriter): 50 draws a token, log-prob and entropy, encoding, checksums, shards on disk with fsync.
The cost is b / a - 1 of each pair; median and quartiles over the pairs are shown.

Teachers are the quickstart's own on its own answers, and Qwen3 models of a given width and depth at Qwen's vocabulary
with random weights. Weights do not change the time, but how peaked the distribution is does: the last norm is scaled so
that a token's mean entropy is 1.8 nats, as in the signal's other figures. With Gaussian logits that is a few likely
ids and a long flat tail.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import machine, replace_section, table
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill import chat
from distill.core.jsonl import read_jsonl
from distill.models.decode import answer
from distill.models.head import Head, head_of
from distill.models.load import Placement, load_model, load_tokenizer, stop_ids
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, answer_hidden_states, logit_chunks
from distill.signals import draws, store
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of

HEADING = "## What capture costs"
QWEN_VOCAB = 151_936
NUM_DRAWS = 50
NATS = 1.8
PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """A teacher and the batch that it reads."""

    name: str
    model: Any
    head: Head
    vocab_size: int
    sequences: list[TokenSequence]

    @property
    def num_tokens(self) -> int:
        return sum(s.num_answer_tokens for s in self.sequences)


def quickstart_case() -> Case:
    folder = ROOT / "recipes" / "quickstart"
    tokenizer = load_tokenizer(str(folder / "teacher"))
    model = load_model(str(folder / "teacher"), Placement("cpu", "float32"))
    rows = [row for _, row in read_jsonl(folder / "prompts.jsonl")][:64]
    prompts = [
        chat.prompt_ids(tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows
    ]
    answers: dict[int, list[int]] = {}
    ends = chat.stop_ids(tokenizer, stop_ids(model))
    answer(
        model,
        prompts,
        seeds=range(len(prompts)),
        sampling=Sampling(1.0, max_new_tokens=96, stop_ids=tuple(ends)),
        pad_id=tokenizer.pad_token_id,
        on_finished=lambda i, ids, _: answers.__setitem__(i, ids),
    )
    sequences = [TokenSequence(p + answers[i], len(p)) for i, p in enumerate(prompts)]
    return Case("quickstart's teacher", model, head_of(model), len(tokenizer), sequences)


def random_case(width: int, num_layers: int, num_tokens: int, device: str, dtype: str) -> Case:
    """A Qwen3 of `width` (heads of 128, feed-forward 3 x width, as Qwen3-0.6B has) and two answers in one batch."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=QWEN_VOCAB,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    generator = torch.Generator().manual_seed(2)
    lengths = [num_tokens // 2 + num_tokens // 8, num_tokens // 2 - num_tokens // 8]
    rows = [
        torch.randint(QWEN_VOCAB, (PROMPT_TOKENS + n,), generator=generator).tolist()
        for n in lengths
    ]
    sequences = [TokenSequence(ids, PROMPT_TOKENS) for ids in rows]
    sharpen(model, sequences)
    return Case(
        f"Qwen3, {num_layers} layers of {width}", model, head_of(model), QWEN_VOCAB, sequences
    )


@torch.no_grad()
def sharpen(model: Any, sequences: list[TokenSequence]) -> None:
    """Scale the last norm until the mean entropy is NATS, by bisection on 64 positions."""
    hidden_NH = torch.cat(answer_hidden_states(model, sequences, 0)).float()
    hidden_NH = hidden_NH[:: max(1, len(hidden_NH) // 64)]
    logits_NV = hidden_NH @ model.get_output_embeddings().weight.float().T
    low, high = 0.1, 1000.0
    for _ in range(25):
        scale = (low * high) ** 0.5
        logp_NV = (logits_NV * scale).log_softmax(-1)
        nats = float(-(logp_NV.exp() * logp_NV).nansum(-1).mean())
        low, high = (scale, high) if nats > NATS else (low, scale)
    model.base_model.norm.weight.mul_((low * high) ** 0.5)


def forward(case: Case) -> None:
    hidden = answer_hidden_states(case.model, case.sequences, 0)
    for _part, _logits_NV in logit_chunks(case.head, torch.cat(hidden)):
        pass


def capture(case: Case, folder: Path) -> None:
    """What distill/capture.py does with a batch, and a shard at its end."""
    header = SignalHeader("sampled", case.vocab_size, num_draws=NUM_DRAWS)
    keys = [sequence_key(s.ids, s.answer_start) for s in case.sequences]
    with SignalWriter(folder, header) as writer:
        hidden = answer_hidden_states(case.model, case.sequences, 0)
        answers = [s.ids[s.answer_start :] for s in case.sequences]
        for key, record in zip(
            keys, records_of(header, case.head, hidden, answers, keys), strict=True
        ):
            writer.add(key, record)


def seconds(work: Callable[[], None], device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, num_pairs: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forward(case)
        capture(case, folder / "first")
        signal = SignalStore(folder / "first")
        assert signal.num_tokens == case.num_tokens
        pairs: list[tuple[float, float]] = []
        for number in range(num_pairs):
            times: dict[str, float] = {}
            works = [
                ("a", lambda: forward(case)),
                ("b", lambda n=number: capture(case, folder / str(n))),
            ]
            for which, work in works if number % 2 else reversed(works):
                times[which] = seconds(work, device)
            pairs.append((times["a"], times["b"]))
        parts = profile(lambda: capture(case, folder / "profile"), device)
        records: list[Any] = [*map(signal.read, signal.keys())]
        entropy = statistics.mean(float(nats) for record in records for nats in record.entropy)
    low, middle, high = statistics.quantiles([b / a - 1 for a, b in pairs], n=4)
    return {
        "case": case,
        "parameters": case.model.num_parameters(),
        "nats": entropy,
        "cost": (low, middle, high),
        "forward_us": statistics.median(a for a, _ in pairs) / case.num_tokens * 1e6,
        "parts_us": {part: s / case.num_tokens * 1e6 for part, s in parts.items()},
    }


def profile(work: Callable[[], None], device: str) -> dict[str, float]:
    """Seconds that each part of the capture takes for itself, by a clock around the functions of distill."""
    spent: dict[str, float] = defaultdict(float)
    with (
        _timed(draws, "draw", spent),
        _timed(draws, "_stratified_uniforms", spent),
        _timed(draws, "_invert", spent),
        _timed(draws, "_record", spent),
        _timed(store, "encode", spent),
        _timed(SignalWriter, "flush", spent),
    ):
        seconds(work, device)
    inner = spent["_stratified_uniforms"] + spent["_invert"] + spent["_record"]
    return {
        "uniform numbers": spent["_stratified_uniforms"],
        "weights, log-prob, entropy": spent["draw"] - inner,
        "ids": spent["_invert"],
        "counts": spent["_record"],
        "encoding": spent["encode"],
        "shards": spent["flush"],
    }


@contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float]) -> Iterator[None]:
    function = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - started

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


def section(results: list[dict[str, Any]], num_pairs: int) -> str:
    rows, parts = [], []
    for result in results:
        case, (low, middle, high) = result["case"], result["cost"]
        rows.append(
            [
                case.name,
                f"{result['parameters'] / 1e6:,.1f} M",
                f"{case.vocab_size:,}",
                f"{result['nats']:.2f}",
                f"{result['forward_us']:,.0f}",
                f"**{middle:+.1%}**",
                f"{low:+.1%} to {high:+.1%}",
            ]
        )
        parts.append([case.name, *(f"{us:,.1f}" for us in result["parts_us"].values())])
    head = [
        "teacher",
        "parameters",
        "V",
        "entropy, nats",
        "(a) its forward, µs a token",
        "capture costs",
        "quartiles",
    ]
    return f"""{HEADING}

`scripts/measure_capture.py`: (a) the teacher's forward pass with logits at the answer tokens, (b) the same with everything that
`capture` does with them, in turns, {num_pairs} pairs; the cost is b / a - 1. {machine()}.

{table(head, rows)}

Where it goes, µs an answer token:

{table(["teacher", *results[0]["parts_us"]], parts)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="*",
        default=["256x4", "512x8", "1024x28"],
        help="random Qwen3s: width x layers",
    )
    parser.add_argument(
        "--no-quickstart", action="store_true", help="leave the quickstart's own teacher out"
    )
    parser.add_argument(
        "--tokens", type=int, default=256, help="answer tokens of a random teacher's batch"
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    results = [] if options.no_quickstart else [measure(quickstart_case(), options.pairs, "cpu")]
    for shape in options.models:
        width, num_layers = map(int, shape.split("x"))
        case = random_case(width, num_layers, options.tokens, options.device, options.dtype)
        results.append(measure(case, options.pairs, options.device))
        print(f"{case.name}: {results[-1]['cost'][1]:+.1%}", file=sys.stderr, flush=True)
    text = section(results, options.pairs)
    print(text)
    if options.write:
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
