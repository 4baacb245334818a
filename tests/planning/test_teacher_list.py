"""`distill teachers`: what fits, what a licence allows, and one model whole."""

import re
import sys

import pytest

from distill.__main__ import main
from distill.catalog import catalog
from distill.errors import RecipeError
from distill.planning import teacher_list
from distill.planning.costs import PROCESS_BYTES
from distill.planning.machine import GB, Room


def table(room: float, ram: float = 24 * GB) -> list[str]:
    return teacher_list.table(Room("a GPU", room, ram)).splitlines()


def test_every_model_has_a_line_and_every_line_fits_the_terminal():
    lines = table(8 * GB)
    for model in catalog.teachers():
        assert sum(line.startswith(f"  {model.id} ") for line in lines) == 1, model.id
    assert max(map(len, lines)) <= 100
    for model in catalog.teachers():
        for model_id in (model.id, *model.also):
            shown = teacher_list.show_model(model_id, Room("a GPU", 8 * GB, 24 * GB))
            assert max(map(len, shown.splitlines())) <= 100, model_id


def test_what_fits_is_marked_by_type():
    (line,) = [x for x in table(8 * GB) if x.startswith("  Qwen/Qwen3-8B ")]
    rest = (
        PROCESS_BYTES / GB + 4096 * 36 * 8 * 128 * 2 * 2 / GB
    )  # the process, and the keys and values of 4,096 tokens
    bf16, int8, nf4, gguf = (8.190735360 * factor + rest for factor in (2.0, 1.1, 0.65, 0.61))
    assert re.search(rf" {bf16:.1f}  +{int8:.1f}  +{nf4:.1f}\*  +{gguf:.1f}\*  allow$", line), line
    (mixture,) = [x for x in table(80 * GB) if x.startswith("  Qwen/Qwen3-30B-A3B ")]
    assert re.search(r" 30.5B/3.4B +62\.2\* +- +- +19\.8\*  allow$", mixture), (
        "experts are not quantized here, but by llama.cpp"
    )
    (mixture,) = [x for x in table(80 * GB, 16 * GB) if x.startswith("  Qwen/Qwen3-30B-A3B ")]
    assert re.search(r" 62\.2\* +- +- +19\.8   allow$", mixture), "a GGUF file is run in RAM"


def test_doubt_about_a_licence_is_shown():
    verdicts = {
        line.split()[0]: line.split("  ")[-1].strip()
        for line in table(8 * GB)
        if line.startswith("  ")
    }
    assert (
        verdicts["deepseek-ai/DeepSeek-V3-0324"] == "allow?"
        and verdicts["deepseek-ai/DeepSeek-R1"] == "allow"
    )
    assert (
        verdicts["deepseek-ai/DeepSeek-V3"] == "restricted"
        and verdicts["moonshotai/Kimi-K3"] == "manual review?"
    )


def test_one_model_whole(capsys):
    assert main(["teachers", "moonshotai/Kimi-K2.5"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "1,000,000,000,000",
        "generate.enable_thinking",
        "'You are Kimi'",
        "reasoning of earlier answers is dropped",
        "checked 20",
    ):
        assert part in shown, part
    assert "restricted" in teacher_list.show_model(
        "deepseek-ai/DeepSeek-V3",
        Room("a GPU", 8 * GB, 24 * GB),
    )


def test_an_unknown_model_names_the_near_ones(capsys):
    assert main(["teachers", "qwen3-8b"]) == 2
    assert "did you mean Qwen/Qwen3-8B?" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="`distill teachers` lists them"):
        teacher_list.show_model("zzzzzzzzzzzz", Room("a GPU", 0, 0))


def test_the_list_needs_no_torch():
    import subprocess

    code = "import sys; from distill.__main__ import main; main(['teachers']); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )
