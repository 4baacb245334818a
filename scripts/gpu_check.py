#!/usr/bin/env python3
"""What this code does on one GPU, in at most 8 minutes: one command, one section of BENCHMARKS.md.

    scripts/gpu_check                                   # all parts; replaces its own section of BENCHMARKS.md
    scripts/gpu_check --only step capture               # some of them
    scripts/gpu_check --seconds 900 --write -           # more time, for the terminal alone
    scripts/gpu_check --peers .venv-bench/bin/python    # where TRL, Liger and DistillKit are (bench_requirements.txt)

Each part is a program of its own with a limit of time. What one leaves over the next ones have. A part that fails, is
out of time or out of memory, or lacks a peer, is named in the section with what it said last; the others go on. Without a
GPU nothing is run or written, and the exit status is 2; it is 1 where something was not done, else 0.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmark_sections import machine, replace_section, table

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
HEADING = "## One command on a GPU"
BEGAN = time.monotonic()
SECONDS = 480.0
NO_GPU = 2  # exit status
LEAST = 5.0  # seconds: a part is not begun for less
FOR_TEACHER = 20 * 10**9  # bytes: measure_plan.py writes one of 16 GB
LONGEST = 160  # characters of what a part said last
MEMORY_IS_OUT = re.compile(r"OutOfMemoryError|out of memory", re.IGNORECASE)
NOT_DONE = re.compile(  # a line of a table that has a reason in the place of a figure
    r"^\| (?P<what>[^|]+?) \| (?P<why>(?:not installed|failed|left out)[^|]*?) \|", re.MULTILINE
)


@dataclass(frozen=True)
class Part:
    """A program, and its share of the time in seconds of 480.

    `is_section`: what it prints is a section of BENCHMARKS.md; else its last line is what it found.
    """

    name: str
    share: float
    command: Sequence[str]
    is_section: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a part: `said`, what it found or said last; `problem`, None where it was done.

    `text`: its section, "" where it has none.
    """

    part: Part
    seconds: float
    limit: float
    problem: str | None
    said: str
    text: str = ""


def parts_of(python: str, peers: str, device: str = "cuda", folder: str = "") -> list[Part]:
    """Return the parts: whether it is right comes first, then how fast it is, then how large.

    `peers`: the Python that has the peers' packages. `folder`: for the teacher that measure_plan.py
    writes, "" for one of its own; a part that is ended leaves what it wrote.
    """
    on = ["--device", device]
    shape = ["--shape", "2048x16", "--batch-tokens", "36864", "--prompts", "48"]
    step = [peers, f"{SCRIPTS}/bench_kd.py", *on, "--tokens", "8192", "--rounds", "3"]
    packed = [python, f"{SCRIPTS}/bench_packed_rows.py", *on, "--shape", "1024x28"]
    capture = [
        python,
        f"{SCRIPTS}/measure_capture.py",
        *on,
        "--dtype",
        "bfloat16",
        "--no-quickstart",
    ]
    generate = [python, f"{SCRIPTS}/bench_generate.py", *on, "--dtype", "bfloat16", *shape]
    memory = [python, f"{SCRIPTS}/measure_plan.py", "--sizes", "24 GB", "12 GB"]
    memory += ["--folder", folder] if folder else []
    tests = [python, "-m", "pytest", "-q", "-rfE", str(ROOT / "tests" / "test_gpu.py")]
    return [
        Part("tests", 120, tests, is_section=False),
        Part("step", 105, step),
        Part("packed rows", 30, [*packed, "--lengths", "2048", "8192", "--pairs", "3"]),
        Part("capture", 30, [*capture, "--models", "1024x28", "--tokens", "2048", "--pairs", "5"]),
        Part("generate", 45, [*generate, "--requests", "0", "--rounds", "1"]),
        Part("memory", 150, memory),
    ]


def _in_memory() -> Path | None:
    """Return the folder that lies in memory, where there is room in it for a teacher."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return None
    free = os.statvfs(folder)
    return folder if free.f_bavail * free.f_frsize > FOR_TEACHER else None


def run_all(parts: Sequence[Part], seconds: float) -> list[Outcome]:
    """Run the parts one after the other within so many seconds in all."""
    end = time.monotonic() + seconds
    outcomes = []
    for number, part in enumerate(parts):
        left = max(0.0, end - time.monotonic())
        limit = left * part.share / sum(later.share for later in parts[number:])
        print(f"{part.name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
        outcomes.append(run_part(part, limit))
        found = outcomes[-1]
        print(f"{part.name}: {found.problem or 'done'} ({found.said})", file=sys.stderr, flush=True)
    return outcomes


def run_part(part: Part, limit: float) -> Outcome:
    """Run a part; at its limit it and all that it started are ended."""
    if limit < LEAST:
        return Outcome(part, 0.0, limit, "not begun", "no time was left")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = subprocess.Popen(
            part.command, stdout=stdout, stderr=stderr, cwd=ROOT, start_new_session=True
        )
        is_late = False
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            _end(child)
        seconds = time.monotonic() - started
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read())
    return _outcome(part, seconds, limit, None if is_late else child.returncode, *texts)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a part's process and those that it started."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _outcome(
    part: Part, seconds: float, limit: float, status: int | None, stdout: str, stderr: str
) -> Outcome:
    """Return what became of a part; `status` None: it was ended at its limit."""
    said = _last_line(stderr) or _last_line(stdout)
    if status is None:
        return Outcome(part, seconds, limit, "out of time", said)
    if not part.is_section:
        problem = None if status == 0 else f"failed (status {status})"
        return Outcome(part, seconds, limit, problem, _last_line(stdout) or said)
    if status == 0:
        missing = [f"{found['what']}: {found['why']}" for found in NOT_DONE.finditer(stdout)]
        return Outcome(part, seconds, limit, "; ".join(missing) or None, "measured", stdout)
    problem = f"failed (status {status})"
    if MEMORY_IS_OUT.search(stderr):
        problem = "out of memory"
    return Outcome(part, seconds, limit, problem, said)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-LONGEST:].replace("|", "/") if lines else ""


def section(outcomes: Sequence[Outcome], where: str, seconds: float) -> str:
    """Return the section: what was done in which time, what was not and why, then each part's own."""
    rows = [
        [o.part.name, f"{o.seconds:.0f}", f"{o.limit:.0f}", o.problem or "done", o.said]
        for o in outcomes
    ]
    undone = [f"- **{o.part.name}**: {o.problem}: {o.said}" for o in outcomes if o.problem]
    text = f"""{HEADING}

`scripts/gpu_check`, {sum(o.seconds for o in outcomes):.0f} of {seconds:.0f} s. {where}.

{table(["part", "seconds", "limit", "what became of it", "what it said last"], rows)}

{"Not done:" if undone else "All was done."}
"""
    parts = [_lowered(o.text) for o in outcomes if o.text]
    return "\n".join([text.rstrip(), *undone, "", *parts]).rstrip() + "\n"


def _lowered(text: str) -> str:
    """Return a part's section one level lower, so that it stays within ours."""
    return re.sub(r"^(#+ )", r"#\1", text.strip(), flags=re.MULTILINE) + "\n"


def commit() -> str:
    """Return which code this is, as git names it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "no commit"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    bench = ROOT / ".venv-bench" / "bin" / "python"
    names = [part.name for part in parts_of("", "")]
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these parts alone")
    parser.add_argument(
        "--peers",
        default=str(bench if bench.is_file() else sys.executable),
        help="the Python that has the peers' packages (.venv-bench, else this one)",
    )
    parser.add_argument(
        "--write",
        default=str(ROOT / "BENCHMARKS.md"),
        help="the file whose section is replaced; - = none",
    )
    options = parser.parse_args()

    if not torch.cuda.is_available():
        print("gpu_check: torch sees no CUDA GPU here: nothing was run or written", file=sys.stderr)
        return NO_GPU
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # and the part ends, too
    with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
        parts = parts_of(sys.executable, options.peers, folder=folder)
        chosen = [part for part in parts if part.name in options.only]
        outcomes = run_all(chosen, options.seconds - (time.monotonic() - BEGAN))
    text = section(outcomes, f"{machine()}, {commit()}", options.seconds)
    print(text)
    if options.write != "-":
        replace_section(Path(options.write), text)
    return int(any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
