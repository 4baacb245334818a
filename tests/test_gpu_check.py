"""scripts/gpu_check: its limits of time, what it says of parts that were not done, its section. No part runs on a GPU here."""

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from run_helpers import ROOT, environment, script

gpu_check = script("gpu_check")
Part, run_all, run_part = (gpu_check[name] for name in ("Part", "run_all", "run_part"))
SCRIPTS = ROOT / "scripts"


def python(code, name="part", share=1.0, **fields):
    return Part(name, share, [sys.executable, "-c", code], **fields)


def said(outcomes, seconds=480.0):
    return gpu_check["section"](outcomes, "a machine, torch 0, 2026-01-01", seconds)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    file = tmp_path / "B.md"
    command = [SCRIPTS / "gpu_check", "--write", file]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == gpu_check["NO_GPU"] != 0
    assert "no CUDA GPU here: nothing was run or written" in done.stderr and not done.stdout
    assert not file.exists()


def test_its_parts_are_those_of_the_issue_and_fit_into_eight_minutes():
    parts = gpu_check["parts_of"]("python", "peers")
    named = [next(word for word in part.command if word.endswith(".py")) for part in parts]
    files = ["test_gpu", "bench_kd", "bench_packed_rows", "measure_capture", "bench_generate"]
    files.append("measure_plan")
    assert [name.rpartition("/")[2].removesuffix(".py") for name in named] == files
    assert sum(part.share for part in parts) == gpu_check["SECONDS"] == 8 * 60
    assert parts[1].command[0] == "peers" and "8192" in parts[1].command


def test_every_program_knows_the_words_it_is_called_with():
    """A word that a script does not know would be found out on the GPU alone."""
    for part in gpu_check["parts_of"]("python", "peers")[1:]:
        source = Path(part.command[1]).read_text(encoding="utf-8")
        words = [word for word in part.command if word.startswith("--")]
        assert words and all(f'"{word}"' in source for word in words)


def test_a_part_that_is_too_slow_is_ended_with_all_that_it_started(tmp_path):
    file = tmp_path / "alive"
    child = (
        f"import time; [(open({str(file)!r}, 'w').close(), time.sleep(0.05)) for _ in range(400)]"
    )
    code = (
        "import subprocess, sys, time; print('round 1 of 3', file=sys.stderr, flush=True); "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    started = time.monotonic()
    found = run_part(python(code), 6.0)
    assert time.monotonic() - started < 9
    assert (found.problem, found.said) == ("out of time", "round 1 of 3")
    assert file.exists()
    time.sleep(0.3)
    before = file.stat().st_mtime_ns
    time.sleep(0.5)
    assert file.stat().st_mtime_ns == before, "a process of the part lives on"


def test_what_one_part_leaves_over_the_next_ones_have():
    quick = [python("print('## A\\n\\nx')", name, share=1.0) for name in "abc"]
    limits = [outcome.limit for outcome in run_all(quick, 60.0)]
    assert limits[0] == pytest.approx(20, abs=0.5)
    assert 28 < limits[1] < 30 and 56 < limits[2] < 60


def test_a_part_for_which_no_time_is_left_is_not_begun():
    (found,) = run_all([python("raise SystemExit(1)")], 4.0)
    assert (found.problem, found.seconds) == ("not begun", 0.0)
    assert "- **part**: not begun: no time was left" in said([found])


@pytest.mark.parametrize(
    ("code", "problem", "last"),
    [
        (
            "class OutOfMemoryError(Exception): pass\nraise OutOfMemoryError('x')",
            "out of memory",
            "x",
        ),
        ("raise ValueError('a | b')", "failed (status 1)", "ValueError: a / b"),
        ("import sys; sys.exit(3)", "failed (status 3)", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed (status -11)", ""),
    ],
)
def test_a_part_that_fails_is_told_with_what_it_said_last(code, problem, last):
    found = run_part(python(code), 60.0)
    assert found.problem == problem and last in found.said and not found.text
    text = said([found])
    assert f"- **part**: {problem}" in text and "Not done:" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| part | ")][1:]
    assert row.count("|") == 6


def test_tests_are_told_by_their_last_line_and_a_failure_is_a_problem():
    passed = run_part(python("print('....\\n3 passed in 1 s')", is_section=False), 60.0)
    assert (passed.problem, passed.said, passed.text) == (None, "3 passed in 1 s", "")
    failed = run_part(
        python("print('F\\n1 failed, 2 passed'); raise SystemExit(1)", is_section=False), 60.0
    )
    assert (failed.problem, failed.said) == ("failed (status 1)", "1 failed, 2 passed")


def test_a_real_part_becomes_a_part_of_the_section_and_others_stay_as_they_are(tmp_path):
    small = ["--no-quickstart", "--models", "64x1", "--tokens", "16", "--pairs", "2"]
    capture = Part("capture", 1, [sys.executable, str(SCRIPTS / "measure_capture.py"), *small])
    (found,) = run_all([capture], 120.0)
    assert found.problem is None, found.said
    text = said([found])
    assert text.startswith("## One command on a GPU\n") and "\n### What capture costs\n" in text
    assert text.count("\n## ") == 0 and "All was done." in text
    file = tmp_path / "B.md"
    file.write_text("# B\n\n## What capture costs\n\non a CPU\n\n## Last\n\nz\n", encoding="utf-8")
    replace_section = script("benchmark_sections")["replace_section"]
    for _ in range(2):
        replace_section(file, text)
    written = file.read_text(encoding="utf-8")
    assert written.count("## One command on a GPU") == 1
    assert "## What capture costs\n\non a CPU\n\n## Last\n\nz\n" in written


def test_a_step_is_held_against_one_large_product():
    bench_kd = script("bench_kd")
    options = Namespace(device="cpu", cpu_time=False)
    assert 1e6 < bench_kd["product_speed"](options, "bfloat16", side=64) < 1e16
    num = bench_kd["operations"](
        torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)), 7
    )
    assert num == 7 * (3 * 5 + 5 * 2) * 6
    made = bench_kd["Measured"]({"ours": [2.0, 1.0, 4.0]}, {}, {}, num * 1e12, num * 1e12)
    assert made.share_line("bfloat16")[-1] == "50%"


def test_a_peer_that_is_missing_or_fails_is_told_and_ours_is_measured():
    bench_kd = script("bench_kd")
    globals_of_it = bench_kd["steps_of"].__globals__

    def raising(error):
        def make(bench):
            raise error

        return make

    weight = torch.ones(2, requires_grad=True)
    fine = (lambda bench: lambda: (weight * 2).sum(), False)
    peers = {"Liger chunked JSD": ImportError("no kernel"), "DistillKit": RuntimeError("a | b\nc")}
    names = ("ours", "our capture", "our cross-entropy", "transformers' cross-entropy")
    cases = dict.fromkeys(names, fine) | {n: (raising(e), False) for n, e in peers.items()}
    globals_of_it |= {"CASES": cases, "PEERS": list(peers)}
    bench = bench_kd["Bench"](torch.nn.Linear(2, 2), None, torch.zeros(1, 2, dtype=torch.int), ROOT)
    options = Namespace(no_peers=False, rounds=3, cpu_time=False, device="cpu")
    steps, missing = bench_kd["steps_of"](bench, options)
    spent = bench_kd["times"](bench, steps, options)
    assert list(spent) == list(steps) == list(names)
    lines = bench_kd["Measured"](spent, missing, {}).peer_lines("bfloat16")
    table = script("benchmark_sections")["table"](["", "a", "b", "c"], lines)
    told = run_part(python(f"print({table!r})"), 60.0).problem
    assert told == (
        "bfloat16: Liger chunked JSD: not installed (no kernel); "
        "bfloat16: DistillKit: failed (RuntimeError: a / b)"
    )
    cases["ours"] = (raising(RuntimeError("ours")), False)
    with pytest.raises(RuntimeError, match="ours"):
        bench_kd["steps_of"](bench, options)
