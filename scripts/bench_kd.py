#!/usr/bin/env python3
"""A distillation step beside a cross-entropy step and beside the peers': time by pairs, peak memory by processes.

    python scripts/bench_kd.py               # 25 minutes on 2 quiet cores; peers: scripts/bench_requirements.txt
    python scripts/bench_kd.py --no-peers --rounds 9            # ours and cross-entropy alone, a few minutes
    python scripts/bench_kd.py --write BENCHMARKS.md            # replaces its own section there
    python scripts/bench_kd.py --profile                        # where the time of our step goes, by operator
    python scripts/bench_kd.py --dtype float32 bfloat16         # both types, each peer under the same autocast
    python scripts/bench_kd.py --device cuda --tokens 8192      # a 1.0 B student and an 8 B teacher's shape, bfloat16

Every case has the same random Qwen3 student and teacher, tokens and threads. A step is forward, loss and backward, no
optimizer: that would be the same for all and only hide differences. All tokens but the first of each row carry loss,
which is the worst case for a head that projects loss positions alone. All distillation is forward KL at T = 1. Ours
reads and decodes the stored signal in each step. A teacher's forward is part of the step where the peer needs it;
where a signal is stored, its capture is counted once, spread over 3 epochs.

Types, on a CPU (--dtype): float32; bfloat16: the student's weights in float32 and every step, ours and theirs, under
torch.autocast, the teacher's weights in bfloat16; auto: float32, and bfloat16 too where the recipes' `precision: auto`
would take it here. A ratio is always within one type. On CUDA all weights are in bfloat16.

Time: all cases in turns in one process, the order turned round every other round; ratios are taken within a round.
Memory: a process a case, the highest resident size (VmHWM) over two steps, above what the models that the case needs take
once loaded. So the peers' teacher is not held against them, the student's gradient is in all. On CUDA it is the allocator's
peak above what was there before the step, which needs no process of its own.

Share of the peak: 6 operations a token and a number in the student's matrices (2 forward, 4 backward; the embedding counts once, as
the head, attention's own products do not), against one large square product of the same type on the same device.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from benchmark_sections import machine, replace_section, table
from measure_capture import NUM_DRAWS, QWEN_VOCAB, seconds, sharpen
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.losses.targets import SampledTargets
from distill.models.head import head_of
from distill.models.precision import choose_precision
from distill.models.product_speed import Matrices, measured_speedup, multiplies_bfloat16
from distill.models.score import TokenSequence, answer_hidden_states
from distill.recipe.sections import Train
from distill.signals.collate import targets
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of
from distill.training.batches import collate
from distill.training.student import StudentLoss

HEADING = "## A distillation step beside the peers'"
EPOCHS = 3
ROW_TOKENS = 512
HEAD_TOKENS = (2048, 8192)
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # of a product that is as fast as they come
Step = Callable[[], Tensor | None]


@dataclass
class Bench:
    """What all cases share; `teacher` is None in a process that measures a case without one.

    `autocasts`: whether steps run under torch.autocast to bfloat16.
    """

    student: Any
    teacher: Any
    ids_BT: Tensor
    folder: Path
    autocasts: bool = False

    def autocast(self, enabled: bool = True) -> Any:
        device = self.ids_BT.device.type
        return torch.autocast(device, torch.bfloat16, enabled=enabled and self.autocasts)

    @property
    def labels_BT(self) -> Tensor:
        labels_BT = self.ids_BT.clone()
        labels_BT[:, 0] = -100
        return labels_BT

    @property
    def num_loss_tokens(self) -> int:
        return self.ids_BT[:, 1:].numel()


def qwen3(shape: str, device: str, seed: int) -> Any:
    """`shape` is width x layers; heads of 128 and a feed-forward of 3 x width, as Qwen3-0.6B has."""
    width, num_layers = map(int, shape.split("x"))
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=QWEN_VOCAB,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=max(2, width // 128),
        num_key_value_heads=max(1, width // 256),
        head_dim=128,
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(
        torch.bfloat16 if device == "cuda" else torch.float32
    )  # never 8 B parameters in float32
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def bench_of(options: argparse.Namespace, dtype: str, folder: Path, with_teacher: bool) -> Bench:
    autocasts = dtype == "bfloat16" and options.device == "cpu"
    rows = max(1, options.tokens // ROW_TOKENS)
    ids_BT = torch.randint(
        QWEN_VOCAB, (rows, options.tokens // rows), generator=torch.Generator().manual_seed(2)
    )
    teacher = None
    if with_teacher:
        teacher = qwen3(options.teacher, options.device, 1).eval().requires_grad_(False)
        sharpen(teacher, sequences_of(ids_BT))
        teacher = teacher.bfloat16() if autocasts else teacher
    student = qwen3(options.student, options.device, 3)
    return Bench(student, teacher, ids_BT.to(options.device), folder, autocasts)


def types_of(options: argparse.Namespace) -> list[str]:
    """Resolve `auto`: float32, and bfloat16 beside it where a run on this CPU would take that."""
    if options.device == "cuda":
        return ["bfloat16"]
    if options.dtype != ["auto"]:
        return options.dtype
    shapes = Counter(tuple(p.shape) for p in qwen3(options.student, "cpu", 3).parameters())
    head = max(shape for shape in shapes if len(shape) == 2)
    layers = Counter({s: n for s, n in shapes.items() if len(s) == 2 and s != head})
    chosen = choose_precision(
        multiplies_bfloat16(),
        lambda: measured_speedup(Matrices(layers, head), options.tokens, trains=True),
    )
    print(f"auto: {chosen}", file=sys.stderr, flush=True)
    return list(dict.fromkeys(["float32", chosen.dtype]))


def sequences_of(ids_BT: Tensor) -> list[TokenSequence]:
    return [TokenSequence(ids, 1) for ids in ids_BT.tolist()]


def our_step(bench: Bench, soft_weight: float) -> Step:
    student = StudentLoss(bench.student, Train(), QWEN_VOCAB)
    rows = [[(s.ids, s.answer_start)] for s in sequences_of(bench.ids_BT)]
    keys = [sequence_key(*row[0]) for row in rows]
    store = SignalStore(bench.folder / "signal") if soft_weight else None

    def step() -> Tensor:
        said = (
            None
            if store is None
            else targets([store.read(key) for key in keys], bench.ids_BT.device)
        )
        batch = collate(rows, 0).to(bench.ids_BT.device)
        return student(batch, said, soft_weight, 1.0 - soft_weight)[0] / bench.num_loss_tokens

    return step


def our_capture(bench: Bench) -> Step:
    """What distill/capture.py does with a batch, and a shard at its end."""
    sequences, head = sequences_of(bench.ids_BT), head_of(bench.teacher)
    header = SignalHeader("sampled", QWEN_VOCAB, num_draws=NUM_DRAWS)
    keys = [sequence_key(s.ids, s.answer_start) for s in sequences]

    def step() -> None:
        with bench.autocast(False), SignalWriter(bench.folder / "signal", header) as writer:
            hidden = answer_hidden_states(bench.teacher, sequences, 0)
            answers = [s.ids[s.answer_start :] for s in sequences]
            for key, record in zip(
                keys, records_of(header, head, hidden, answers, keys), strict=True
            ):
                writer.add(key, record)

    return step


def transformers_cross_entropy(bench: Bench) -> Step:
    return lambda: bench.student(input_ids=bench.ids_BT, labels=bench.labels_BT).loss


def trl_gkd(bench: Bench) -> Step:
    """As its compute_loss does it: both models' logits in full, shifted by one."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer  # pyright: ignore[reportMissingImports]

    def step() -> Tensor:
        student_BTV = bench.student(input_ids=bench.ids_BT).logits
        with torch.no_grad():
            teacher_BTV = bench.teacher(input_ids=bench.ids_BT).logits
        return GKDTrainer.generalized_jsd_loss(
            student_BTV[:, :-1], teacher_BTV[:, :-1], labels=bench.labels_BT[:, 1:], beta=0.0
        )

    return step


def hidden_pair(bench: Bench) -> tuple[Tensor, Tensor]:
    student_BTH = bench.student.model(input_ids=bench.ids_BT).last_hidden_state[:, :-1]
    with torch.no_grad():
        return student_BTH, bench.teacher.model(input_ids=bench.ids_BT).last_hidden_state[:, :-1]


def trl_distillation(bench: Bench) -> Step:
    """The loss of the stable DistillationTrainer: tiles of both models' logits, made again in backward."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss  # pyright: ignore[reportMissingImports]

    def step() -> Tensor:
        heads = bench.student.lm_head.weight, bench.teacher.lm_head.weight
        return _chunked_divergence_loss(
            *hidden_pair(bench), *heads, bench.labels_BT[:, 1:] != -100, beta=0.0
        )[0]

    return step


def liger_jsd(bench: Bench) -> Step:
    """Its chunked base is pure torch; on a CPU without torch.compile, which needs a C++ compiler at run time."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # pyright: ignore[reportMissingImports]

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=0.0,
        compiled=bench.ids_BT.device.type == "cuda",
    )

    def step() -> Tensor:
        student_BTH, teacher_BTH = hidden_pair(bench)
        return loss(
            student_BTH.flatten(0, 1),
            bench.student.lm_head.weight,
            teacher_BTH.flatten(0, 1),
            bench.teacher.lm_head.weight,
            bench.labels_BT[:, 1:].flatten(),
        )

    return step


def distillkit_compressor() -> Any:
    """The configuration that its README recommends for new captures: about 300 bytes a token."""
    from distillkit.compression import (  # pyright: ignore[reportMissingImports]
        DistributionQuantizationConfig,
        LogprobCompressor,
    )

    return LogprobCompressor(
        DistributionQuantizationConfig(
            d=QWEN_VOCAB,
            k=128,
            exact_k=16,
            exact_dtype="bfloat16",
            polynomial_terms=[0, 1, 2, 3, 4, "sqrt"],
            term_dtype="float32",
            residual_bins=[],
            delta_encoding=False,
            error_diffusion=False,
        )
    )


def distillkit_capture(bench: Bench) -> Step:
    compressor = distillkit_compressor()

    @torch.no_grad()
    def step() -> None:
        with bench.autocast(False):
            parts = [
                compressor.compress(bench.teacher(input_ids=ids_T[None]).logits.log_softmax(-1))
                for ids_T in bench.ids_BT
            ]
        row = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        torch.save(row, bench.folder / "distillkit.pt")

    return step


def distillkit(bench: Bench) -> Step:
    """Its KL on its decompressed signal, in chunks of 1,024 tokens as its README has it."""
    from distillkit.lossfuncs.kl import KLDLoss  # pyright: ignore[reportMissingImports]
    from distillkit.signals import OfflineSignalSource  # pyright: ignore[reportMissingImports]

    source = OfflineSignalSource(distillkit_compressor(), QWEN_VOCAB)
    loss, device = KLDLoss(temperature=1.0, sparse_chunk_length=1024), bench.ids_BT.device

    def step() -> Tensor:
        row = {name: t.to(device) for name, t in torch.load(bench.folder / "distillkit.pt").items()}
        mask_BT = torch.ones_like(bench.ids_BT, dtype=torch.bool)
        mask_BT[:, -1] = False
        return loss(bench.student(input_ids=bench.ids_BT), source.get_signal(row), mask=mask_BT)

    return step


# name: (how its step is made, whether it needs the teacher). Captures come first: others read what they wrote.
CASES: dict[str, tuple[Callable[[Bench], Step], bool]] = {
    "our capture": (our_capture, True),
    "DistillKit's capture": (distillkit_capture, True),
    "ours": (lambda bench: our_step(bench, 1.0), False),
    "our cross-entropy": (lambda bench: our_step(bench, 0.0), False),
    "transformers' cross-entropy": (transformers_cross_entropy, False),
    "TRL GKD (experimental)": (trl_gkd, True),
    "TRL DistillationTrainer (stable)": (trl_distillation, True),
    "Liger chunked JSD": (liger_jsd, True),
    "DistillKit": (distillkit, False),
}
PEERS = list(CASES)[5:]
CAPTURE_OF = {"ours": "our capture", "DistillKit": "DistillKit's capture"}


def run(bench: Bench, step: Step) -> None:
    with bench.autocast():
        loss = step()
    if loss is not None:
        loss.backward()
        if not loss.isfinite():
            raise RuntimeError(f"loss {loss.item()}: this is no step to be timed")
    bench.student.zero_grad(set_to_none=True)


def cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def product_speed(options: argparse.Namespace, dtype: str, side: int | None = None) -> float:
    """The operations a second of one large product: more than a step can have."""
    side = side or PRODUCT_SIDE[options.device]
    where: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, dtype)}
    left, right, out = (torch.randn(side, side, **where) for _ in range(3))

    def work() -> None:
        torch.mm(left, right, out=out)

    took = [
        cpu_seconds(work) if options.cpu_time else seconds(work, options.device) for _ in range(6)
    ]
    return 2 * side**3 / min(took[1:])


def operations(student: torch.nn.Module, num_tokens: int) -> float:
    """Those of a step in the student's matrices, forward and backward."""
    return 6.0 * num_tokens * sum(p.numel() for p in student.parameters() if p.ndim == 2)


def steps_of(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Step], dict[str, str]]:
    """The step of each case, run once; and why a case is missing. A peer that fails stops no other."""
    steps: dict[str, Step] = {}
    missing: dict[str, str] = {}
    for name, (make, _) in CASES.items():
        if (
            options.no_peers
            and name in (*PEERS, *CAPTURE_OF.values())
            and name != CAPTURE_OF["ours"]
        ):
            missing[name] = "left out (--no-peers)"
            continue
        try:
            steps[name] = make(bench)
            run(bench, steps[name])  # warm-up
        except ImportError as error:
            steps.pop(name, None)
            missing[name] = f"not installed ({error})"
        except Exception as error:
            if name not in (*PEERS, CAPTURE_OF["DistillKit"]):
                raise
            steps.pop(name, None)
            first_line = str(error).partition("\n")[0][:80].replace("|", "/")
            missing[name] = f"failed ({type(error).__name__}: {first_line})"
            bench.student.zero_grad(set_to_none=True)
    return steps, missing


def times(
    bench: Bench, steps: dict[str, Step], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each case by round."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds):
        for name in list(steps) if number % 2 else reversed(steps):
            work = partial(run, bench, steps[name])
            took = cpu_seconds(work) if options.cpu_time else seconds(work, options.device)
            spent[name].append(took)
        latest = ", ".join(f"{name} {seconds_[-1]:.1f} s" for name, seconds_ in spent.items())
        print(f"round {number + 1} of {options.rounds}: {latest}", file=sys.stderr, flush=True)
    return spent


def profile(bench: Bench, options: argparse.Namespace) -> str:
    """The operators of our step that take the most time themselves, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    our_capture(bench)()
    step = our_step(bench, soft_weight=1.0)
    run(bench, step)  # warm-up
    cuda = options.device == "cuda"
    with record(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        run(bench, step)
    spent = {
        e.key: e.self_device_time_total if cuda else e.self_cpu_time_total
        for e in found.key_averages()
    }
    most = sorted(spent, key=lambda name: -spent[name])[:8]
    return table(
        ["operator", "share"],
        [[f"`{name}`", f"{spent[name] / sum(spent.values()):.1%}"] for name in most],
    )


def memory(options: argparse.Namespace, dtype: str, folder: Path, case: str) -> float:
    """MiB of the case, in a process of its own."""
    arguments = [
        f"--{key}={getattr(options, key)}"
        for key in ("student", "teacher", "tokens", "device", "threads")
    ]
    arguments += [f"--dtype={dtype}", "--memory-of", case, "--folder", str(folder)]
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_here(options: argparse.Namespace, bench: Bench, step: Step | None, case: str) -> float:
    """MiB of the case in this process, which a GPU's allocator tells; `step` None: of the head alone."""
    if step is None:
        in_half = argparse.Namespace(**{**vars(options), "dtype": ["bfloat16"]})
        return head_memory(in_half, int(case.split()[1]))
    return peak(lambda: [run(bench, step) for _ in range(2)], options.device)


def measure_memory(options: argparse.Namespace) -> float:
    if options.memory_of.startswith("head "):
        return head_memory(options, int(options.memory_of.split()[1]))
    make, with_teacher = CASES[options.memory_of]
    bench = bench_of(options, options.dtype[0], options.folder, with_teacher)
    step = make(bench)
    return peak(lambda: [run(bench, step) for _ in range(2)], options.device)


def head_memory(options: argparse.Namespace, num_tokens: int) -> float:
    """Of linear_head_loss with gradients, above its inputs, the head's gradient taken off."""
    width, device = int(options.student.split("x")[0]), options.device
    is_half = options.dtype == ["bfloat16"]
    dtype = torch.bfloat16 if is_half else torch.float32
    hidden_NH = torch.randn(num_tokens, width, device=device, dtype=dtype).requires_grad_()
    of_weight = dtype if device == "cuda" else torch.float32
    weight_VH = (
        torch.randn(QWEN_VOCAB, width, device=device, dtype=of_weight).mul_(0.05).requires_grad_()
    )
    ids_NK = torch.randint(QWEN_VOCAB, (num_tokens, NUM_DRAWS), device=device)
    said = SampledTargets(ids_NK, torch.full(ids_NK.shape, 1 / NUM_DRAWS, device=device))

    def work() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=is_half and device == "cpu"):
            return linear_head_loss(
                hidden_NH, Head(weight_VH), ids_NK[:, 0], said, soft_weight=1.0, hard_weight=0.0
            )

    return (
        peak(lambda: work()[0].backward(), device) - weight_VH.numel() * 4 / 2**20
    )  # summed in float32 in any dtype


def peak(work: Callable[[], object], device: str) -> float:
    """MiB at the highest point of `work` above its beginning."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the highest point is forgotten (Linux)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def with_capture(spent: dict[str, list[float]], name: str) -> list[float]:
    """Seconds a step by round, with the capture's share of an epoch."""
    if name not in CAPTURE_OF:
        return spent[name]
    return [
        step + capture / EPOCHS
        for step, capture in zip(spent[name], spent[CAPTURE_OF[name]], strict=True)
    ]


def ratio(top: list[float], bottom: list[float]) -> str:
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(top, bottom, strict=True)], n=4, method="inclusive"
    )
    return f"**{middle:.2f}x** ({low:.2f} to {high:.2f})"


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("transformers", "trl", "liger-kernel", "distillkit", "triton"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed as a package")
    return ", ".join(found)


def mebibytes(mib: dict[str, float], case: str) -> str:
    return f"{mib[case]:,.0f}" if mib else "–"


@dataclass(frozen=True)
class Measured:
    """What was measured in one type: seconds of each case by round, why one is missing, MiB of each.

    `operations`: of a step of ours; `product_speed`: operations a second of one large product.
    """

    spent: dict[str, list[float]]
    missing: dict[str, str]
    mib: dict[str, float]
    operations: float = 0.0
    product_speed: float = 1.0

    def share_line(self, dtype: str) -> list[str]:
        speed = self.operations / statistics.median(self.spent["ours"])
        share = f"{speed / self.product_speed:.0%}"
        return [dtype, f"{speed / 1e12:.3g}", f"{self.product_speed / 1e12:.3g}", share]

    def step_lines(self, dtype: str, num_tokens: int) -> list[list[str]]:
        ours = self.spent["ours"]
        speed = f"{num_tokens / statistics.median(ours):,.0f}"
        return [
            [f"{dtype}: ours, KD / {name}", ratio(ours, self.spent[name]), target, speed]
            for name, target in (
                ("our cross-entropy", "at most 1.10"),
                ("transformers' cross-entropy", "below 1"),
            )
        ]

    def peer_lines(self, dtype: str) -> list[list[str]]:
        lines = [[f"{dtype}: ours", "1", mebibytes(self.mib, "ours"), "1"]]
        total = with_capture(self.spent, "ours")
        for name in PEERS:
            title = f"{dtype}: {name}"
            if name in self.missing:
                lines.append([title, self.missing[name], "–", "–"])
                continue
            times = f"{self.mib[name] / self.mib['ours']:.1f}x" if self.mib else "–"
            ahead = ratio(with_capture(self.spent, name), total)
            lines.append([title, ahead, mebibytes(self.mib, name), times])
        return lines


def measure(options: argparse.Namespace, dtype: str) -> Measured:
    """Measure all cases in one type."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = bench_of(options, dtype, folder, with_teacher=True)
        steps, missing = steps_of(bench, options)
        spent = times(bench, steps, options)
        cases = [] if options.no_memory else [*steps, *(f"head {n}" for n in HEAD_TOKENS)]
        mib = {}
        for case in cases:
            if options.device == "cuda":
                mib[case] = memory_here(options, bench, steps.get(case), case)
            else:
                mib[case] = memory(options, dtype, folder, case)
            print(f"memory of {case}: {mib[case]:,.0f} MiB", file=sys.stderr, flush=True)
        done = operations(bench.student, options.tokens), product_speed(options, dtype)
    return Measured(spent, missing, mib, *done)


def section(options: argparse.Namespace, measured: dict[str, Measured]) -> str:
    steps, peers = [], []
    for dtype, made in measured.items():
        steps += made.step_lines(dtype, options.tokens)
        peers += made.peer_lines(dtype)
    heads = [
        [f"{dtype}: {num:,}", mebibytes(made.mib, f"head {num}")]
        for dtype, made in measured.items()
        for num in HEAD_TOKENS
    ]
    shares = [made.share_line(dtype) for dtype, made in measured.items()]
    multiplies = "multiplies" if multiplies_bfloat16() else "has no instructions for"
    return f"""{HEADING}

`scripts/bench_kd.py`: {options.tokens:,} tokens a step, V = {QWEN_VOCAB:,}, a student of {options.student} and a
teacher of {options.teacher} (width x layers, Qwen3, random weights), {options.rounds} rounds,
medians with quartiles{" of CPU time" if options.cpu_time else ""}. {machine()}, the CPU {multiplies} bfloat16; {versions()}.
What a step is, what is counted, what the types are and how memory is measured stands at the top of the script. Nothing was
measured on a GPU unless one is named here.

{table(["step, time", "ratio", "target", "our tokens/s"], steps)}

Operations in products, in 10^12 a second:

{table(["type", "our KD step", "one large product", "share of that"], shares)}

Distillation, the teacher counted (captures spread over {EPOCHS} epochs):

{table(["", "tokens/s of ours / theirs", "peak memory above the models, MiB", "theirs / ours"], peers)}

Our head alone, above hidden states and the head's gradient (target: below 200 MiB):

{table(["loss tokens", "MiB"], heads)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", help="width x layers (256x4; on CUDA 1536x28, 1.0 B)")
    parser.add_argument("--teacher", help="width x layers (768x12; on CUDA 4096x36, 8 B)")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--no-peers", action="store_true", help="ours and cross-entropy alone, a few minutes"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="times alone: no process for each case"
    )
    parser.add_argument(
        "--profile", action="store_true", help="only the operators of our step, with their shares"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of CPU, for a machine that is at other work, too (take --threads 1)",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["auto", "float32", "bfloat16"],
        default=["auto"],
        help="types of the steps on a CPU; auto: float32, and bfloat16 where it is faster",
    )
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too"
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: quartiles need 2 at least")
    options.student = options.student or {"cpu": "256x4", "cuda": "1536x28"}[options.device]
    options.teacher = options.teacher or {"cpu": "768x12", "cuda": "4096x36"}[options.device]
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    if options.memory_of:
        print(json.dumps(measure_memory(options)))
        return
    dtypes = types_of(options)
    if options.profile:
        with tempfile.TemporaryDirectory() as name:
            print(profile(bench_of(options, dtypes[-1], Path(name), with_teacher=True), options))
        return
    text = section(options, {dtype: measure(options, dtype) for dtype in dtypes})
    print(text)
    if options.write:
        replace_section(options.write, text)


if __name__ == "__main__":
    main()
