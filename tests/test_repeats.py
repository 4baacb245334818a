"""A training that is repeated: seeds of its own, resumed after a kill, evaluated and reported."""

import json
import shutil
import signal

import pytest
from run_helpers import QUICKSTART, killed_when, made_once, run_forked, sha, small
from safetensors.numpy import load_file

from distill.core.stored_json import read_json
from distill.recipe import load_recipe
from distill.train import _tracker_names

REPEATS = ["train.repeats=2", "train.epochs=1", "quantize.formats=[q8_0]"]
MODELS = ("student", "control", "repeat-2/student", "repeat-2/control")


def begun(finished, folder):
    """Begin a run where nothing is trained yet, with the answers and signals of another."""
    for stage in ("plan", "generate", "capture", "initialize"):
        shutil.copytree(finished / stage, folder / stage)
    return small(folder, *REPEATS)


@pytest.fixture(scope="module")
def repeated(finished, tmp_path_factory):
    """A finished run of two repeats. Do not change it."""

    def make(folder):
        result = run_forked(*begun(finished, folder))
        assert result.returncode == 0, result.stderr[-3000:]
        (folder / "said").write_text(result.stdout)

    return made_once(tmp_path_factory, "repeated", make)


def weights(folder):
    names = [f"train/{name}/model.safetensors" for name in MODELS]
    return {name: sha(folder / name) for name in names}


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_every_repeat_has_models_and_metrics_of_its_own(repeated):
    assert len(set(weights(repeated).values())) == 4
    recorded = read_json(repeated / "train/manifest.json", "")["files"]
    for name in MODELS:
        assert {f"{name}/model.safetensors", f"{name}.metrics.jsonl"} <= recorded.keys()
    assert not list(repeated.glob("train/**/checkpoints"))
    first, second = (
        [json.loads(line) for line in (repeated / name).read_text().splitlines()]
        for name in ("train/student.metrics.jsonl", "train/repeat-2/student.metrics.jsonl")
    )
    assert len(first) == len(second) and first[0]["loss"] != second[0]["loss"], "another start"


def test_the_first_repeat_is_the_run_without_repeats(finished, repeated, tmp_path):
    words = begun(finished, tmp_path / "run")
    once = [word for word in words if word != "train.repeats=2"]
    assert run_forked(*once, word="train").returncode == 0
    for role in ("student", "control"):
        name = f"train/{role}/model.safetensors"
        assert sha(tmp_path / "run" / name) == sha(repeated / name)
    assert not list(tmp_path.glob("run/train/repeat-*"))


KILLS = [
    lambda f: lines(f / "train/control.metrics.jsonl") >= 3,
    lambda f: lines(f / "train/repeat-2/student.metrics.jsonl") >= 3,
    lambda f: (f / "train/repeat-2/student").exists(),
    lambda f: lines(f / "train/repeat-2/control.metrics.jsonl") >= 3,
    lambda f: (f / "evaluate/control.json").exists(),
    lambda f: (f / "evaluate/repeat-2/control.json").exists(),
]


def test_killed_in_any_repeat_it_goes_on_bit_for_bit(finished, repeated, tmp_path):
    folder = tmp_path / "run"
    words = begun(finished, folder)
    statuses, written = [], {}
    for ready in KILLS:
        statuses.append(killed_when(words, lambda ready=ready: ready(folder)))
        for path in folder.glob("train/**/training.json"):
            written.setdefault(path, path.stat().st_mtime_ns)
    assert statuses.count(-signal.SIGKILL) >= 4, f"too fast to be killed: {statuses}"
    assert run_forked(*words).returncode == 0
    assert weights(folder) == weights(repeated)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "trained twice"
    figures, wanted = (
        read_json(f / "evaluate/manifest.json", "")["result"]["student_against_control"]
        for f in (folder, repeated)
    )
    assert figures == wanted


def test_repeats_of_a_student_that_is_a_model_begin_alike_and_differ_in_order_and_lora(
    finished, tmp_path
):
    """What LoRA leaves as it was is the same in both, and that of the start."""
    words = begun(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/initialize")
    base = f"student={{method: base, model: {QUICKSTART.parent / 'quickstart/teacher'}}}"
    lora = ["train.lora_rank=2", "train.optimizer=adamw", "train.max_steps=2"]
    lora += ["train.control=false", "train.keep=last"]
    result = run_forked(*words, base, *lora, "--stages", "initialize,train")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "train student 2/2" in result.stderr
    folders = ("initialize/student", "train/student", "train/repeat-2/student")
    start, first, second = (
        load_file(tmp_path / "run" / folder / "model.safetensors") for folder in folders
    )
    frozen = [name for name in start if "norm" in name or "embed" in name]
    assert len(frozen) > 6
    for name, tensor in start.items():
        if name in frozen:
            assert (first[name] == tensor).all() and (second[name] == tensor).all(), name
        else:
            assert (first[name] != second[name]).any(), name


@pytest.mark.parametrize(
    ("tracker", "repeats", "names"),
    [
        ("tensorboard", 1, ("quickstart", {})),
        ("wandb", 1, ("quickstart", {})),
        ("tensorboard", 3, ("quickstart-control-2", {})),
        ("wandb", 3, ("quickstart", {"wandb": {"name": "control-2"}})),
        ("trackio", 3, ("quickstart", {"trackio": {"name": "control-2"}})),
    ],
)
def test_trackers_have_a_run_a_repeat(tracker, repeats, names):
    recipe = load_recipe(QUICKSTART, [f"train.tracker={tracker}", f"train.repeats={repeats}"])
    assert _tracker_names(recipe, "control", 2) == names


def test_the_page_and_the_terminal_tell_of_the_repeats(repeated):
    said = (repeated / "said").read_text()
    assert "standard deviation of 2 repeats of the training" in said
    assert "Mean of 2 repeats of the training, intervals over repeats and examples: KD " in said
    page = (repeated / "report/report.html").read_text()
    assert "The training's own noise" in page and "Mean of 2 repeats" in page
    table = read_json(repeated / "report/manifest.json", "")["result"]["table"]
    assert [row["model"] for row in table] == ["teacher", "control", "student", "w16a16", "q8_0"]


def test_other_repeats_of_a_finished_run_are_refused_with_the_way_out(repeated):
    result = run_forked(*small(repeated, *REPEATS, "train.repeats=3"), word="train")
    assert result.returncode == 2
    assert "train.repeats was 2, is now 3" in result.stderr and "--redo train" in result.stderr
