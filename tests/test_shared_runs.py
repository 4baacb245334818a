"""Runs whose work is shared: by independent jobs, by jobs that claim blocks, by the processes of one launch."""

import json
import shutil
import subprocess
import sys

from run_helpers import (
    QUICKSTART,
    ROOT,
    SMALL,
    call_distill,
    environment,
    launch,
    run_forked,
    sha,
    small,
    start_forked,
)
from sharding_helpers import ranks


def test_training_does_not_depend_on_which_shards_hold_the_signal(copy, finished, tmp_path):
    """Captured anew in other shards, with the old ones copied in beside them: every sequence is there twice."""
    old = tmp_path / "old"
    (copy / "capture/signals").rename(old)
    result = run_forked(
        *small(copy, "capture.shard_tokens=120"), "--redo", "capture", "--stages", "capture"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    shutil.copytree(old, copy / "capture/signals", dirs_exist_ok=True)
    assert len(list(copy.glob("capture/signals/*/*.shard"))) > 2 * len(list(old.glob("*/*.shard")))
    result = run_forked(*small(copy, "capture.shard_tokens=120"), "--stages", "initialize,train")
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
        result = run_forked(*arguments[name], "--stages", "generate,capture")
        assert result.returncode == 0, result.stderr[-2000:]
        for folder in ("generate/raw", "capture/signals"):
            shutil.copytree(
                tmp_path / name / folder, tmp_path / "whole" / folder, dirs_exist_ok=True
            )
    before = {p: sha(p) for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    shards = [len(list((tmp_path / name).glob("capture/signals/*/*.shard"))) for name in parts]
    assert shards[0] + shards[1] == shards[2], "no shard has overwritten another"
    result = run_forked(*arguments["whole"], "--stages", "generate,capture")
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
    assert run_forked(*one, "--stages", "generate,capture").returncode == 0
    for stage in ("generate", "capture"):
        jobs = [start_forked(*two, "--shard", "auto", word=stage) for _ in range(2)]
        assert [job.wait(300) for job in jobs] == [0, 0]
        names = [p.name for p in (tmp_path / "two" / stage / "leases").iterdir()]
        done = [n for n in names if n.endswith(".done")]
        assert len(done) >= 3 and sorted(names) == sorted(
            [*done, *(n.replace(".done", ".0") for n in done)]
        ), "none twice, none left"
        before = {p for p in (tmp_path / "two").rglob("*") if p.suffix in (".shard", ".jsonl")}
        assert run_forked(*two, "--stages", stage).returncode == 0
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


def test_two_processes_share_the_work_and_end_alike(finished, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "run"
    words = small(folder, "num_processes=2", "train.control=false", "quantize.formats=[]")
    result = launch(*words)
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
    again = launch(*words)
    assert again.returncode == 0 and again.stdout.count("everything is done") == 1


def test_two_processes_divide_the_student_and_one_is_refused_before_any_work(copy, finished):
    """With a tracker, whose end once parted the processes before the end of the run."""
    import torch
    from safetensors.torch import load_file

    arguments = small(copy, "train.shard=full", "train.control=false", "train.tracker=tensorboard")
    alone = run_forked(*arguments, "--redo", "train", "--stages", "train")
    assert alone.returncode == 2
    assert "train.shard full: it divides the student over several processes, and there is one" in (
        alone.stderr
    )
    words = [*map(str, arguments), "--stages", "train"]
    started = ranks(call_distill, 2, ["run", *words])
    results = [rank.result() for rank in started]
    assert [r.returncode for r in results] == [0, 0], results[0].stderr[-3000:]
    one, two = (load_file(f / "train/student/model.safetensors") for f in (finished, copy))
    assert one.keys() == two.keys()
    assert max((one[n] - two[n]).abs().max() for n in one) < 5e-3, "as for the two above"
    assert all(torch.isfinite(t).all() for t in two.values())
    assert not (copy / "train/checkpoints").exists()


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
