"""`distill bench`: size, memory and speed of a run's GGUF files on this machine, and an estimate for another.

Decoding reads every weight once for each token, so the speed of memory bounds it: bytes of the weights over the measured
bandwidth. What share of that bound a file reaches says whether memory or arithmetic holds it up.
"""

import os
import platform
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from distill.deploy import bandwidth
from distill.deploy.choose import gguf_checks, known_format, open_run
from distill.deploy.targets import Target, target
from distill.formats import path_of
from distill.llama_cpp.gguf_header import TensorInfo, read_tensor_infos
from distill.llama_cpp.process import LlamaProcess

CONTEXT = 512  # tokens: keys and values are part of the memory measured
PROMPT_TOKENS, NEW_TOKENS, REPEATS = 128, 64, 3
BUSY = 0.5  # load average from which timings say more of the other processes
MEMORY_BOUND = 32 << 20  # bytes a token: no cache of the machines in the table holds so much


@dataclass(frozen=True)
class Figures:
    """One file at one number of threads. `share` is of the bandwidth measured at the same number."""

    format: str
    bytes: int
    bytes_per_token: int
    num_threads: int
    peak_memory: int | None
    prefill: float
    decode: float
    share: float


def bench(
    run: str, *, format_name: str | None, target_name: str | None, num_threads: int | None
) -> None:
    """Measure and print. Raises what `open_run`, `gguf_checks`, `target` and LlamaProcess raise."""
    elsewhere = target(target_name) if target_name is not None else None
    recipe, folder = open_run(run)
    checks = gguf_checks(folder)
    names = list(checks) if format_name is None else [known_format(format_name, checks)]
    counts = thread_counts(num_threads or recipe.quantize.num_threads)
    if (load := os.getloadavg()[0]) > BUSY:
        print(
            f"warning: other processes are at work here (load average {load:.1f}): all figures will be too low",
            file=sys.stderr,
        )
    read = {count: bandwidth.read_bandwidth(count) for count in counts}
    cache = bandwidth.cache_bytes()
    speeds = ", ".join(f"{value / 1e9:.1f} GB/s with {count}" for count, value in read.items())
    print(
        f"{platform.machine()}: memory is read at {speeds} thread{'s' if counts[-1] > 1 else ''}; caches of "
        f"{'unknown size' if cache is None else f'{cache / 1e6:.0f} MB'}"
    )
    print(
        f"{'file':<14}{'MB':>9}{'memory MB':>11}{'threads':>9}{'prefill/s':>11}{'decode/s':>10}{'of the bound':>14}"
    )
    cached, measured = False, []
    for name in names:
        for count in counts:
            found = measure(path_of(folder, name), name, count, read[count])
            inside = cache is not None and found.bytes_per_token <= cache
            cached |= inside
            measured.append(found)
            print(_line(found, inside), flush=True)
    print(
        f"tokens a second of one sequence, median of {REPEATS}, after {PROMPT_TOKENS} tokens; memory is the peak of the process, with "
        f"Python, at a context of {CONTEXT}"
    )
    if cached:
        print(
            "* fits into the caches, so that the speed of memory is no bound: arithmetic and overhead are"
        )
    for name in names:
        if checks[name].failed:
            print(f"{name} FAILED its check: {checks[name].failed}")
    if elsewhere is not None:
        print(estimate(elsewhere, {found.format: found.bytes_per_token for found in measured}))


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({min(2**n, most) for n in range(most.bit_length() + 1)})


def measure(path: Path, name: str, num_threads: int, read: float) -> Figures:
    """Load the file in a process of its own and time it; `read` is the memory's bandwidth, bytes a second."""
    with LlamaProcess(
        path, num_threads=num_threads, context_length=CONTEXT, kv_type="f16"
    ) as llama:
        speeds = [llama.speed(PROMPT_TOKENS, NEW_TOKENS) for _ in range(REPEATS)]
        memory = llama.peak_memory()
    decode = statistics.median(s.decode for s in speeds)
    per_token = bytes_per_token(read_tensor_infos(path))
    return Figures(
        name,
        path.stat().st_size,
        per_token,
        num_threads,
        memory,
        statistics.median(s.prefill for s in speeds),
        decode,
        decode * per_token / read,
    )


def bytes_per_token(tensors: list[TensorInfo]) -> int:
    """Bytes of weights that one decoding step reads: all, but of an embedding that is not the head too only one row."""
    untied = any(t.name == "output.weight" for t in tensors)
    return sum(t.bytes for t in tensors if not (untied and t.name == "token_embd.weight"))


def estimate(elsewhere: Target, bytes_by_format: dict[str, int]) -> str:
    """The lines for `--target`."""
    low, high = elsewhere.share
    lines = [
        "",
        f"ESTIMATE for {elsewhere.name} (nothing was measured there): {elsewhere.bandwidth / 1e9:g} GB/s at most "
        f"({elsewhere.memory}), of which decoding reaches {low:.0%} to {high:.0%}",
    ]
    for name, num_bytes in bytes_by_format.items():
        slow, fast = elsewhere.decode(num_bytes)
        speed = (
            f"{slow:,.1f} to {fast:,.1f} tokens/s"
            if num_bytes >= MEMORY_BOUND
            else "too small for memory to bound it: no estimate"
        )
        lines.append(f"  {name:<12} {speed} ({num_bytes / 1e6:,.1f} MB a token)")
    return "\n".join([*lines, f"  bandwidth: {elsewhere.source}", f"  share: {elsewhere.measured}"])


def _line(found: Figures, inside: bool) -> str:
    memory = "?" if found.peak_memory is None else f"{found.peak_memory / 1e6:,.0f}"
    share = f"{found.share:.1%}{'*' if inside else ' '}"
    return (
        f"{found.format:<14}{found.bytes / 1e6:>9,.1f}{memory:>11}{found.num_threads:>9}{found.prefill:>11,.0f}"
        f"{found.decode:>10,.1f}{share:>14}"
    )
