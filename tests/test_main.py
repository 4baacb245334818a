"""The command line: what it reads, and what it says of what it can't read."""

import os
import signal
import subprocess
import sys
import time

import pytest
from run_helpers import QUICKSTART, ROOT, command, environment, run, run_forked

from distill.__main__ import read


@pytest.mark.parametrize(
    "words",
    [
        ["run", "r.yaml", "seed=2", "train.epochs=1", "--redo", "train"],
        ["run", "r.yaml", "--redo", "train", "seed=2", "train.epochs=1"],
        ["run", "--redo", "train", "r.yaml", "seed=2", "train.epochs=1"],
        ["run", "r.yaml", "seed=2", "--redo=train", "train.epochs=1"],
    ],
)
def test_overrides_stand_before_and_after_options(words):
    options = read(words)
    assert (options.recipe, options.redo, options.overrides) == (
        "r.yaml",
        "train",
        ["seed=2", "train.epochs=1"],
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "r.yaml", "--rdo", "train"], "unknown: --rdo"),
        (["run", "r.yaml", "--redo", "trian"], "invalid choice: 'trian'"),
        (["explain", "seed", "x=1"], "unknown: x=1"),
        (["rnu", "r.yaml"], "invalid choice: 'rnu'"),
        (["capture", "r.yaml", "--shard", "5/4"], "'5/4' is not I/N"),
        (["chat", "runs/r", "--threads", "0"], "'0' is not a number from 1 up"),
        (["probe", "r.yaml", "--num", "-4"], "'-4' is not a number from 1 up"),
        (["serve", "runs/r", "generate.top_k=1"], "unknown: generate.top_k=1"),
    ],
)
def test_what_is_not_known_is_refused_by_name(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(words)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_missing_recipe_is_all_that_is_required(capsys):
    with pytest.raises(SystemExit):
        read(["run"])
    assert capsys.readouterr().err.endswith("arguments are required: RECIPE.yaml\n")
    assert read(["run", "r.yaml"]).overrides == []
    read(["run", "r.yaml", "--redo", "train", "seed=2"])
    assert read(["run", "r.yaml"]).overrides == [], "what another command line had is gone"


def test_a_reader_that_has_read_enough_is_no_error():
    with subprocess.Popen(
        command(word="explain"),
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b"" and child.wait() in (0, 141)


def test_a_terminal_without_chinese_gets_the_rest():
    result = run(word="teachers", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert result.returncode == 0 and "Qwen3-8B" in result.stdout, result.stderr


@pytest.mark.parametrize("kind", ["a file", "beyond a file"])
def test_a_file_where_the_run_folder_should_be_is_named(tmp_path, kind):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" if kind == "a file" else tmp_path / "file" / "run"
    result = run_forked(QUICKSTART, f"run_folder={place}")
    assert (
        result.returncode == 2
        and "set run_folder=PATH" in result.stderr
        and "Traceback" not in result.stderr
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    result = run(QUICKSTART, f"run_folder={tmp_path / 'run'}")
    assert (
        result.returncode == 2
        and "may not read or write" in result.stderr
        and "Traceback" not in result.stderr
    )


def test_the_first_signal_says_what_happens_and_what_a_second_one_does():
    code = (
        "import sys, time; from distill.core import shutdown\n"
        "with shutdown.listening():\n    print('ready', flush=True)\n"
        "    for _ in range(1000): time.sleep(0.01); shutdown.check()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert (
            child.stdout is not None
            and child.stderr is not None
            and child.stdout.readline() == b"ready\n"
        )
        time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert (
            b"SIGTERM: finishing and saving what is in hand; once more ends at once"
            in child.stderr.read()
        )
        child.wait()
