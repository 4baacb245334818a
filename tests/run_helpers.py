"""Whole runs as a person starts them: a small recipe on the quickstart's own teacher, in processes of their own."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
IMPORTED = [
    "accelerate",
    "transformers.models.qwen3.modeling_qwen3",
    "distill.pipeline",
    "distill.capture",
    "distill.evaluate",
    "distill.teachers.gguf",
    "distill.models.decode",
    "distill.models.score",
    "distill.quantize",
    "distill.report",
    "distill.teachers.server.pool",
    "distill.training.loop",
]

# a run of some 25 seconds: every stage, several batches and shards, two checkpoints for each role
SMALL = [
    "generate.num_prompts=60",
    "teacher.batch_tokens=1500",
    "capture.shard_tokens=300",
    "train.epochs=2",
    "train.batch_tokens=512",
    "train.micro_batch_tokens=512",
    "train.validate_every=3",
    "train.checkpoint_every=2",
    "train.validation_share=0.1",
    "quantize.formats=[q8_0, f16]",
    "quantize.num_sequences=8",
    "evaluate.num_examples=10",
    "evaluate.max_new_tokens=48",
]


def environment(**more: str) -> dict[str, str]:
    inherited = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    }
    return {
        **inherited,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **more,
    }


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def command(*arguments: object, word: str = "run") -> list[str]:
    return [sys.executable, "-m", "distill", word, *map(str, arguments)]


def run(
    *arguments: object, word: str = "run", timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, word=word),
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        check=False,
    )


def small(run_folder: Path, *more: str) -> list[object]:
    return [QUICKSTART, *SMALL, f"run_folder={run_folder}", *more]


def signal_when(arguments: list[object], ready: Callable[[], bool], number: int) -> int:
    """Start the run, send `number` as soon as `ready()`, return the exit status (0: it was faster than the signal)."""
    with subprocess.Popen(
        command(*arguments),
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        _wait_until(ready, lambda: child.poll() is None, child.kill)
        child.send_signal(number)
        return child.wait()


@cache
def forks() -> ForkServerContext:
    """Starts processes as copies of one that has imported what a run needs: that is most of the time of a run that is killed soon."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def killed_when(arguments: list[object], ready: Callable[[], bool]) -> int:
    """Start the run as a copy of a process that has imported all, SIGKILL it as soon as `ready()`, return the exit status."""
    child = forks().Process(target=_run_here, args=(command(*arguments)[3:],))
    child.start()
    _wait_until(ready, child.is_alive, child.kill)
    child.kill()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _run_here(words: list[str]) -> None:
    import torch

    from distill.__main__ import main

    os.environ.update(environment())
    torch.set_num_threads(1)  # it was imported before the environment said so
    os.chdir(ROOT)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.exit(main(words))


def _wait_until(
    ready: Callable[[], bool], is_alive: Callable[[], bool], kill: Callable[[], None]
) -> None:
    end = time.monotonic() + 120
    while is_alive() and not ready():
        if time.monotonic() > end:
            kill()
            raise TimeoutError("the run never got to the point where it should be killed")
        time.sleep(0.002)
