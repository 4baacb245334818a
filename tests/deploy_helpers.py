"""A run folder with what `chat`, `serve` and `bench` read, and a process of `serve`.

The quickstart's teacher stands for the student.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from result_helpers import file_check
from run_helpers import QUICKSTART, environment
from server_helpers import TEACHER

from distill.core.results import QuantizeResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.formats import path_of
from distill.formats.gguf.write import write_gguf
from distill.recipe import load_recipe

FORMATS = ("f16", "q8_0", "q4_0")
FAILED = "the student's likeliest token at 12.3% of positions"


def write_run(
    path: Path, *overrides: str, failed: tuple[str, ...] = (), student: Path = TEACHER
) -> Path:
    """Write a finished run folder with f16, q8_0 and q4_0, as quantize writes them, and return it."""
    folder = RunFolder(path)
    recipe = load_recipe(QUICKSTART, ["name=mango", "generate.sampling_temperature=0", *overrides])
    folder.write_recipe(recipe)
    shutil.copytree(student, folder.stage("train") / "student")
    folder.stage("quantize").mkdir()
    checks, written = {}, []
    for name in FORMATS:
        file = write_gguf(student, path_of(folder, name), name, trained=recipe.generate)
        written.append(file.path)
        reason = FAILED if name in failed else None
        checks[name] = file_check(bytes=file.path.stat().st_size, failed=reason)
    checks["nf4"] = file_check()
    output = StageOutput(QuantizeResult(checks, student_bytes=1), written)
    folder.finish("quantize", Fingerprint(), output, started=time.monotonic())
    return folder.path


@contextmanager
def serving(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of `distill serve` that is ready, and its address. It is killed after the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "distill", "serve", str(run), "--port", "0", "--threads", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        try:
            yield child, first.split(" at ")[1].split(",")[0]
        finally:
            child.kill()
