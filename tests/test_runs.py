"""Whole runs: what one leaves, what another recipe, a redone stage and a mistake do to it."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from run_helpers import ROOT, environment, run, run_forked, sha, small

from distill.core.stored_json import read_json, write_json


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


HEAVY = ["torch", "transformers", "accelerate", "datasets", "numpy", "jinja2", "asyncio", "gguf"]


def test_a_finished_run_says_so_in_under_a_second_without_heavy_packages(finished):
    started = time.monotonic()
    result = run(*small(finished))
    seconds = time.monotonic() - started
    assert result.returncode == 0 and "everything is done" in result.stdout
    probe = (
        "import sys; from distill.__main__ import main; code = main(sys.argv[1:]); "
        f"print('loaded', [m for m in {HEAVY} if m in sys.modules]); sys.exit(code)"
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

    from distill.data.stored_samples import read_samples
    from distill.models import load
    from distill.models.score import TokenSequence, answer_hidden_states
    from distill.signals.collate import hidden_targets
    from distill.signals.store import SignalStore, sequence_key

    folder = tmp_path / "run"
    for stage in ("plan", "generate"):
        shutil.copytree(finished / stage, folder / stage)
    changes = [
        "capture.hidden_states=int8",
        "capture.draw_log_probs=true",
        "train.hidden_weight=0.5",
        "quantize.formats=[]",
    ]
    result = run_forked(*small(folder, *changes))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "generate: already done" in result.stdout

    capture = json.loads((folder / "capture/manifest.json").read_text())["result"]
    assert capture["hidden_size"] == 192 and 198 < capture["bytes_per_token"] < 198 + 62
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
        "the draws are the same with their log-probs, and so is the first step's student"
    )
    assert sha(folder / "train/control/model.safetensors") == sha(
        finished / "train/control/model.safetensors"
    )
    with safe_open(folder / "train/student/model.safetensors", "pt") as saved:
        assert not [name for name in saved.keys() if "projection" in name]  # noqa: SIM118 - not a dict
    assert "the last hidden state in 8 bits" in (folder / "report/report.html").read_text()
    assert "hidden states (weight 0.5)" in (folder / "report/MODEL_CARD.md").read_text()


def rows_of(folder):
    return json.loads((folder / "report/manifest.json").read_text())["result"]["table"]


def test_of_one_tokenizer_nll_a_byte_tells_what_nll_a_token_tells(finished):
    rows = rows_of(finished)
    for row in rows:
        assert row["nll"] / rows[0]["nll"] == pytest.approx(
            row["nll_per_byte"] / rows[0]["nll_per_byte"], rel=1e-3
        )
        examples = read_json(finished / "evaluate" / f"{row['model']}.json", "")["examples"]
        assert row["nll_per_byte"] * sum(e["num_bytes"] for e in examples) == pytest.approx(
            sum(e["nll"] or 0 for e in examples), rel=1e-3
        )
    text = json.loads((finished / "report/manifest.json").read_text())["result"]["text"]
    assert "NLL/byte" not in text, "no wider for what it says already"
    assert "<th>NLL/byte</th>" in (finished / "report/report.html").read_text()


def test_an_evaluation_of_a_version_that_counted_no_bytes_goes_on(copy):
    before = rows_of(copy)
    for path in (copy / "evaluate" / f"{row['model']}.json" for row in before):
        figures = read_json(path, "")
        for name in ("nll_per_byte", "unscored"):
            del figures[name]
        for example in figures["examples"]:
            del example["num_bytes"]
        write_json(path, figures)
    (copy / "evaluate/manifest.json").unlink()
    (copy / "evaluate/q8_0.json").unlink()  # it was stopped there
    result = run_forked(*small(copy), "--stages", "evaluate,report")
    assert result.returncode == 0, result.stderr[-2000:]
    rows = rows_of(copy)
    assert [row["nll"] for row in rows] == [row["nll"] for row in before]
    assert {row["model"] for row in rows if row["nll_per_byte"] is not None} == {"q8_0"}
    assert "nats a token of NLL" in result.stdout and "nats a byte" not in result.stdout


def test_another_recipe_does_not_touch_a_finished_run(copy):
    before = {p: sha(p) for p in copy.rglob("*") if p.is_file()}
    result = run_forked(*small(copy, "train.learning_rate=0.001"))
    assert result.returncode == 2
    assert (
        "train.learning_rate was 0.002, is now 0.001" in result.stderr
        and "--redo train" in result.stderr
    )
    assert len(result.stderr.strip().splitlines()) == 1
    assert {p: sha(p) for p in copy.rglob("*") if p.is_file()} == before


def test_redo_makes_a_stage_anew_and_keeps_what_cost_teacher_time(copy):
    raw = {p.name: sha(p) for p in (copy / "generate/raw").iterdir()}
    result = run_forked(
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
    result = run_forked(*small(tmp_path / "run"), word="train")
    assert result.returncode == 2
    assert "generate: not finished; run `distill generate" in result.stderr


def test_nothing_left_after_filtering_gives_the_counts_by_reason(tmp_path):
    result = run_forked(
        *small(tmp_path / "run", "generate.min_characters=500"), "--stages", "generate"
    )
    assert result.returncode == 2
    assert "no sample passed the filters" in result.stderr and "too_short" in result.stderr


def test_a_broken_prompts_line_stops_before_any_work(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "hi", "language": "en", "reference": "1"}\n{"promt": "x", "language": "en"}\n'
    )
    result = run_forked(*small(tmp_path / "run", f"generate.prompts={prompts}"))
    assert result.returncode == 2 and "line 2: unknown field 'promt'" in result.stderr


def test_two_commands_do_not_work_in_one_run_folder(tmp_path):
    from distill.core.run_folder import RunFolder

    other = RunFolder(tmp_path / "run")
    other.lock()
    try:
        result = run_forked(*small(tmp_path / "run"))
    finally:
        other.unlock()
    assert result.returncode == 2 and "another process works in this run folder" in result.stderr
