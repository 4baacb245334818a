"""What a plan says of a student that is cut out of a bigger model."""

from dataclasses import replace

import pytest
from cutting_helpers import Tokens, calibration, sample
from families import BY_NAME, save
from generate_helpers import generate_hot
from run_helpers import QUICKSTART

from distill.errors import MismatchError
from distill.formats.planned_student import PlannedStudent
from distill.models import load
from distill.planning.costs import Workload
from distill.planning.cuts import check_cuts, choice_seconds, deep_cut, making_bytes
from distill.planning.machine import Machine
from distill.planning.sizes import size_of, student_size
from distill.recipe import load_recipe
from distill.shaping.cutting import cut
from distill.shaping.experts import keep_busiest

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
MACHINE = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)


def recipe_with(**student):
    words = ", ".join(f"{name}: {value}" for name, value in student.items())
    return load_recipe(QUICKSTART, [f"student={{model: {TEACHER}, {words}}}"])


@pytest.mark.parametrize(
    ("share", "num_layers", "named"),
    [(0.5, 30, "keeps 15 of 30 layers"), (0.66, 28, "0.68 keeps 19"), (0.5, 4, "0.75 keeps 3")],
)
def test_a_cut_of_more_than_a_third_is_warned_of(share, num_layers, named):
    recipe = recipe_with(method="layers", layer_share=share)
    warning = deep_cut(recipe, num_layers)
    assert warning and named in warning and "student.vocabulary" in warning
    least = float(warning.partition("training. ")[2].split()[0])
    assert deep_cut(recipe_with(method="layers", layer_share=least), num_layers) is None


@pytest.mark.parametrize("student", [{"method": "base"}, {"method": "layers", "layer_share": 0.7}])
def test_a_smaller_cut_is_none_to_warn_of(student):
    assert deep_cut(recipe_with(**student), 30) is None


def test_choosing_layers_takes_time_where_the_model_is_read():
    seconds = {
        by: choice_seconds(Workload.of(recipe_with(method="layers", layers_by=by), MACHINE))
        for by in ("even", "last", "block_influence", "nll")
    }
    assert seconds["even"] == seconds["last"] == 0 < seconds["block_influence"] < seconds["nll"]


def bytes_of(student, memory=32e9):
    """Return (bytes to make a student of a model that is not here, the whole model's, the student's)."""
    recipe = load_recipe(QUICKSTART, [f"student={{{student}}}"])
    work = Workload.of(recipe, replace(MACHINE, memory=memory))
    assert work.student_source is not None
    return making_bytes(work), 4 * work.student_source.parameters, 4 * work.student.parameters


@pytest.mark.parametrize(
    "student",
    [
        "method: base, model: Qwen/Qwen3-8B, ffn_width: 4096",
        "method: layers, model: Qwen/Qwen3-8B, layer_share: 0.5",
        "method: layers, model: Qwen/Qwen3-30B-A3B, layer_share: 0.25, layers_by: even",
    ],
)
def test_a_model_that_is_cut_is_reckoned_by_the_layer_where_it_has_no_room(student):
    bytes_, whole, kept = bytes_of(student)
    assert kept < bytes_ < kept + 0.35 * whole


@pytest.mark.parametrize(
    "student",
    [
        "method: base, model: Qwen/Qwen3-8B",
        "method: layers, model: Qwen/Qwen3-8B, layer_share: 0.5, layers_by: nll",
    ],
)
def test_a_model_that_stays_whole_or_is_searched_is_reckoned_as_a_whole(student):
    bytes_, whole, _ = bytes_of(student)
    assert bytes_ == whole


def test_a_model_that_has_room_is_read_once():
    student = "method: layers, model: Qwen/Qwen3-8B, layer_share: 0.5"
    bytes_, whole, _ = bytes_of(student, 64e9)
    assert bytes_ == whole
    evenly, whole, kept = bytes_of(f"{student}, layers_by: even", 64e9)
    assert kept < evenly < whole, "no sample goes through it"


def test_a_mixture_is_copied_in_part_when_it_is_saved():
    bytes_, whole, kept = bytes_of("method: base, model: Qwen/Qwen3-30B-A3B")
    assert kept == whole < bytes_ < 2 * whole


def test_layers_that_are_read_anew_for_each_batch_take_time():
    """On machines whose arithmetic takes none, and of which one has no room."""

    def seconds(layers_by, memory):
        recipe = recipe_with(method="layers", layers_by=layers_by)
        return choice_seconds(Workload.of(recipe, replace(MACHINE, flops=1e30, memory=memory)))

    assert all(seconds(by, 1e6) < 1e-6 for by in ("even", "nll"))
    assert seconds("block_influence", 1e9) < 1e-6 < 0.1 < seconds("block_influence", 1e6)


@pytest.mark.parametrize(
    "student",
    [
        {"method": "base", "ffn_width": 256},
        {"method": "layers", "layer_share": 0.5, "layers_by": "last", "ffn_width": 256},
    ],
)
def test_the_plan_counts_what_is_left(student, tmp_path):
    recipe = recipe_with(**student)
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    cut(recipe, model, Tokens(), [sample("a")])
    planned = student_size(recipe, size_of(recipe, str(TEACHER), None))
    assert planned.parameters == pytest.approx(model.num_parameters(), rel=0.01)
    assert planned.layers == model.config.num_hidden_layers
    assert PlannedStudent(recipe).row_sizes["intermediate_size"] == 256


def test_the_plan_counts_experts(tmp_path):
    model = save(BY_NAME["qwen3-moe"], tmp_path)
    recipe = load_recipe(
        QUICKSTART, [f"student={{method: base, model: {tmp_path}, num_experts: 4}}"]
    )
    keep_busiest(model, 4, calibration())
    planned = student_size(recipe, size_of(recipe, str(TEACHER), None))
    assert planned.parameters == pytest.approx(model.num_parameters(), rel=0.02)


def test_the_plan_counts_the_width_of_a_model_that_is_not_here():
    """What is left of Qwen3-0.6B, 3,072 neurons wide, by the catalogue."""
    recipe = load_recipe(
        QUICKSTART, ["student={method: base, model: Qwen/Qwen3-0.6B, ffn_width: 2048}"]
    )
    removed = 28 * 3 * 1024 * (3072 - 2048)
    planned = student_size(recipe, size_of(recipe, str(TEACHER), None))
    assert planned.parameters == pytest.approx(596_049_920 - removed, rel=1e-3)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"ffn_width": 768}, r"ffn_width 768 is more than the 512 neurons"),
        ({"num_experts": 4}, r"it has no experts"),
    ],
)
def test_a_cut_that_the_model_cannot_have_is_refused_before_anything_is_spent(student, message):
    with pytest.raises(MismatchError, match=message):
        check_cuts(recipe_with(method="base", **student))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("model: Qwen/Qwen3-0.6B, num_experts: 4", r"Qwen3-0\.6B: it has no experts"),
        ("model: Qwen/Qwen3-30B-A3B, ffn_width: 256", r"30B-A3B: its feed-forward is a mixture"),
    ],
)
def test_a_cut_of_a_model_that_is_not_here_is_refused_by_the_catalogue(student, message):
    with pytest.raises(MismatchError, match=message):
        check_cuts(load_recipe(QUICKSTART, [f"student={{method: base, {student}}}"]))


@pytest.mark.parametrize(
    "student",
    [
        "model: Qwen/Qwen3-0.6B, ffn_width: 256",
        "model: Qwen/Qwen3-30B-A3B, num_experts: 4",
        "model: tencent/Hunyuan-A13B-Instruct, num_experts: 4",  # of which it knows no size
        "model: nobody/knows, num_experts: 4",
    ],
)
def test_what_the_catalogue_does_not_forbid_waits_for_the_models_config(student):
    check_cuts(load_recipe(QUICKSTART, [f"student={{method: base, {student}}}"]))


def test_generate_refuses_such_a_cut_before_the_teacher_is_asked(tmp_path):
    student = f"student={{method: base, model: {TEACHER}, ffn_width: 768}}"
    with pytest.raises(MismatchError, match=r"ffn_width 768 is more than the 512 neurons"):
        generate_hot(tmp_path, student)
    assert not (tmp_path / "generate/raw").exists()


def test_a_mixture_is_cut_by_experts_not_by_width(tmp_path):
    save(BY_NAME["qwen3-moe"], tmp_path)
    student = f"student={{method: base, model: {tmp_path}, ffn_width: 256}}"
    with pytest.raises(MismatchError, match=r"mixture of experts.*student\.num_experts"):
        check_cuts(load_recipe(QUICKSTART, [student]))
