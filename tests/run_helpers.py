"""Whole runs as a person starts them: a small recipe on the quickstart's own teacher, in processes of their own."""

import fcntl
import hashlib
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SHARED_DATA = ROOT.parent / "shared" / "data"  # real data; a user's machine has none
# every stage, several batches and shards, two checkpoints for each role
SMALL = [
    "generate.num_prompts=40",
    "teacher.batch_tokens=1500",
    "capture.shard_tokens=300",
    "train.epochs=2",
    "train.batch_tokens=512",
    "train.micro_batch_tokens=512",
    "train.validate_every=3",
    "train.checkpoint_every=2",
    "train.validation_share=0.15",
    "quantize.formats=[q8_0, f16]",
    "quantize.num_sequences=8",
    "evaluate.num_examples=5",
    "evaluate.max_new_tokens=32",
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
    """Run the command in an interpreter of its own; `more` are environment variables."""
    return subprocess.run(
        command(*arguments, word=word),
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        check=False,
    )


def script(name: str) -> dict[str, Any]:
    """Return what the script `name` of scripts/ defines; its main part is not run."""
    folder = str(ROOT / "scripts")
    sys.path.insert(0, folder)  # they import each other
    try:
        return runpy.run_path(f"{folder}/{name}.py")
    finally:
        sys.path.remove(folder)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of this session, made by the first of the workers that needs it. Do not change it."""
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder, made = session / name, session / f"{name}.made"
    with (session / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


def small(run_folder: Path, *more: str) -> list[object]:
    return [QUICKSTART, *SMALL, f"run_folder={run_folder}", *more]


@cache
def forks() -> ForkServerContext:
    """Return what starts processes as copies of one that is `preloaded`: that is most of the time of a short run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        forkserver.ensure_running()
    return context


class Forked:
    """A function under way in a copy of the preloaded process; its output goes to two files."""

    def __init__(
        self, function: Callable[..., int | None], *arguments: object, variables: dict[str, str]
    ):
        """`variables`: the whole environment there."""
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        given = (function, arguments, variables, self._outputs)
        self._process = forks().Process(target=_call_there, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, None while it works; this and the next two are those of `subprocess.Popen`."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def wait(self, timeout: float | None = 300) -> int:
        """Return the exit status. Raise TimeoutError, after killing it, where it takes longer."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"killed after {timeout} s")
        return self._process.exitcode

    def result(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Return what `subprocess.run` would have returned, once it has ended."""
        status = self.wait(timeout)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self._outputs)
        self._folder.cleanup()
        return subprocess.CompletedProcess([], status, stdout, stderr)


def start_forked(*arguments: object, word: str = "run", **more: str) -> Forked:
    """Start the command as a copy of a process that has imported all; `more` are environment variables."""
    return Forked(call_distill, [word, *map(str, arguments)], variables=environment(**more))


def run_forked(
    *arguments: object, word: str = "run", timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """Do what `run` does, without the seconds in which an interpreter imports torch and transformers."""
    return start_forked(*arguments, word=word, **more).result(timeout)


def start_fresh(*arguments: object, word: str = "run", **more: str) -> subprocess.Popen[bytes]:
    """Start the command in an interpreter of its own; nobody reads what it says."""
    return subprocess.Popen(
        command(*arguments, word=word),
        env=environment(**more),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def launch(
    *arguments: object, launcher: tuple[str, ...] = ("--multi_gpu", "--num_processes", "2")
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of the file in the checkout, as the README says, without the package installed."""
    options = [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(free_port()),
    ]
    script = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *launcher,
        *options,
        "distill/train.py",
    ]
    env = {k: v for k, v in environment(ACCELERATE_USE_CPU="true").items() if k != "PYTHONPATH"}
    return subprocess.run(
        [*script, *map(str, arguments)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def signal_when(
    child: Forked | subprocess.Popen[bytes], ready: Callable[[], bool], number: int
) -> int:
    """Send `number` as soon as `ready()`, return the exit status (0: the run was faster than the signal)."""
    end = time.monotonic() + 120
    while child.poll() is None and not ready():
        if time.monotonic() > end:
            child.send_signal(signal.SIGKILL)
            raise TimeoutError("the run never got to the point where it should be signalled")
        time.sleep(0.005)
    child.send_signal(number)
    return child.wait()


def killed_when(arguments: list[object], ready: Callable[[], bool]) -> int:
    """Start the run, SIGKILL it as soon as `ready()`, return the exit status."""
    return signal_when(start_forked(*arguments), ready, signal.SIGKILL)


def call_distill(words: list[str]) -> int:
    """Run the command in this process."""
    from distill.__main__ import main

    return main(words)


def _call_there(
    function: Callable[..., int | None],
    arguments: tuple[object, ...],
    variables: dict[str, str],
    outputs: list[Path],
) -> None:
    assert "preloaded" in sys.modules, "it cannot be imported: `python tests/preloaded.py` says why"
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    _renew_threads()
    sys.exit(function(*arguments))


def _renew_threads() -> None:
    """Let torch make its pool of threads anew, which a fork does not copy.

    Where several threads (transformers loads weights in some) come to do so at once, one of them
    finds none: "Invalid thread pool!".
    """
    import torch

    torch.set_num_threads(torch.get_num_threads())
