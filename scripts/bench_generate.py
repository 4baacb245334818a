#!/usr/bin/env python3
"""Our decoding beside `model.generate`, a GGUF teacher beside both, and how busy our client keeps a server.

    python scripts/bench_generate.py                        # about 20 minutes on 2 quiet cores
    python scripts/bench_generate.py --write BENCHMARKS.md  # replaces its own section there
    python scripts/bench_generate.py --device cuda --dtype bfloat16 --shape 2048x24 --batch-tokens 65536

`model.generate` is called as a short script does: batches in the order of arrival, cut at the same number of tokens
(longest prompt + longest possible answer, times rows), padded on the left, each until its longest answer ends. Ours is
what `distill generate` does (distill/models/batching.py, decode.py), the GGUF file what it does with teacher.gguf
(distill/teachers/gguf.py). Same weights, prompts, sampling values and threads; all in turns in one process, the
order turned round every other round; ratios are taken within a round. Only tokens of answers are counted, up to their
stop token; loading is not.

Teachers are the quickstart's own on its own prompts, which answers as long as it likes, and a random Qwen3 that is made
to answer in given lengths: log-normal (sigma 0.8), median 96, cut at 512 tokens; prompts log-normal (sigma 0.6), median
48. That is a chosen spread, not a measured one. A random model would not stop where a real one does, so its logits are
made, drawn from, and then bent to the planned answer: all of the work is done, and all must give answers of that length.

The server is llama.cpp's own on the quickstart's teacher, with 4 slots and 1 thread, in a process of its own. Busy is the
time that its slots worked on our requests, by its own clock (timings.prompt_ms + predicted_ms of each answer), over slots
x wall time, from our first request to the last answer. The same requests are also sent by a loop that does nothing else:
two blocking connections a slot, bodies made before, answers not read: what the server can do at best.
"""

import argparse
import gc
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from benchmark_sections import machine, replace_section, table
from measure_capture import seconds
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill import chat
from distill.core.jsonl import read_jsonl
from distill.data.samples import Prompt
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.models.batching import blocks_by_length
from distill.models.decode import Drawer, answer
from distill.models.find import stop_ids_of_files
from distill.models.load import Placement, load_model, load_tokenizer, stop_ids
from distill.models.sampling import Sampling
from distill.recipe import Recipe, load_recipe
from distill.teachers.gguf import MOST_SEQUENCES
from distill.teachers.requests import AnswerJob, Block, Request, RequestOptions
from distill.teachers.server import adapters
from distill.teachers.server.adapters import CompletionRequest
from distill.teachers.server.teacher import ServerTeacher

HEADING = "## Generation"
TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
NUM_SLOTS = 4
SERVE = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port, p.n_parallel = sys.argv[1], ["127.0.0.1"], 0, int(sys.argv[2])
p.n_ctx, p.cpuparams.n_threads, p.cpuparams_batch.n_threads, p.warmup = p.n_parallel * 256, 1, 1, False
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
time.sleep(7200)
"""
Answers = dict[int, list[int]]


@dataclass(frozen=True)
class Case:
    """A teacher and what it is asked. `plan`: number of tokens that each answer must have, where that is fixed."""

    name: str
    model: Any
    prompts: list[list[int]]
    sampling: Sampling
    pad_id: int
    vocab_size: int
    batch_tokens: int
    plan: list[int] | None = None


class Planned(Qwen3ForCausalLM):
    """A prompt's last token is its number; it is drawn again and again until the answer is as long as planned."""

    end_V: Any  # position after which the answer to the prompt of that number stops
    stop_id: int

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - only what both sides give, by name
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: Any = None,
        logits_to_keep: Any = 0,
        **named: Any,
    ) -> Any:
        found = super().forward(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **named,
        )
        assert position_ids is not None and found.logits is not None
        ids_N = input_ids[:, -1]  # all on the device, so that a step can be recorded
        chosen_N = ids_N.masked_fill(position_ids[:, -1] >= self.end_V[ids_N], self.stop_id)
        found.logits[:, -1].scatter_(1, chosen_N[:, None], 1e4)
        return found


def quickstart_case(num_prompts: int, batch_tokens: int) -> Case:
    tokenizer = load_tokenizer(str(TEACHER))
    model = load_model(str(TEACHER), Placement("cpu", "float32"))
    rows = [row for _, row in read_jsonl(TEACHER.parent / "prompts.jsonl")][:num_prompts]
    prompts = [
        chat.prompt_ids(tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows
    ]
    ends = chat.stop_ids(tokenizer, stop_ids(model))
    return Case(
        "quickstart's teacher",
        model,
        prompts,
        Sampling(1.0, max_new_tokens=96, stop_ids=tuple(ends)),
        tokenizer.pad_token_id,
        len(tokenizer),
        batch_tokens,
    )


def planned_case(
    shape: str, num_prompts: int, batch_tokens: int, vocab_size: int, device: str, dtype: str
) -> Case:
    """A random Qwen3 of width x layers (heads of 64, feed-forward 3 x width) and answers of planned lengths."""
    width, num_layers = map(int, shape.split("x"))
    draw = random.Random(1)
    lengths = [min(512, max(8, round(draw.lognormvariate(4.564, 0.8)))) for _ in range(num_prompts)]
    sizes = [min(256, max(12, round(draw.lognormvariate(3.871, 0.6)))) for _ in range(num_prompts)]
    numbers = range(vocab_size - num_prompts, vocab_size)
    prompts = [
        [*(draw.randrange(2, vocab_size - num_prompts) for _ in range(size - 1)), n]
        for size, n in zip(sizes, numbers, strict=True)
    ]
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        head_dim=64,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256),
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = Planned(config).to(getattr(torch, dtype)).eval()
    model.end_V = torch.zeros(vocab_size, dtype=torch.long)
    model.end_V[list(numbers)] = torch.tensor(
        [size + length - 2 for size, length in zip(sizes, lengths, strict=True)]
    )
    model.end_V, model.stop_id = model.end_V.to(device), 1
    name = f"Qwen3, {num_layers} layers of {width}, planned lengths"
    return Case(
        name,
        model,
        prompts,
        Sampling(0.7, 0.8, 20, 512, (1,)),
        0,
        vocab_size,
        batch_tokens,
        lengths,
    )


def ours(case: Case) -> Answers:
    found: Answers = {}
    widths = [len(prompt) + case.sampling.max_new_tokens for prompt in case.prompts]
    for block in blocks_by_length(widths, case.batch_tokens):

        def finished(i: int, ids: list[int], _reason: str, block: Any = block) -> None:
            found[block.indices[i]] = ids

        answer(
            case.model,
            [case.prompts[i] for i in block.indices],
            seeds=block.indices,
            sampling=case.sampling,
            pad_id=case.pad_id,
            on_finished=finished,
            vocab_size=case.vocab_size,
            num_slots=block.num_slots,
        )
    return found


def naive(case: Case) -> Answers:
    """`model.generate`, batch after batch."""
    sampling = case.sampling
    config = GenerationConfig(
        max_new_tokens=case.sampling.max_new_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        eos_token_id=list(case.sampling.stop_ids),
        pad_token_id=case.pad_id,
    )
    torch.manual_seed(1)
    found: Answers = {}
    for batch in arrival_batches(case):
        width = max(len(case.prompts[i]) for i in batch)
        ids_BT = torch.tensor(
            [[case.pad_id] * (width - len(case.prompts[i])) + case.prompts[i] for i in batch]
        )
        mask_BT = torch.tensor(
            [[0] * (width - len(case.prompts[i])) + [1] * len(case.prompts[i]) for i in batch]
        )
        device = case.model.device
        made = case.model.generate(
            ids_BT.to(device), attention_mask=mask_BT.to(device), generation_config=config
        )
        for i, ids in zip(batch, made[:, width:].tolist(), strict=True):
            ends = [n for n, token in enumerate(ids) if token in case.sampling.stop_ids]
            found[i] = ids[: ends[0] + 1] if ends else ids
    return found


def arrival_batches(case: Case) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    longest = 0
    for i, prompt in enumerate(case.prompts):
        longest = max(longest, len(prompt) + case.sampling.max_new_tokens)
        if batches[-1] and longest * (len(batches[-1]) + 1) > case.batch_tokens:
            batches.append([])
            longest = len(prompt) + case.sampling.max_new_tokens
        batches[-1].append(i)
    return batches


def measure(
    case: Case, ways: dict[str, Callable[[Case], Answers]], num_rounds: int, device: str
) -> dict[str, list[float]]:
    """Completion tokens a second of each way, a figure a round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds):
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            gc.collect()
            answers: Answers = {}
            took = seconds(lambda way=way, answers=answers: answers.update(way(case)), device)
            lengths = [len(answers[i]) for i in range(len(case.prompts))]
            assert case.plan is None or lengths == case.plan, f"{name}: not the planned answers"
            found[name].append(sum(lengths) / took)
            print(
                f"{case.name}, round {number + 1}: {name} {found[name][-1]:,.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def ratio(ours_: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios within a round, and their range."""
    found = [a / b for a, b in zip(ours_, theirs, strict=True)]
    return f"**{statistics.median(found):.2f}x** ({min(found):.2f} to {max(found):.2f})"


def gguf_way(
    case: Case, file_type: str, folder: Path, stack: ExitStack
) -> Callable[[Case], Answers]:
    """Answers by llama.cpp from the case's own weights, written as `file_type`; with as many sequences as there are slots."""
    source = TEACHER
    if case.plan is not None:
        source = folder / "planned"
        case.model.save_pretrained(source)
        config = source / "config.json"
        config.write_text(config.read_text().replace("Planned", "Qwen3ForCausalLM"))
        load_tokenizer(str(TEACHER)).save_pretrained(source)
    path = folder / f"{len(list(folder.iterdir()))}-{file_type}.gguf"
    write_gguf(source, path, file_type, metadata={})
    longest = max(map(len, case.prompts)) + case.sampling.max_new_tokens
    num_sequences = min(MOST_SEQUENCES, case.batch_tokens // longest)

    def way(case: Case) -> Answers:
        found: Answers = {}
        drawer = Drawer(range(len(case.prompts)), case.sampling, case.vocab_size)

        def choose(logits_NV: Any, places: Sequence[tuple[int, int]]) -> list[int]:
            drawn = drawer(torch.from_numpy(logits_NV), places)
            if case.plan is None:
                return drawn
            ends = [step == case.plan[index] - 1 for index, step in places]
            return [
                case.sampling.stop_ids[0] if end else case.prompts[index][-1]
                for end, (index, _) in zip(ends, places, strict=True)
            ]

        llama.generate(
            case.prompts,
            case.sampling.max_new_tokens,
            case.sampling.stop_ids,
            on_done=found.__setitem__,
            choose=choose,
        )
        return found

    threads = torch.get_num_threads()
    llama = stack.enter_context(
        LlamaModel(path, num_threads=threads, context_length=longest, num_sequences=num_sequences)
    )
    return way


def busy(num_requests: int, num_rounds: int, folder: Path) -> tuple[list[float], list[float]]:
    """(share of the slots' time that our client fills, its tokens a second over the best load's), a figure a round."""
    path = folder / "served.gguf"
    write_gguf(TEACHER, path, "f16", metadata={})
    tokenizer = load_tokenizer(str(TEACHER))
    rows = [row for _, row in read_jsonl(TEACHER.parent / "prompts.jsonl")][:num_requests]
    shares, ratios = [], []
    command = [sys.executable, "-c", SERVE, str(path), str(NUM_SLOTS)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        url = next(line.strip() for line in child.stdout if line.startswith("http"))
        recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", [f"teacher.server={url}"])
        sampling = Sampling(
            1.0, 1.0, 0, 96, tuple(chat.stop_ids(tokenizer, stop_ids_of_files(str(TEACHER))))
        )
        questions = []
        for i, row in enumerate(rows):
            messages = [{"role": "user", "content": row["prompt"]}]
            prompt_ids = chat.prompt_ids(tokenizer, messages)
            questions.append(CompletionRequest(str(i), messages, prompt_ids, i))
        ways: dict[str, Callable[[], tuple[float, float, int]]] = {
            "ours": lambda: our_client(recipe, questions, sampling),
            "best": lambda: best_load(url, questions, sampling),
        }
        for number in range(num_rounds):
            speed = {}
            for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
                worked, took, num_tokens = way()
                speed[name] = num_tokens / took
                share = worked / (NUM_SLOTS * took)
                print(
                    f"server, round {number + 1}: {name} {speed[name]:,.0f} tokens/s, busy {share:.1%}",
                    file=sys.stderr,
                    flush=True,
                )
                shares += [share] if name == "ours" else []
            ratios.append(speed["ours"] / speed["best"])
        child.kill()
    return shares, ratios


def our_client(
    recipe: Recipe, questions: list[CompletionRequest], sampling: Sampling
) -> tuple[float, float, int]:
    """(seconds that slots worked, seconds from the first request to the last answer, answer tokens)."""
    found: list[dict[str, Any]] = []
    started: list[float] = []
    requests = [
        Request(q.key, Prompt(tuple(q.messages), "en"), q.prompt_ids, 0, q.seed) for q in questions
    ]
    adapter: Any = adapters.LlamaCpp
    read, body = adapter.read, adapter.body

    def noted_read(answer: dict[str, Any]) -> Any:
        found.append(answer)
        return read(answer)

    def noted_body(*arguments: Any) -> Any:
        started.append(time.perf_counter())
        return body(*arguments)

    adapter.read, adapter.body = staticmethod(noted_read), staticmethod(noted_body)
    try:
        ServerTeacher(recipe).answer(
            AnswerJob(
                iter([Block(requests)]),
                RequestOptions(sampling),
                {},
                lambda *_: None,
                lambda _: None,
            )
        )
    finally:
        adapter.read, adapter.body = staticmethod(read), staticmethod(body)
    took = time.perf_counter() - started[1]  # the first asked what the server can do
    # `read` is called twice an answer: once to check it, once to take it
    timings = {id(answer): answer["timings"] for answer in found[2:]}.values()
    assert len(timings) == len(questions)
    return worked_seconds(timings), took, sum(t["predicted_n"] for t in timings)


def best_load(url: str, questions: list[Any], sampling: Any) -> tuple[float, float, int]:
    bodies = deque(json.dumps(adapters.LlamaCpp.body("", q, sampling)).encode() for q in questions)
    answers: list[bytes] = []

    def work() -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        while bodies:
            try:
                body = bodies.popleft()
            except IndexError:
                break
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            answers.append(connection.getresponse().read())
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(2 * NUM_SLOTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    timings = [json.loads(answer)["timings"] for answer in answers]
    return worked_seconds(timings), took, sum(t["predicted_n"] for t in timings)


def worked_seconds(timings: Iterable[dict[str, float]]) -> float:
    return sum(t["prompt_ms"] + t["predicted_ms"] for t in timings) / 1000


def section(
    results: list[tuple[Case, dict[str, list[float]]]],
    server: tuple[list[float], list[float]] | None,
    rounds: int,
) -> str:
    rows = []
    for case, found in results:
        for name, speeds in found.items():
            rows.append(
                [
                    f"{case.name}: {name}",
                    f"{statistics.median(speeds):,.0f}",
                    ratio(speeds, found["model.generate"]),
                ]
            )
    text = f"""{HEADING}

`scripts/bench_generate.py`, {rounds} rounds, medians and ranges; what is compared stands at the top of the script. {machine()}.

{table(["way", "answer tokens/s", "/ model.generate"], rows)}
"""
    if server is None:
        return text
    return f"""{text}
llama.cpp's own server as teacher, {NUM_SLOTS} slots, all processes on the same cores (target: 95 % busy):

{table(["our client", "share"], [["slots busy", spread(server[0])], ["tokens/s of the best load", spread(server[1])]])}
"""


def spread(shares: Sequence[float]) -> str:
    return f"**{statistics.median(shares):.1%}** ({min(shares):.1%} to {max(shares):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="512x6", help="random Qwen3: width x layers")
    parser.add_argument(
        "--prompts",
        type=int,
        default=384,
        help="prompts of the random teacher; twice as many of the quickstart's",
    )
    parser.add_argument("--requests", type=int, default=600, help="to the server; 0 = no server")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    results = []
    cases = (
        []
        if options.device == "cuda"
        else [quickstart_case(2 * options.prompts, options.batch_tokens)]
    )
    vocab_size = 151_936 if options.device == "cuda" else 1024
    cases += [
        planned_case(
            options.shape,
            options.prompts,
            options.batch_tokens,
            vocab_size,
            options.device,
            options.dtype,
        )
    ]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for case in cases:
            ways: dict[str, Callable[[Case], Answers]] = {"ours": ours, "model.generate": naive}
            if options.device == "cpu":
                kind = (
                    "q8_0" if case.plan is None else "q4_k_m"
                )  # the quickstart's rows are too short for Q4_K
                ways |= {f"GGUF, {k}": gguf_way(case, k, Path(name), stack) for k in ("f16", kind)}
            results.append((case, measure(case, ways, options.rounds, options.device)))
        server = busy(options.requests, options.rounds, Path(name)) if options.requests else None
    text = section(results, server, options.rounds)
    print(text)
    if options.write:
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
