#!/usr/bin/env python3
"""What a stored signal costs on disk and what it is worth: bytes a token, angle, calibration and NLL of a student.

    python scripts/measure_signal.py                        # about 5 minutes on 2 quiet cores, 2 GB of memory
    python scripts/measure_signal.py --write BENCHMARKS.md  # replaces its own sections there
    python scripts/measure_signal.py --text FOLDER          # the teacher goes on with lines of *.txt, *.tsv in there
    python scripts/measure_signal.py --quickstart           # it answers the quickstart's prompts, and is nearly certain

The teacher is the quickstart's own. It goes on with lines of text, where it is unsure
(or answers the quickstart's prompts, where there is no text), at temperature 1; each signal is
captured on those answers, stored in shards, read back, and trained on by the real losses: the same small students, the
same steps, the same order. A student of plain cross-entropy on the same tokens stands beside them.

angle   degrees between the gradient of all the student's parameters by the signal, as it was stored, and by the
        teacher's exact distribution, over one optimizer step and over --angle-steps of them together, where the
        noise of draws has averaged out and a bias has not; at a cross-entropy student that is half trained.
ECE     expected calibration error (Guo et al. 2017, arXiv 1706.04599, 15 equal bins): over held-out answers, the
        trained student's top-token probability against how often that token is the one that the teacher drew.
NLL     nats a token on the same held-out answers. The teacher's own entropy there is the floor.
KL      of teacher and student there, from both whole distributions: NLL without the luck of the drawn token.

Top-k without the tail bucket is the cross-entropy to the k probabilities made to sum to 1 (`teacher renormalised`).
The entropy bound of a record is that of a source where any set of ids is as likely as any other, and any division of
the draws among them, plus the float16 numbers as they are. Real draws are divided unevenly, which an encoder may use:
it can end a little below.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from benchmark_sections import machine, replace_section, table
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill import chat
from distill.core.jsonl import read_jsonl
from distill.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets
from distill.models.decode import answer
from distill.models.head import Head, head_of, logits
from distill.models.load import Placement, load_model, load_tokenizer, stop_ids
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, answer_hidden_states
from distill.recipe.sections import Train
from distill.signals.collate import targets
from distill.signals.encoding import SampledRecord, SignalRecord, TopKRecord
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of
from distill.training.batches import Batch, collate, plan_epoch
from distill.training.schedule import learning_rate
from distill.training.student import StudentLoss

HEADING = "## What a signal costs and what it is worth"
QWEN_VOCAB = 151_936
TEXT = (
    ROOT.parent / "shared" / "data" / "sib200"
)  # real sentences in 15 languages, on a developer's machine
# name, fields of the header, whether the tail bucket is used
SIGNALS: list[tuple[str, dict[str, Any], bool]] = [
    ("dense", {"kind": "dense"}, True),
    *[(f"{n} draws", {"kind": "sampled", "num_draws": n}, True) for n in (25, 50, 100)],
    *[(f"top {k} + tail", {"kind": "top_k", "top_k": k}, True) for k in (8, 20, 64)],
    *[(f"top {k}, no tail", {"kind": "top_k", "top_k": k}, False) for k in (8, 20, 64)],
]
CROSS_ENTROPY = "cross-entropy"
ECE_BINS = 15
# two-sided 95 % of Student's t by number of seeds
T_95 = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


@dataclass(frozen=True)
class Answers:
    """Sequences with answers that the teacher drew, and the hidden states from which it drew them, [T, H] each."""

    sequences: list[TokenSequence]
    hidden: list[Tensor]

    @property
    def keys(self) -> list[str]:
        return [sequence_key(s.ids, s.answer_start) for s in self.sequences]

    def __getitem__(self, part: slice) -> "Answers":
        return Answers(self.sequences[part], self.hidden[part])


@dataclass(frozen=True)
class Bench:
    head: Head  # the teacher's
    vocab_size: int
    pad_id: int
    train: Answers
    held_out: Answers
    steps: int
    rows: int  # of a step
    longest: int


def answers_of_the_teacher(
    num: int, text: Path | None, max_new_tokens: int
) -> tuple[Any, Any, Answers]:
    """(teacher, tokenizer, its answers to `num` prompts, drawn at temperature 1 and never filtered)."""
    folder = ROOT / "recipes" / "quickstart"
    tokenizer = load_tokenizer(str(folder / "teacher"))
    model = load_model(str(folder / "teacher"), Placement("cpu", "float32"))
    if text is None:
        rows = [row for _, row in read_jsonl(folder / "prompts.jsonl")][:num]
        prompts = [
            chat.prompt_ids(tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows
        ]
    else:
        prompts = [tokenizer(line).input_ids[:32] for line in lines_of(text, num)]
    stops = chat.stop_ids(tokenizer, stop_ids(model))
    sequences, hidden = [], []
    for start in range(0, len(prompts), 128):
        batch, answers = prompts[start : start + 128], dict[int, list[int]]()
        answer(
            model,
            batch,
            seeds=range(start, start + len(batch)),
            sampling=Sampling(1.0, max_new_tokens=max_new_tokens, stop_ids=tuple(stops)),
            pad_id=tokenizer.pad_token_id,
            on_finished=lambda i, ids, _, a=answers: a.__setitem__(i, ids),
        )
        made = [TokenSequence(prompt + answers[i], len(prompt)) for i, prompt in enumerate(batch)]
        sequences += made
        hidden += answer_hidden_states(model, made, tokenizer.pad_token_id)
    return model, tokenizer, Answers(sequences, hidden)


def lines_of(folder: Path, num: int) -> list[str]:
    """`num` lines of at least 40 characters, spread over the files; of a table the last column."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".tsv"))
    lines = [
        line.split("\t")[-1].strip()
        for p in files
        for line in p.read_text(encoding="utf-8").splitlines()
    ]
    lines = [line for line in lines if len(line) >= 40]
    if len(lines) < num:
        sys.exit(
            f"{folder}: {len(lines)} lines of 40 characters in {len(files)} .txt and .tsv files, {num} are needed"
        )
    return [lines[i * len(lines) // num] for i in range(num)]


def store_signal(
    folder: Path, fields: dict[str, Any], answers: Answers, bench: Bench
) -> SignalStore:
    header = SignalHeader(vocab_size=bench.vocab_size, **fields)
    if folder.exists():  # with and without the tail bucket are two readings of one file
        return SignalStore(folder, header)
    own = [s.ids[s.answer_start :] for s in answers.sequences]
    with SignalWriter(folder, header) as writer:
        for key, record in zip(
            answers.keys,
            records_of(header, bench.head, answers.hidden, own, answers.keys),
            strict=True,
        ):
            writer.add(key, record)
    return SignalStore(folder, header)


def without_tail(said: Targets) -> SampledTargets:
    """Its k probabilities, made to sum to 1."""
    assert isinstance(said, TopKTargets)
    return SampledTargets(said.ids_NK, said.logp_NK.softmax(-1))


def said_by(store: SignalStore | None, has_tail: bool, keys: Sequence[str]) -> Targets | None:
    if store is None:
        return None
    said = targets([store.read(key) for key in keys], "cpu")
    return said if has_tail else without_tail(said)


def exact_logp(bench: Bench, hidden: Sequence[Tensor]) -> Tensor:
    """[N, V], the teacher's distribution before anything was stored."""
    with torch.no_grad():
        return (
            logits(bench.head, torch.cat(list(hidden)))
            .float()[:, : bench.vocab_size]
            .log_softmax(-1)
        )


def student_of(bench: Bench, seed: int) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=bench.vocab_size,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=32,
            tie_word_embeddings=True,
        )
    )


def plan(bench: Bench, seed: int) -> list[list[list[int]]]:
    """The rows of every step, epoch after epoch until there are enough."""
    lengths = [len(s.ids) for s in bench.train.sequences]
    steps: list[list[list[int]]] = []
    while len(steps) < bench.steps:
        steps += plan_epoch(
            lengths,
            max_length=bench.longest,
            batch_tokens=bench.rows * bench.longest,
            seed=seed,
            epoch=len(steps),
        )
    return steps[: bench.steps]


def batch_of(bench: Bench, rows: list[list[int]]) -> tuple[Batch, list[int]]:
    """(the batch, its samples in the order of its tokens)."""
    sequences = bench.train.sequences
    batch = collate(
        [[(sequences[i].ids, sequences[i].answer_start) for i in row] for row in rows], bench.pad_id
    )
    return batch, [i for row in rows for i in row]


def train(
    bench: Bench, store: SignalStore | None, has_tail: bool, seed: int, num_steps: int | None = None
) -> Any:
    """A student after its steps; without a store, by cross-entropy. Also stops after `num_steps` of them."""
    options = Train(learning_rate=4e-3, weight_decay=0.05)
    model = student_of(bench, seed)
    module = StudentLoss(model, options, bench.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.05)
    soft_weight = 0.0 if store is None else 1.0
    keys = bench.train.keys
    for step, rows in enumerate(plan(bench, seed)[:num_steps]):
        batch, chosen = batch_of(bench, rows)
        said = said_by(store, has_tail, [keys[i] for i in chosen])
        loss, _ = module(batch, said, soft_weight, 1.0 - soft_weight)
        optimizer.zero_grad()
        (loss / len(batch.labels_N)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(
            options.learning_rate, step, bench.steps, warmup_share=options.warmup_share
        )
        optimizer.step()
    return model.eval()


def gradient(bench: Bench, model: Any, batch: Batch, said: Targets) -> Tensor:
    model.zero_grad()
    loss, _ = StudentLoss(model, Train(), bench.vocab_size)(batch, said, 1.0, 0.0)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def degrees_between(a: Tensor, b: Tensor) -> float:
    """By the chord and not the arc cosine, which loses the small angles to rounding."""
    chord = (a / a.norm() - b / b.norm()).norm().item()
    return math.degrees(2 * math.asin(min(1.0, chord / 2)))


def angles(
    bench: Bench, stores: dict[str, tuple[SignalStore, bool]], seed: int, num_steps: int
) -> dict[str, list[float]]:
    """For each signal its angle over each of `num_steps` steps, and last the one over all their tokens together."""
    model = train(bench, None, True, seed, bench.steps // 2)
    keys, found = bench.train.keys, {name: list[float]() for name in stores}
    sums: dict[str, Any] = dict.fromkeys([*stores, "exact"], 0.0)
    for rows in plan(bench, seed + 1000)[:num_steps]:
        batch, chosen = batch_of(bench, rows)
        exact = gradient(
            bench,
            model,
            batch,
            DenseTargets(exact_logp(bench, [bench.train.hidden[i] for i in chosen])),
        )
        sums["exact"] += exact
        for name, (store, has_tail) in stores.items():
            said = said_by(store, has_tail, [keys[i] for i in chosen])
            assert said is not None
            by_signal = gradient(bench, model, batch, said)
            sums[name] += by_signal
            found[name].append(degrees_between(by_signal, exact))
    return {name: [*found[name], degrees_between(sums[name], sums["exact"])] for name in stores}


def calibration_error(confidence_N: Tensor, correct_N: Tensor) -> float:
    """Σ over bins of share of tokens · |mean confidence − share correct|; `ECE_BINS` equal bins of [0, 1]."""
    bin_N = (confidence_N * ECE_BINS).long().clamp(max=ECE_BINS - 1)
    gaps = torch.zeros(ECE_BINS, dtype=torch.float64).index_add_(
        0, bin_N, (confidence_N - correct_N.float()).double()
    )
    return (gaps.abs().sum() / len(confidence_N)).item()


@torch.no_grad()
def judge(bench: Bench, model: Any, teacher_logp_NV: Tensor) -> dict[str, float]:
    """{"ece", "nll", "kl"} of a student on the held-out answers."""
    labels_N = torch.tensor([t for s in bench.held_out.sequences for t in s.ids[s.answer_start :]])
    parts = []
    for start in range(0, len(bench.held_out.sequences), 32):
        hidden = answer_hidden_states(
            model, bench.held_out.sequences[start : start + 32], bench.pad_id
        )
        parts.append(logits(head_of(model), torch.cat(hidden)).float().log_softmax(-1))
    logp_NV = torch.cat(parts)
    top = logp_NV.max(-1)
    return {
        "ece": calibration_error(top.values.exp(), top.indices == labels_N),
        "nll": -logp_NV.gather(1, labels_N[:, None]).mean().item(),
        "kl": (teacher_logp_NV.exp() * (teacher_logp_NV - logp_NV)).sum(-1).mean().item(),
    }


def bound(record: SignalRecord, vocab_size: int) -> float | None:
    """Least bytes a token of what a record says, for ids that may be anywhere; None for a dense one."""
    if isinstance(record, SampledRecord):
        num_draws = int(record.counts[: record.offsets[1]].sum())
        bits = [
            _log2_choose(vocab_size, size) + _log2_choose(num_draws - 1, size - 1)
            for size in np.diff(record.offsets).tolist()
        ]
        return 4 + (math.log2(num_draws) + statistics.mean(bits)) / 8
    if isinstance(record, TopKRecord):
        k = record.ids.shape[1]
        return 2 * k + 2 + _log2_choose(vocab_size, k) / 8
    return None


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def bytes_at_qwens_vocabulary(folder: Path) -> tuple[dict[str, tuple[float, float | None]], float]:
    """({signal: (bytes a token of the shards on disk, bound)}, mean entropy) for a Zipf-like teacher of 1.8 nats.

    The teacher of tests/signals: slopes of 1.22 to 2.3, a first id that stands out, ids in any order, which is dearest.
    """
    generator = torch.Generator().manual_seed(5)
    slopes_N = torch.empty(32).uniform_(1.22, 2.3, generator=generator)
    logits_NV = -slopes_N[:, None] * torch.arange(1.0, QWEN_VOCAB + 1).log()
    logits_NV[:, 0] += torch.empty(32).exponential_(generator=generator)
    logits_NV = logits_NV[:, torch.randperm(QWEN_VOCAB, generator=generator)]
    logp_NV = logits_NV.log_softmax(-1)
    head = Head(logits_NV.T.contiguous())  # hidden states of a single 1 take out its columns
    found = {}
    for name, fields, has_tail in SIGNALS:
        if not has_tail:
            continue  # the same file
        header = SignalHeader(vocab_size=QWEN_VOCAB, **fields)
        copies, num = (
            (1, 1) if header.kind == "dense" else (8, 4)
        )  # 4 sequences of 256 tokens; one of 32 is 10 MB dense
        hidden = [torch.eye(32).repeat(copies, 1)] * num
        own = [[int(logp_NV[i % 32].argmax()) for i in range(32 * copies)]] * num
        keys = [sequence_key([i], 0) for i in range(num)]
        with SignalWriter(folder / name, header) as writer:
            records = list(records_of(header, head, hidden, own, keys))
            for key, record in zip(keys, records, strict=True):
                writer.add(key, record)
        store = SignalStore(folder / name, header)
        least = [bound(record, QWEN_VOCAB) for record in records]
        found[name] = (
            store.num_bytes / store.num_tokens,
            None if least[0] is None else statistics.mean(b for b in least if b),
        )
    return found, float(-(logp_NV.exp() * logp_NV).sum(-1).mean())


def measure(options: argparse.Namespace) -> str:
    num = options.samples + options.held_out
    model, tokenizer, all_answers = answers_of_the_teacher(
        num, options.text, options.max_new_tokens
    )
    bench = Bench(
        head=head_of(model),
        vocab_size=len(tokenizer),
        pad_id=tokenizer.pad_token_id,
        train=all_answers[: options.samples],
        held_out=all_answers[options.samples :],
        steps=options.steps,
        rows=12,
        longest=192,
    )
    teacher_logp_NV = exact_logp(bench, bench.held_out.hidden)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, nats = bytes_at_qwens_vocabulary(folder / "large")
        stores = {
            name: (
                store_signal(
                    folder / name.split(" +")[0].split(",")[0], fields, bench.train, bench
                ),
                has_tail,
            )
            for name, fields, has_tail in SIGNALS
        }
        say(f"{options.samples} answers of the teacher and {len(stores)} signals are stored")
        seeds = range(options.seeds)
        turned = [angles(bench, stores, seed, options.angle_steps) for seed in seeds]
        say("angles are measured")
        judged: dict[str, list[dict[str, float]]] = {name: [] for name in [*stores, CROSS_ENTROPY]}
        for seed in seeds:
            for name in judged:
                store, has_tail = stores.get(name, (None, True))
                judged[name].append(
                    judge(bench, train(bench, store, has_tail, seed), teacher_logp_NV)
                )
            say(f"{len(judged)} students of seed {seed} are trained")
        return section(
            bench,
            {n: s for n, (s, _) in stores.items()},
            turned,
            judged,
            teacher_logp_NV,
            large,
            nats,
            options,
        )


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def against_dense(name: str, judged: dict[str, list[dict[str, float]]]) -> str:
    """The mean difference of KL of paired seeds with its 95 % interval; in brackets where that holds 0."""
    if name == "dense":
        return "-"
    differences = [a["kl"] - b["kl"] for a, b in zip(judged[name], judged["dense"], strict=True)]
    half = T_95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    middle = statistics.mean(differences)
    text = f"{middle:+.4f} ± {half:.4f}"
    return f"({text})" if abs(middle) <= half else f"**{text}**"


def section(
    bench: Bench,
    stores: dict[str, SignalStore],
    turned: list[dict[str, list[float]]],
    judged: dict[str, list[dict[str, float]]],
    teacher_logp_NV: Tensor,
    large: dict[str, tuple[float, float | None]],
    nats: float,
    options: argparse.Namespace,
) -> str:
    sizes, worth = [], []
    for name in judged:
        columns = {key: [seed[key] for seed in judged[name]] for key in ("ece", "nll", "kl")}
        line = [
            f"{statistics.mean(columns['ece']):.2%}",
            mean_and_spread(columns["nll"], 4),
            mean_and_spread(columns["kl"], 4),
            against_dense(name, judged),
        ]
        if name == CROSS_ENTROPY:
            worth.append([name, "-", "-", *line])
            continue
        steps = [degrees for seed in turned for degrees in seed[name][:-1]]
        together = [seed[name][-1] for seed in turned]
        worth.append([name, mean_and_spread(steps, 2), mean_and_spread(together, 2), *line])
        if name.endswith("no tail"):
            continue  # the same files
        store = stores[name]
        records: list[SignalRecord] = [*map(store.read, store.keys())]
        small_bounds = [
            b for r in records if r.num_tokens and (b := bound(r, bench.vocab_size)) is not None
        ]
        small = statistics.mean(small_bounds) if small_bounds else None
        sizes.append(
            [
                name,
                f"{large[name][0]:,.1f}",
                *_bound_and_ratio(*large[name]),
                f"{store.num_bytes / store.num_tokens:,.1f}",
                *_bound_and_ratio(store.num_bytes / store.num_tokens, small),
            ]
        )
    labels_N = torch.tensor([t for s in bench.held_out.sequences for t in s.ids[s.answer_start :]])
    entropy = float(-(teacher_logp_NV.exp() * teacher_logp_NV).sum(-1).mean())
    teacher_nll = -teacher_logp_NV.gather(1, labels_N[:, None]).mean().item()
    top = teacher_logp_NV.max(-1)
    teacher_ece = calibration_error(top.values.exp(), top.indices == labels_N)
    num_tokens = next(iter(stores.values())).num_tokens
    source = (
        "answers to the quickstart's prompts"
        if options.text is None
        else f"continuations of lines of {options.text.name}"
    )
    small_name = f"V = {bench.vocab_size:,}"
    return f"""{HEADING}

`scripts/measure_signal.py`; its first lines define each column. {machine()}.

Bytes a token on disk, all headers in, and the least that the same records could take where any ids are as likely. V = {QWEN_VOCAB:,}
is a Zipf-like teacher of {nats:.2f} nats in sequences of 256 tokens; {small_name} is the quickstart's teacher, {source}, whose
{num_tokens:,} tokens in {options.samples} sequences pay for shorter ones. With or without the tail bucket the file is the same.

{table(["signal", f"V = {QWEN_VOCAB:,}", "uniform bound", "above it", small_name, "uniform bound", "above it"], sizes)}

A student of {student_of(bench, 0).num_parameters() / 1e6:.2f} M parameters after {bench.steps} steps; ± is the standard deviation of
{options.seeds} seeds. Held out: {len(labels_N):,} tokens of {len(bench.held_out.sequences)} sequences. The teacher there:
entropy {entropy:.4f} nats (the floor), NLL {teacher_nll:.4f}, ECE {teacher_ece:.2%}. Last column: KL less that of the dense
student of the same seed with its 95 % interval; in brackets if that holds 0, which is within noise.

{table(["signal", "angle °, a step", f"angle °, {options.angle_steps} steps", "ECE", "NLL", "KL", "KL − dense's"], worth)}
"""


def _bound_and_ratio(size: float, least: float | None) -> tuple[str, str]:
    return ("-", "-") if least is None else (f"{least:,.1f}", f"{size / least - 1:+.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FOLDER",
        default=TEXT if TEXT.is_dir() else None,
        help="of .txt, .tsv files",
    )
    parser.add_argument(
        "--quickstart", action="store_true", help="the quickstart's prompts although there is text"
    )
    parser.add_argument("--samples", type=int, default=512, help="answers to train on")
    parser.add_argument("--held-out", type=int, default=256, help="answers to judge with")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=70, help="optimizer steps of a student")
    parser.add_argument("--angle-steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T_95))
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too"
    )
    options = parser.parse_args()
    options.text = None if options.quickstart else options.text
    logging.set_verbosity_error()
    text = measure(options)
    print(text)
    if options.write:
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
