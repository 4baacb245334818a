#!/usr/bin/env python3
"""Measure how long the processes of a run were idle, of all their seconds.

    python scripts/measure_idle.py runs/quickstart
    python scripts/measure_idle.py recipes/quickstart.yaml --processes 2 run_folder=runs/two

RUN is the folder of a run that several processes have made; its ranks.jsonl holds what each says of
every stage. A recipe is run first, by `accelerate launch` with so many processes, and must not have
been run there before: a stage that is done already has no time. A process is idle while it waits for
others and computes nothing, nor does anything that it started (distill/core/rank_times.py); what
comes before the first stage and between two is not counted.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmark_sections import table

from distill.core.rank_times import StageTimes, idle_share, read_times
from distill.core.run_folder import RunFolder
from distill.recipe import load_recipe


def made(recipe: Path, num: int, overrides: Sequence[str]) -> Path:
    """Run the recipe with `num` processes on this machine's CPUs; return its run folder."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", str(num), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words = [str(recipe), *overrides, f"num_processes={num}"]
    subprocess.run(
        [*launcher, str(ROOT / "distill" / "train.py"), *words],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        check=True,
    )
    return RunFolder.of(load_recipe(recipe, overrides)).path


def summary(times: Sequence[StageTimes]) -> str:
    """Return the table of the stages, and the idle share of all."""
    rows = []
    for stage in times:
        idle = [rank.idle_seconds(stage.seconds) for rank in stage.ranks]
        share = stage.idle_seconds / max(len(idle) * stage.seconds, 1e-9)
        each = ", ".join(f"{seconds:.1f}" for seconds in idle)
        rows.append([stage.stage, f"{stage.seconds:.1f}", each, f"{100 * share:.0f}"])
    whole = sum(stage.seconds for stage in times)
    headings = ["stage", "seconds", "idle seconds of each process", "idle %"]
    shown = table(headings, rows)
    return f"{shown}\n\nidle: {idle_share(times):.1%} of the processes' time, in {whole:.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a recipe to run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    options = parser.parse_intermixed_args(arguments)
    folder = options.run
    if not folder.is_dir():
        folder = made(options.run, options.processes, options.overrides)
    print(summary(read_times(folder)))


if __name__ == "__main__":
    main()
