"""Runs and servers for the tests of `chat`, `serve` and `bench`."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from deploy_helpers import FORMATS, serving, write_run
from server_helpers import TEACHER

from distill.formats.gguf.write import write_gguf


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {name: write_gguf(TEACHER, folder / f"{name}.gguf", name).path for name in FORMATS}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return `make_run("generate.top_k=1", failed=["q4_0"])`, which makes a finished run folder."""
    return partial(write_run, tmp_path / "runs" / "mango")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `distill serve` whose answers are 40 tokens long at most."""
    run = write_run(tmp_path_factory.mktemp("served") / "mango", "generate.max_new_tokens=40")
    with serving(run) as (_, url):
        yield url
