"""Whole runs: to the end, killed at many points, stopped, repeated, changed, on two processes."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import get_args

import pytest
from log_helpers import read_row_logs
from run_helpers import (
    QUICKSTART,
    ROOT,
    SMALL,
    command,
    environment,
    killed_when,
    run,
    signal_when,
    small,
)

from distill.recipe.sections import Format


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An unbroken small run."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    result = run(*small(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(folder):
    """What must not depend on interruptions."""
    files = [
        "train/student/model.safetensors",
        "train/control/model.safetensors",
        "generate/kept.jsonl",
        "initialize/student/model.safetensors",
        "quantize/q8_0.gguf",
    ]
    return {name: sha(folder / name) for name in files}


def test_a_run_leaves_a_report_a_card_and_a_manifest_a_stage(finished):
    for stage in (
        "plan",
        "generate",
        "capture",
        "initialize",
        "train",
        "quantize",
        "evaluate",
        "report",
    ):
        manifest = json.loads((finished / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage and manifest["versions"]["torch"]
        for name, described in manifest["files"].items():
            assert sha(finished / stage / name) == described["sha256"], f"{stage}/{name}"
    page = (finished / "report" / "report.html").read_text()
    assert page.count("<svg") == 4 and "KD " in page and "95 % interval" in page
    assert "http" not in page.replace("http://www.w3.org", ""), (
        "the report asks nothing of the network"
    )
    card = (finished / "report" / "MODEL_CARD.md").read_text()
    assert "./quickstart/teacher" in card and "apache-2.0" in card
    assert not (finished / "train" / "checkpoints").exists(), (
        "checkpoints are removed when they have served"
    )


def test_every_quantized_file_was_loaded_back(finished):
    formats = json.loads((finished / "quantize" / "manifest.json").read_text())["result"]["formats"]
    for name in ("q8_0", "f16"):
        assert formats[name]["runtime"] == "llama.cpp"
        assert formats[name]["tokenization"].startswith("identical")
        assert formats[name]["top_token_agreement"] > 0.98
    assert (
        formats["f16"]["top_token_agreement"] >= 0.995 and abs(formats["f16"]["nll_change"]) < 0.02
    )
    merged = formats["w16a16"]
    assert merged["runtime"] == "transformers" and set(merged["tensor_types"]) == {"F16"}, (
        "trained in float32, on a CPU"
    )
    assert merged["top_token_agreement"] > 0.9 and merged["kl"] < 1e-4, (
        "a student that has hardly learnt has ties"
    )
    table = json.loads((finished / "report" / "manifest.json").read_text())["result"]["table"]
    assert [row["model"] for row in table] == [
        "teacher",
        "control",
        "student",
        "w16a16",
        "q8_0",
        "f16",
    ]
    assert (
        "`quantize/w16a16`: for transformers and vLLM"
        in (finished / "report" / "MODEL_CARD.md").read_text()
    )


def test_the_student_in_every_format_at_once(copy):
    """Written, loaded back, compared, recovered, chosen by bytes; bitsandbytes and compressed-tensors where they are installed."""
    formats = [
        name for name in get_args(Format) if name != "w4a16" or find_spec("compressed_tensors")
    ]
    given = small(
        copy,
        f"quantize.formats=[{', '.join(formats)}]",
        "quantize.recover=[q2_k, nf4]",
        "quantize.recover_steps=4",
        "quantize.budget_mb=0.5",
        "quantize.min_top_token_share=0",
    )
    result = run(*given, "--redo", "quantize", "--stages", "quantize")
    assert result.returncode == 0, result.stderr[-3000:]
    checks = json.loads((copy / "quantize" / "manifest.json").read_text())["result"]["formats"]
    assert set(checks) == {"w16a16", *formats}
    for name, check in checks.items():
        assert check["bytes"] > 0 and check["kl"] < 0.1 and check["failed"] is None, (name, check)
        place = (
            copy
            / "quantize"
            / (name if check["runtime"].startswith("transformers") else f"{name}.gguf")
        )
        assert place.exists() and check["decode_speed"] > 0 and check["peak_memory"] > 10e6
    assert checks["tq2_0"]["bytes"] < checks["f16"]["bytes"] and checks["mixed"]["bytes"] <= 500_000
    for name, said in (
        ("q2_k", "recovery"),
        ("nf4", "recovery"),
        ("mixed", "of what fits into 0.5 MB"),
    ):
        assert (
            checks[name]["note"].startswith(said) and f"quantize: {name}: {said}" in result.stdout
        )
    run(*given, "--stages", "evaluate,report")
    assert checks["mixed"]["note"] in (copy / "report" / "report.html").read_text()


def test_a_finished_run_says_so_in_under_a_second_without_torch(finished):
    started = time.monotonic()
    result = run(*small(finished))
    seconds = time.monotonic() - started
    assert result.returncode == 0 and "everything is done" in result.stdout
    probe = (
        "import sys; from distill.__main__ import main; code = main(sys.argv[1:]); "
        "print('loaded', [m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules]); sys.exit(code)"
    )
    arguments = ["run", *map(str, small(finished))]
    second = subprocess.run(
        [sys.executable, "-c", probe, *arguments],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "loaded []" in second.stdout
    # no bound on the clock: a loaded machine is no fault of ours; the figure is printed for the curious
    print(f"{seconds:.2f} s")


def test_hidden_states_are_captured_and_matched_in_a_whole_run(tmp_path, finished):
    """The kept answers are those of `finished`; what is stored is what the teacher has at those positions."""
    import numpy as np
    from safetensors import safe_open

    from distill.data.samples import read_samples
    from distill.models import load
    from distill.models.score import TokenSequence, answer_hidden_states
    from distill.signals.collate import hidden_targets
    from distill.signals.store import SignalStore, sequence_key

    folder = tmp_path / "run"
    for stage in ("plan", "generate"):
        shutil.copytree(finished / stage, folder / stage)
    changes = ["capture.hidden_states=int8", "train.hidden_weight=0.5", "quantize.formats=[f16]"]
    result = run(*small(folder, *changes))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "generate: already done" in result.stdout

    capture = json.loads((folder / "capture/manifest.json").read_text())["result"]
    assert capture["hidden_size"] == 192 and 198 < capture["bytes_per_token"] < 198 + 36
    store = SignalStore(folder / "capture/signals" / capture["folder"])
    sample = read_samples(folder / "generate/kept.jsonl")[0]
    teacher = load.load_model(
        str(ROOT / "recipes/quickstart/teacher"), load.Placement("cpu", "float32")
    )
    (own_TH,) = answer_hidden_states(
        teacher, [TokenSequence(sample.ids, len(sample.prompt_ids))], pad_id=0
    )
    states = store.read_hidden_states(sequence_key(sample.ids, len(sample.prompt_ids)))
    stored_TH = hidden_targets([states], 192, "cpu").dequantized(own_TH.dtype)
    assert np.linalg.norm(stored_TH - own_TH) < 0.01 * np.linalg.norm(own_TH)

    student, control = (
        [
            json.loads(line)
            for line in (folder / f"train/{role}.metrics.jsonl").read_text().splitlines()
        ]
        for role in ("student", "control")
    )
    assert student[-1]["hidden"] < 0.9 * student[0]["hidden"] and "hidden" not in control[0]
    plain = json.loads((finished / "train/student.metrics.jsonl").read_text().splitlines()[0])
    assert student[0]["soft"] == plain["soft"], (
        "the draws are the same, and so is the first step's student"
    )
    assert sha(folder / "train/control/model.safetensors") == sha(
        finished / "train/control/model.safetensors"
    )
    with safe_open(folder / "train/student/model.safetensors", "pt") as saved:
        assert not [name for name in saved.keys() if "projection" in name]  # noqa: SIM118 - not a dict
    assert "the last hidden state in 8 bits" in (folder / "report/report.html").read_text()
    assert "hidden states (weight 0.5)" in (folder / "report/MODEL_CARD.md").read_text()


KILLS = [
    ("generate", lambda f: len(read_row_logs(f / "generate/raw")[0]) >= 1),
    ("generate", lambda f: len(read_row_logs(f / "generate/raw")[0]) >= 40),
    ("generate", lambda f: (f / "generate/kept.jsonl").exists()),
    ("capture", lambda f: (f / "capture/started.json").exists()),
    ("capture", lambda f: len(list(f.glob("capture/signals/*/*.shard"))) >= 2),
    ("initialize", lambda f: (f / "initialize/started.json").exists()),
    ("initialize", lambda f: (f / "initialize/.student.tmp").exists()),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 1),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 5),
    ("train", lambda f: (f / "train/.student.tmp").exists() or (f / "train/student").exists()),
    ("train", lambda f: lines(f / "train/control.metrics.jsonl") >= 3),
    ("quantize", lambda f: (f / "quantize/started.json").exists()),
    ("quantize", lambda f: (f / "quantize/q8_0.json").exists()),
    ("evaluate", lambda f: (f / "evaluate/teacher_answers.jsonl").exists()),
    ("evaluate", lambda f: (f / "evaluate/control.json").exists()),
    ("report", lambda f: (f / "report/started.json").exists()),
]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_in_every_stage_the_run_ends_with_the_same_weights(finished, tmp_path):
    folder = tmp_path / "run"
    statuses = []
    for stage, ready in KILLS:
        status = killed_when(small(folder), lambda ready=ready: ready(folder))
        statuses.append((stage, status))
    killed = {stage for stage, status in statuses if status == -signal.SIGKILL}
    assert {"generate", "capture", "train", "quantize", "evaluate"} <= killed, (
        f"too fast to be killed: {statuses}"
    )
    result = run(*small(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert outcome(folder) == outcome(finished)
    keys = [row["key"] for row in read_row_logs(folder / "generate/raw")[0]]
    assert len(keys) == len(set(keys)), "no answer was paid for twice"


def test_ctrl_c_and_sigterm_stop_cleanly_and_say_how_to_go_on(tmp_path, finished):
    folder = tmp_path / "run"
    at_train = lambda: lines(folder / "train/student.metrics.jsonl") >= 2  # noqa: E731
    assert signal_when(small(folder), at_train, signal.SIGINT) == 130
    assert list((folder / "train/checkpoints/student").glob("step-*")), (
        "a signal makes a checkpoint"
    )
    at_control = lambda: lines(folder / "train/control.metrics.jsonl") >= 2  # noqa: E731
    assert signal_when(small(folder), at_control, signal.SIGTERM) == 130
    assert run(*small(folder)).returncode == 0
    assert outcome(folder) == outcome(finished)


def test_another_recipe_does_not_touch_a_finished_run(copy):
    before = {p: sha(p) for p in copy.rglob("*") if p.is_file()}
    result = run(*small(copy, "train.learning_rate=0.001"))
    assert result.returncode == 2
    assert (
        "train.learning_rate was 0.003, is now 0.001" in result.stderr
        and "--redo train" in result.stderr
    )
    assert len(result.stderr.strip().splitlines()) == 1
    assert {p: sha(p) for p in copy.rglob("*") if p.is_file()} == before


def test_redo_makes_a_stage_anew_and_keeps_what_cost_teacher_time(copy):
    raw = {p.name: sha(p) for p in (copy / "generate/raw").iterdir()}
    result = run(
        *small(copy, "generate.min_characters=2"),
        "--redo",
        "generate",
        "--stages",
        "generate,capture",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert {p.name: sha(p) for p in (copy / "generate/raw").iterdir()} == raw, (
        "nothing was asked again"
    )
    assert (copy / "train.replaced-1" / "student").is_dir()


def test_a_stage_alone_names_the_stage_that_must_come_first(tmp_path):
    result = run(*small(tmp_path / "run"), word="train")
    assert result.returncode == 2
    assert "generate: not finished; run `distill generate" in result.stderr


def test_a_damaged_shard_is_named_and_captured_anew(copy):
    shard = sorted(copy.glob("capture/signals/*/*.shard"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    result = run(*small(copy), "--redo", "capture", "--stages", "capture")
    assert result.returncode == 0, result.stderr[-2000:]
    assert shard.name in result.stdout and "broken" in result.stdout


def test_a_damaged_shard_is_never_trained_on(copy):
    shard = sorted(copy.glob("capture/signals/*/*.shard"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    shutil.rmtree(copy / "train")
    result = run(*small(copy), word="train")
    assert result.returncode == 2 and shard.name in result.stderr and "capture" in result.stderr


def test_training_does_not_depend_on_which_shards_hold_the_signal(copy, finished, tmp_path):
    """Captured anew in other shards, with the old ones copied in beside them: every sequence is there twice."""
    old = tmp_path / "old"
    (copy / "capture/signals").rename(old)
    result = run(
        *small(copy, "capture.shard_tokens=120"), "--redo", "capture", "--stages", "capture"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    shutil.copytree(old, copy / "capture/signals", dirs_exist_ok=True)
    assert len(list(copy.glob("capture/signals/*/*.shard"))) > 2 * len(list(old.glob("*/*.shard")))
    result = run(*small(copy, "capture.shard_tokens=120"), "--stages", "initialize,train")
    assert result.returncode == 0, result.stderr[-2000:]
    assert sha(copy / "train/student/model.safetensors") == sha(
        finished / "train/student/model.safetensors"
    )


def test_independent_jobs_share_the_work_and_are_merged_by_copying_files(tmp_path):
    prompts = (QUICKSTART.parent / "quickstart/prompts.jsonl").read_text().splitlines()[:40]
    parts = {
        "one": prompts[:25],
        "two": prompts[15:],
        "whole": prompts,
    }  # ten prompts fell to both jobs
    for name, mine in parts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(mine) + "\n")
    arguments = {
        name: small(tmp_path / name, f"generate.prompts={tmp_path / name}.jsonl") for name in parts
    }
    for name in ("one", "two"):
        result = run(*arguments[name], "--stages", "generate,capture")
        assert result.returncode == 0, result.stderr[-2000:]
        for folder in ("generate/raw", "capture/signals"):
            shutil.copytree(
                tmp_path / name / folder, tmp_path / "whole" / folder, dirs_exist_ok=True
            )
    before = {p: sha(p) for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    shards = [len(list((tmp_path / name).glob("capture/signals/*/*.shard"))) for name in parts]
    assert shards[0] + shards[1] == shards[2], "no shard has overwritten another"
    result = run(*arguments["whole"], "--stages", "generate,capture")
    assert result.returncode == 0, result.stderr[-2000:]
    after = {
        p
        for f in ("generate/raw", "capture/signals")
        for p in (tmp_path / "whole" / f).rglob("*")
        if p.is_file()
    }
    assert after == set(before) and all(sha(p) == before[p] for p in after), (
        "nothing was asked or captured again"
    )
    captured = json.loads((tmp_path / "whole/capture/manifest.json").read_text())["result"]
    kept = json.loads((tmp_path / "whole/generate/manifest.json").read_text())["result"]
    assert captured["num_sequences"] >= kept["num_kept"] > 0


def test_two_jobs_that_claim_blocks_make_what_one_run_makes(tmp_path):
    def rows(folder):
        found = [
            json.loads(line.split("\t")[0])
            for p in folder.glob("generate/raw/*.jsonl")
            for line in p.read_text().splitlines()
        ]
        return {row["key"]: row["token_ids"] for row in found}, len(found)

    more = ["generate.num_prompts=60", "teacher.batch_tokens=600", "capture.shard_tokens=200"]
    one, two = small(tmp_path / "one", *more), small(tmp_path / "two", *more)
    assert run(*one, "--stages", "generate,capture").returncode == 0
    for stage in ("generate", "capture"):
        jobs = [
            subprocess.Popen(
                [*command(*two, word=stage), "--shard", "auto"], env=environment(), cwd=ROOT
            )
            for _ in range(2)
        ]
        assert [job.wait(300) for job in jobs] == [0, 0]
        names = [p.name for p in (tmp_path / "two" / stage / "leases").iterdir()]
        done = [n for n in names if n.endswith(".done")]
        assert len(done) >= 3 and sorted(names) == sorted(
            [*done, *(n.replace(".done", ".0") for n in done)]
        ), "none twice, none left"
        before = {p for p in (tmp_path / "two").rglob("*") if p.suffix in (".shard", ".jsonl")}
        assert run(*two, "--stages", stage).returncode == 0
        made = {
            p for p in (tmp_path / "two").rglob("*") if p.suffix in (".shard", ".jsonl")
        } - before
        assert {p.parent.name for p in made} <= {"generate"}, "nothing was asked or captured again"
    (mine, num), (theirs, _) = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert mine == theirs and num == len(mine)
    signals = [
        json.loads((tmp_path / n / "capture/manifest.json").read_text())["result"]
        for n in ("one", "two")
    ]
    assert (
        signals[0]["num_sequences"] == signals[1]["num_sequences"]
        and signals[0]["num_tokens"] == signals[1]["num_tokens"]
    )


def test_nothing_left_after_filtering_gives_the_counts_by_reason(tmp_path):
    result = run(*small(tmp_path / "run", "generate.min_characters=500"), "--stages", "generate")
    assert result.returncode == 2
    assert "no sample passed the filters" in result.stderr and "too_short" in result.stderr


def test_a_broken_prompts_line_stops_before_any_work(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "hi", "language": "en", "reference": "1"}\n{"promt": "x", "language": "en"}\n'
    )
    result = run(*small(tmp_path / "run", f"generate.prompts={prompts}"))
    assert result.returncode == 2 and "line 2: unknown field 'promt'" in result.stderr


def test_a_loss_that_is_not_finite_stops_before_the_step(copy):
    from safetensors.numpy import load_file, save_file

    shutil.rmtree(copy / "train")
    student = copy / "initialize/student/model.safetensors"
    tensors = load_file(student)
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, student, metadata={"format": "pt"})
    result = run(*small(copy), word="train")
    assert (
        result.returncode == 2
        and "not finite" in result.stderr
        and "learning_rate" in result.stderr
    )
    assert not (copy / "train/student").exists()


def test_a_full_disk_is_one_line_and_the_run_continues_after(tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY)); "
        "from distill.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    folder = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", code, "run", *map(str, small(folder)), "--stages", "plan,generate"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr[-2000:]
    last = result.stderr.strip().splitlines()[-1]
    assert (
        "is full; free space and run the same command to continue" in last and str(folder) in last
    )
    assert run(*small(folder), "--stages", "plan,generate").returncode == 0


def test_two_commands_do_not_work_in_one_run_folder(tmp_path):
    from distill.core.run_folder import RunFolder

    other = RunFolder(tmp_path / "run")
    other.lock()
    try:
        result = run(*small(tmp_path / "run"))
    finally:
        other.unlock()
    assert result.returncode == 2 and "another process works in this run folder" in result.stderr


def launch(*arguments, launcher=("--multi_gpu", "--num_processes", "2")):
    """`accelerate launch` of the file in the checkout, as the README says, without the package installed."""
    options = [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "29555",
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


def test_two_processes_share_the_work_and_end_alike(finished, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "run"
    result = launch(*small(folder, "num_processes=2"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((folder / "generate/raw").iterdir())) == 2, "each rank wrote its own answers"
    writers = {p.name.split("-")[1] for p in folder.glob("capture/signals/*/*.shard")}
    assert writers == {"share0", "share1"}
    assert sha(folder / "generate/kept.jsonl") == sha(finished / "generate/kept.jsonl")
    one, two = (load_file(f / "train/student/model.safetensors") for f in (finished, folder))
    assert max((one[n] - two[n]).abs().max() for n in one) < 5e-3, (
        "the same global batches, another order of sums"
    )
    assert all(torch.isfinite(t).all() for t in two.values())
    again = launch(*small(folder, "num_processes=2"))
    assert again.returncode == 0 and again.stdout.count("everything is done") == 1


def test_a_launch_that_silently_makes_one_process_is_refused(tmp_path):
    result = launch(
        *small(tmp_path / "run", "num_processes=2"), launcher=("--cpu", "--num_processes", "2")
    )
    assert result.returncode != 0
    assert "the recipe wants 2, 1 is running" in result.stderr


def test_the_file_in_the_package_does_not_shadow_other_modules(tmp_path):
    """`accelerate launch distill/train.py` puts distill/ first on sys.path; the guard must take it away."""
    result = launch(QUICKSTART, *SMALL, "train.epochs=none", launcher=("--num_processes", "1"))
    assert "train.epochs: 'none'" in result.stderr, "the script came as far as reading the recipe"
    code = (
        "import runpy, sys; sys.argv = ['distill/train.py', '--help']\n"
        "try:\n    runpy.run_path('distill/train.py', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "import importlib.util as u, distill.train as t\n"
        "print(u.find_spec('quantize'), t.__name__, [p for p in sys.path if p.rstrip('/').endswith('/distill')])"
    )
    env = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip().splitlines()[-1] == "None distill.train []"
