"""`distill bench`: size, memory and speed of a run's GGUF files here, an estimate for elsewhere.

Decoding reads every weight once for each token, so the speed of memory bounds it: bytes of the
weights over the measured bandwidth. What share of that bound a file reaches says whether memory or
arithmetic holds it up.
"""

import os
import platform
import sys

from distill.core.cores import usual_threads
from distill.core.named_run import open_run
from distill.deploy import targets
from distill.deploy.bandwidth import cache_bytes, read_bandwidth
from distill.deploy.choose import gguf_checks, known_format, require_whole
from distill.deploy.speed import CONTEXT, PROMPT_TOKENS, REPEATS, FileSpeed, measure, thread_counts
from distill.formats import path_of
from distill.recipe import advising

BUSY = 0.5  # load average from which timings say more of the other processes
HEAD = (
    f"{'file':<14}{'MB':>9}{'memory MB':>11}{'threads':>9}{'prefill/s':>11}{'decode/s':>10}"
    f"{'of the bound':>14}"
)
LEGEND = (
    f"tokens a second of one sequence, median of {REPEATS}, after {PROMPT_TOKENS} tokens; memory "
    f"is the peak of the process, with Python, at a context of {CONTEXT}"
)


def bench(
    run: str, *, format_name: str | None, target_name: str | None, num_threads: int | None
) -> None:
    """Measure and print a row for each file and number of threads.

    Raises what `open_run`, `gguf_checks`, `require_whole`, `target` and LlamaProcess raise.
    """
    machine = targets.target(target_name) if target_name is not None else None
    recipe, folder = open_run(run)
    with advising(recipe):
        checks = gguf_checks(recipe, folder)
        names = list(checks) if format_name is None else [known_format(format_name, checks)]
        for name in names:
            require_whole(folder, name)
    counts = thread_counts(num_threads or recipe.quantize.threads or usual_threads())
    _warn_if_busy()
    bandwidths = {count: read_bandwidth(count) for count in counts}
    cache = cache_bytes()
    print(_describe_memory(bandwidths, cache))
    print(HEAD)
    speeds = []
    for name in names:
        for count in counts:
            speed = measure(path_of(folder, name), name, count, bandwidths[count])
            print(_row(speed, cache), flush=True)
            speeds.append(speed)
    print(LEGEND)
    if any(_is_cached(speed, cache) for speed in speeds):
        print(
            "* fits into the caches, so that the speed of memory is no bound: arithmetic and "
            "overhead are"
        )
    for name in names:
        if checks[name].failed:
            print(f"{name} FAILED its check: {checks[name].failed}")
    if machine is not None:
        print(targets.estimate(machine, {speed.format: speed.bytes_per_token for speed in speeds}))


def _warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > BUSY:
        print(
            f"warning: other processes are at work here (load average {load:.1f}): all figures "
            "will be too low",
            file=sys.stderr,
        )


def _describe_memory(bandwidths: dict[int, float], cache: int | None) -> str:
    """Return a line on this machine's memory. `bandwidths`: bytes a second by number of threads."""
    speeds = ", ".join(f"{value / 1e9:.1f} GB/s with {n}" for n, value in bandwidths.items())
    threads = "threads" if max(bandwidths) > 1 else "thread"
    caches = "unknown size" if cache is None else f"{cache / 1e6:.0f} MB"
    return f"{platform.machine()}: memory is read at {speeds} {threads}; caches of {caches}"


def _is_cached(speed: FileSpeed, cache: int | None) -> bool:
    return cache is not None and speed.bytes_per_token <= cache


def _row(speed: FileSpeed, cache: int | None) -> str:
    memory = "?" if speed.peak_memory is None else f"{speed.peak_memory / 1e6:,.0f}"
    mark = "*" if _is_cached(speed, cache) else " "
    share = f"{speed.share:.1%}{mark}"
    return (
        f"{speed.format:<14}{speed.bytes / 1e6:>9,.1f}{memory:>11}{speed.num_threads:>9}"
        f"{speed.prefill:>11,.0f}{speed.decode:>10,.1f}{share:>14}"
    )
