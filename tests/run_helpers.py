"""Whole runs as a person starts them: a small recipe on the quickstart's own teacher, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"

# a run of some 25 seconds: every stage, several batches and shards, two checkpoints for each role
SMALL = [
    "generate.num_prompts=60", "teacher.batch_tokens=1500", "capture.shard_tokens=300", "train.epochs=2",
    "train.batch_tokens=512", "train.micro_batch_tokens=512", "train.validate_every=3", "train.checkpoint_every=2",
    "train.validation_share=0.1", "quantize.formats=[q8_0, f16]", "quantize.num_sequences=8", "evaluate.num_examples=10",
    "evaluate.max_new_tokens=48",
]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return {**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def command(*arguments: object, word: str = "run") -> list[str]:
    return [sys.executable, "-m", "distill", word, *map(str, arguments)]


def run(*arguments: object, word: str = "run", timeout: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, word=word), env=environment(**more), capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        check=False,
    )  # fmt: skip


def small(run_folder: Path, *more: str) -> list[object]:
    return [QUICKSTART, *SMALL, f"run_folder={run_folder}", *more]


def signal_when(arguments: list[object], ready: Callable[[], bool], number: int = signal.SIGKILL, timeout: float = 120) -> int:
    """Start the run, send `number` as soon as `ready()`, return the exit status (0: it was faster than the signal)."""
    with subprocess.Popen(
        command(*arguments), env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        end = time.monotonic() + timeout
        while child.poll() is None and not ready():
            if time.monotonic() > end:
                child.kill()
                raise TimeoutError("the run never got to the point where it should be killed")
            time.sleep(0.002)
        child.send_signal(number)
        return child.wait()
