"""A run folder with what `chat`, `serve` and `bench` read: the quickstart's teacher stands for the student."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from result_helpers import file_check
from run_helpers import QUICKSTART
from server_helpers import TEACHER

from distill.core.results import QuantizeResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.formats import path_of
from distill.formats.gguf.write import write_gguf
from distill.recipe import load_recipe

FORMATS = ("f16", "q8_0", "q4_0")
FAILED = "the student's likeliest token at 12.3% of positions"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {name: write_gguf(TEACHER, folder / f"{name}.gguf", name).path for name in FORMATS}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return `make_run("generate.top_k=1", failed=["q4_0"])`, which makes a finished run folder.

    It has f16, q8_0 and q4_0, each with the template of training, as quantize writes them.
    """

    def make(*overrides: str, failed: tuple[str, ...] = (), student: Path = TEACHER) -> Path:
        folder = RunFolder(tmp_path / "runs" / "mango")
        recipe = load_recipe(
            QUICKSTART, ["name=mango", "generate.sampling_temperature=0", *overrides]
        )
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
        folder.finish("quantize", Fingerprint(), output, started=time.time())
        return folder.path

    return make
