"""Which file of which run, and what is said where there is none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_helpers import QUICKSTART

from distill.__main__ import main
from distill.deploy.choose import choose
from distill.errors import MissingError, RecipeError


def test_the_smallest_file_that_passed_is_taken_unless_one_is_named(
    make_run: Callable[..., Path],
) -> None:
    run = make_run(failed=("q4_0",))
    chosen = choose(str(run), None)
    assert (chosen.name, chosen.path, chosen.why) == (
        "mango-q8_0",
        run / "quantize" / "q8_0.gguf",
        "the smallest that passed its check",
    )
    assert choose(str(run), "f16").why == "passed its check"
    assert choose(str(run), "q4_0").why.startswith(
        "FAILED its check: the student's likeliest token"
    )


def test_a_recipe_stands_for_its_run(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        QUICKSTART.read_text().replace("name: quickstart", f"name: mango\nrun_folder: {run}")
    )
    assert choose(str(recipe), "q4_0").path == run / "quantize" / "q4_0.gguf"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MissingError,
        match=r"runs/mamgo: neither a run folder nor a recipe; did you mean runs/mango\?",
    ):
        choose("runs/mamgo", None)
    with pytest.raises(MissingError, match=r"known: runs/mango"):
        choose("xyz", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "q4_k_m",
            r"--format 'q4_k_m': not in this run; did you mean q4_0\? There are f16, q8_0, q4_0$",
        ),
        ("Q8-0", r"did you mean q8_0\?"),
        ("nf4", "a folder for transformers, not a file for llama.cpp"),
    ],
)
def test_a_format_that_is_not_there(make_run: Callable[..., Path], name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        choose(str(make_run()), name)


def test_a_run_without_a_file_to_deploy(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(failed=("f16", "q8_0", "q4_0"))
    with pytest.raises(
        RecipeError, match="no GGUF file passed its check; name one with --format: f16, q8_0, q4_0"
    ):
        choose(str(run), None)
    (run / "quantize" / "q8_0.gguf").unlink()
    with pytest.raises(MissingError, match=r"q8_0\.gguf: gone; make it again by"):
        choose(str(run), None)
    manifest = run / "quantize" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sha256"]  # edited by hand
    checks = content["result"]["formats"]
    content["result"]["formats"] = {"nf4": checks["nf4"]}
    manifest.write_text(json.dumps(content))
    with pytest.raises(MissingError, match=r"no GGUF file, only nf4; add one to quantize\.formats"):
        choose(str(run), None)
    manifest.unlink()
    assert main(["chat", str(run)]) == 2
    assert "not finished; run `distill quantize RECIPE` first" in capsys.readouterr().err
