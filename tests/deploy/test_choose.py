"""Which file of which run, and what is said where there is none."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from run_helpers import QUICKSTART

from distill.__main__ import main
from distill.core.run_folder import RunFolder
from distill.core.stored_json import read_json, write_json
from distill.deploy import choose as choosing
from distill.deploy.choose import choose, require_whole
from distill.errors import DataError, MissingError, RecipeError


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
        ("xyz", r"--format 'xyz': not in this run; there are f16, q8_0, q4_0$"),
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
    content = read_json(manifest, "")
    checks = content["result"]["formats"]
    content["result"]["formats"] = {"nf4": checks["nf4"]}
    write_json(manifest, content)
    with pytest.raises(MissingError, match=r"no GGUF file, only nf4; add one to quantize\.formats"):
        choose(str(run), None)
    manifest.unlink()
    assert main(["chat", str(run)]) == 2
    command = f"distill quantize {run}/recipe.yaml run_folder={run}"
    assert f"not finished; run `{command}` first" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["chat", "serve", "bench"])
def test_a_file_of_which_bytes_were_flipped_is_refused_by_name(
    make_run: Callable[..., Path], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp loads it and writes gibberish: 2,000 bytes of the weights, as a bad stick flips them."""
    run = make_run()
    path = run / "quantize" / "q8_0.gguf"
    whole, place = path.read_bytes(), random.Random(0)
    data = bytearray(whole)
    for _ in range(2000):
        data[place.randrange(len(data) // 2, len(data))] ^= 1 << place.randrange(8)
    path.write_bytes(data)
    assert main([command, str(run), "--format", "q8_0", "--threads", "1"]) == 2
    said = capsys.readouterr()
    assert f"{path}: its content is not what was written" in said.err
    assert f"`distill run {run}/recipe.yaml run_folder={run} --redo quantize`" in said.err
    assert "passed" not in said.out + said.err
    path.write_bytes(whole)  # the first way out: copy it again
    assert choose(str(run), "q8_0").path == path


def test_a_file_that_was_cut_or_is_not_in_the_manifest_is_refused(
    make_run: Callable[..., Path],
) -> None:
    run = make_run()
    path = run / "quantize" / "f16.gguf"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"f16\.gguf: [\d,]+ bytes, and [\d,]+ were written"):
        choose(str(run), "f16")
    manifest = run / "quantize" / "manifest.json"
    content = read_json(manifest, "")
    del content["files"]["f16.gguf"]
    write_json(manifest, content)
    with pytest.raises(
        DataError, match=r"f16\.gguf: not among the files of .*manifest\.json; copy"
    ):
        choose(str(run), "f16")


def test_one_is_told_why_a_big_file_takes_a_while(
    make_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(make_run())
    require_whole(folder, "f16")
    assert not capsys.readouterr().err
    monkeypatch.setattr(choosing, "TOLD_BYTES", 0)
    require_whole(folder, "f16")
    assert "f16.gguf: comparing 0.0 GB with what was written" in capsys.readouterr().err
