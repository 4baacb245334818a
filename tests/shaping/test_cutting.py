"""A student cut by measurement, from its recipe to its files."""

import json

import pytest
import torch
from cutting_helpers import sample
from run_helpers import QUICKSTART, run_forked, small

from distill import initialize
from distill.core.jsonl import write_jsonl
from distill.core.results import Cut
from distill.core.run_folder import RunFolder
from distill.data.stored_samples import read_samples
from distill.formats import compare
from distill.formats.compare import TransformersModel
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.process import LlamaProcess
from distill.models import load
from distill.recipe import load_recipe
from distill.shaping.calibration import Calibration, mean_nll
from distill.shaping.cutting import told

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
CPU = load.Placement("cpu", "float32")
IDS = torch.arange(3, 40)[None]


def cut_student(run_folder, **student):
    """Return (the stage's result, its folder) of a student of the quickstart's teacher."""
    folder = RunFolder(run_folder)
    values = json.dumps({"model": str(TEACHER), **student})
    recipe = load_recipe(QUICKSTART, [f"student={values}", "train.device=cpu"])
    samples = [sample(f"s{i}", recipe.languages[0], 3 + i, 20 - i) for i in range(12)]
    folder.stage("generate").mkdir(parents=True)
    write_jsonl(folder.stage("generate") / "kept.jsonl", [s.row() for s in samples])
    result = initialize.run(recipe, folder).result
    return result, folder.stage("initialize") / "student"


def calibrated_by(run_folder):
    """Return what the calibration of a student in `run_folder` is made of."""
    samples = read_samples(run_folder / "generate" / "kept.jsonl")
    return load_recipe(QUICKSTART), samples, load.load_tokenizer(str(TEACHER))


def logits(folder):
    return load.load_model(str(folder), CPU)(IDS).logits


def closeness_in_llama_cpp(folder, path):
    """Return how far the GGUF file of a student is from it."""
    write_gguf(folder, path / "student.gguf", "f32")
    tokenizer = load.load_tokenizer(str(folder))
    student = TransformersModel(load.load_model(str(folder), CPU), tokenizer, 512)
    samples = [sample(str(n), prompt=4 + n, answer=20) for n in range(3)]
    reference = compare.refer_to(student, samples, path / "rows.npy")
    with LlamaProcess(path / "student.gguf", num_threads=1, context_length=64) as llama:
        return compare.in_llama_cpp(reference, llama)


def test_layers_chosen_by_nll_are_told_with_what_they_cost(tmp_path, capsys):
    result, folder = cut_student(tmp_path / "run", method="layers", layers_by="nll")
    (cut,) = result.cuts
    assert (cut.what, cut.before, cut.after, cut.chosen_by) == ("layers", 6, 3, "nll")
    assert len(cut.kept) == 3 == result.num_layers
    text = Calibration.of(*calibrated_by(tmp_path / "run"))
    assert cut.nll == pytest.approx(mean_nll(load.load_model(str(folder), CPU), text), abs=1e-6)
    assert result.nll_before_cuts == pytest.approx(
        mean_nll(load.load_model(str(TEACHER), CPU), text), abs=1e-6
    )
    line = told(result.cuts, result.nll_before_cuts)[0]
    assert f"initialize: {line}" in capsys.readouterr().out
    assert f"{result.nll_before_cuts:.3f} -> {cut.nll:.3f} nats a token" in line
    assert torch.isfinite(logits(folder)).all()


def test_an_evenly_cut_student_reads_no_samples(tmp_path):
    recipe = load_recipe(
        QUICKSTART, [f"student={{method: layers, layers_by: even, model: {TEACHER}}}"]
    )
    assert initialize.reads(recipe) == () and "layers_by" not in recipe.student.identity()
    result, _ = cut_student(tmp_path / "run", method="layers", layer_share=0.5, layers_by="even")
    assert result.cuts == [Cut("layers", 6, 3, "even", [0, 2, 5])]
    assert result.nll_before_cuts is None
    assert told(result.cuts, None) == ["3 of 6 layers kept (0, 2, 5), chosen by even"]


def test_a_measured_cut_reads_the_samples_in_the_students_ids():
    student = f"method: layers, layers_by: nll, model: {TEACHER}"
    recipe = load_recipe(QUICKSTART, [f"student={{{student}}}"])
    assert initialize.reads(recipe) == ("generate",)
    assert recipe.student.identity()["layers_by"] == "nll"
    trimmed = load_recipe(QUICKSTART, [f"student={{{student}, vocabulary: {{size: 300}}}}"])
    assert initialize.reads(trimmed) == ("trim",)


@pytest.mark.parametrize("by", ["last", "block_influence", "nll"])
def test_all_layers_and_neurons_kept_are_the_model(tmp_path, by):
    cuts = {"layer_share": 1, "layers_by": by, "ffn_width": 512}
    _, folder = cut_student(tmp_path / "run", method="layers", **cuts)
    assert torch.equal(logits(folder), logits(TEACHER))


def test_a_cut_student_is_the_same_in_llama_cpp(tmp_path):
    _, folder = cut_student(tmp_path / "run", method="layers", layers_by="block_influence")
    found = closeness_in_llama_cpp(folder, tmp_path)
    assert found.kl < 1e-4 and found.max_logp_difference < 0.02


def test_a_narrower_student_is_the_same_in_llama_cpp(tmp_path):
    result, folder = cut_student(
        tmp_path / "run", method="layers", layers_by="nll", layer_share=0.67, ffn_width=256
    )
    layers, feed_forward = result.cuts
    assert (layers.after, result.num_layers) == (4, 4)
    assert (feed_forward.before, feed_forward.after, result.intermediate_size) == (512, 256, 256)
    assert (
        "256 of 512 neurons of the feed-forward kept, chosen by activations"
        in told(result.cuts, result.nll_before_cuts)[1]
    )
    found = closeness_in_llama_cpp(folder, tmp_path)
    assert found.kl < 1e-4 and found.max_logp_difference < 0.02


def test_a_student_trimmed_and_cut_twice_goes_through_the_whole_run(tmp_path):
    student = {
        "method": "layers",
        "model": str(TEACHER),
        "layer_share": 0.67,
        "layers_by": "nll",
        "ffn_width": 256,
        "vocabulary": {"size": 900, "max_fertility_loss": None},
    }
    more = f"student={json.dumps(student)}", "train.max_steps=2", "train.control=false"
    done = run_forked(*small(tmp_path / "run", *more))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "run/initialize/manifest.json").read_text())["result"]
    assert [cut["after"] for cut in result["cuts"]] == [4, 256]
    page = (tmp_path / "run/report/report.html").read_text()
    assert "Cut before training: 4 of 6 layers kept" in page
    assert "neurons of the feed-forward kept, chosen by activations" in page
    again = run_forked(*small(tmp_path / "run", *more))
    assert again.returncode == 0 and "everything is done" in again.stdout
