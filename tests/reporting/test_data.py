"""What inspect shows, without torch: counts by reason and language, kept and dropped side by side."""

import subprocess
import sys

import pytest
from result_helpers import generate_result
from run_helpers import ROOT, environment

from distill.__main__ import main
from distill.core.jsonl import write_jsonl
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.data.samples import count_by_language
from distill.errors import DataError, MissingError, RecipeError
from distill.reporting import data

KEPT = [
    {"prompt": "Mbuzi wangapi?", "language": "sw", "answer": "Mbuzi saba."},
    {"prompt": "几只羊？", "language": "zh", "answer": "七只。"},
]
DROPPED = [
    *[
        {
            "prompt": f"Ngapi {n}?",
            "language": "sw",
            "answer": "Six.",
            "reason": "wrong_language: 1 of 1",
        }
        for n in range(3)
    ],
    {"prompt": "Ngapi?", "language": "sw", "reason": "duplicate_prompt: the same as 'Ngapi?'"},
    {
        "prompt": "多少？",
        "language": "zh",
        "answer": "<script>x</script>",
        "reason": "truncated: by length",
    },
]


@pytest.fixture
def stage(tmp_path):
    write_jsonl(tmp_path / "generate/kept.jsonl", KEPT)
    write_jsonl(tmp_path / "generate/dropped.jsonl", DROPPED)
    return tmp_path / "generate"


def shown(stage, **options):
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - as long as the test
    data.show(stage, console=console, **options)
    return console.export_text()


def test_counts_add_up_by_reason_and_language():
    counts = count_by_language(KEPT, DROPPED)
    assert counts == {
        "sw": {"kept": 1, "wrong_language": 3, "duplicate_prompt": 1},
        "zh": {"kept": 1, "truncated": 1},
    }
    head, lines = data.counts_table(counts)
    assert head == ["", "sw", "zh", "all", "%"]
    assert lines[:2] == [["kept", "1", "1", "2", "28.6"], ["wrong_language", "3", "0", "3", "42.9"]]
    assert sum(int(line[3]) for line in lines) == len(KEPT) + len(DROPPED)


def test_kept_and_dropped_stand_side_by_side_in_every_script(stage):
    text = shown(stage)
    line = next(line for line in text.splitlines() if "Mbuzi wangapi?" in line)
    assert "[wrong_language: 1 of 1]" in line, "kept left, dropped right, in one line"
    assert (
        "几只羊？" in text
        and "<script>" in text
        and "[duplicate_prompt: the same as 'Ngapi?']" in text
    )


def test_one_language_and_one_reason_can_be_picked(stage):
    text = shown(stage, language="sw", reason="wrong_language", num=2)
    assert text.count("[wrong_language") == 2 and "几只羊" not in text and "[duplicate" not in text
    with pytest.raises(RecipeError, match=r"--reason 'lop': none here; there are wrong_language"):
        data.show(stage, reason="lop")
    with pytest.raises(RecipeError, match="--language 'en'"):
        data.show(stage, language="en")


def test_a_run_without_samples_says_what_to_do(tmp_path):
    with pytest.raises(MissingError, match="distill generate RECIPE"):
        data.show(tmp_path / "generate")


def test_a_folder_that_is_no_run_is_told_apart_from_one_without_samples(tmp_path, capsys):
    (tmp_path / "runs/mango").mkdir(parents=True)
    assert main(["inspect", str(tmp_path / "runs/mango")]) == 2
    assert "neither a run folder nor a recipe" in capsys.readouterr().err


def test_an_answer_cannot_style_the_terminal_nor_its_table(tmp_path, capsys):
    hostile = "\x1b]0;title\x07 \x9b31m [bold]x[/bold] [/] \u202e \x1b[2J"
    row = {"prompt": hostile, "language": f"sw{hostile}", "answer": hostile}
    write_jsonl(tmp_path / "generate/kept.jsonl", [row])
    write_jsonl(tmp_path / "generate/dropped.jsonl", [row | {"reason": f"{hostile}: x"}])
    assert main(["inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert not any(mark in text for mark in "\x1b\x07\x9b\u202e")
    assert "\\x1b]0;title" in text and "[bold]" in text


def test_inspect_needs_no_torch(stage):
    code = (
        "import sys; from distill.__main__ import main; status = main(['inspect', sys.argv[1]]); "
        "sys.exit(status or ('torch' in sys.modules) * 9 or ('transformers' in sys.modules) * 8)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(stage.parent)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-1000:]
    assert "2 kept, 5 dropped" in result.stdout


def test_a_damaged_sample_is_not_shown_as_what_generate_kept(stage):
    folder = RunFolder(stage.parent)
    files = [stage / "kept.jsonl", stage / "dropped.jsonl"]
    folder.finish("generate", Fingerprint(), StageOutput(generate_result(), files), started=0.0)
    data.show(stage)
    path = stage / "kept.jsonl"
    path.write_bytes(path.read_bytes().replace(b"saba", b"sita"))
    with pytest.raises(DataError, match=r"kept\.jsonl: its content.*--redo generate"):
        data.show(stage)
