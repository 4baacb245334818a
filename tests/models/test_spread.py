"""A model whose layers lie on several devices: the same bits as on one, and everything where it is computed with."""

import multiprocessing
from typing import Any

import families
import pytest
import torch
from conftest import tiny_qwen3
from run_helpers import QUICKSTART
from safetensors.torch import load_file, save_file
from two_device_helpers import check_both

from distill.errors import DataError, MismatchError, RecipeError
from distill.models import load, spread
from distill.models.continuations import Continued, Reader, log_likelihoods
from distill.models.decode import answer
from distill.models.graphed_step import can_record
from distill.models.head import head_of
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, score
from distill.on_policy.student_answers import Student, recipe_of_student
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.local import LocalTeacher

PARTS = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}
ON_ONE = {"": "cpu"}
SPREAD = ["teacher.device_map=auto", "teacher.device=auto"]
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [20]]


def folder_of(tmp_path, *, tied):
    model = tiny_qwen3()
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(300, 64) * 0.02)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def loaded(folder, parts):
    return load.from_folder(
        folder, dtype=torch.float32, device_map=parts, offload_folder=folder.parent / "offload"
    )


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def both(request, tmp_path):
    """The model on one device, and with a layer that is read for each pass."""
    folder = folder_of(tmp_path, tied=request.param)
    parts = PARTS | ({"lm_head": "cpu"} if request.param else {})
    return loaded(folder, ON_ONE), loaded(folder, parts)


def answers(model):
    found = {}
    answer(
        model,
        PROMPTS,
        seeds=[1, 2, 3],
        sampling=Sampling(temperature=1.0, max_new_tokens=8, stop_ids=(2,)),
        pad_id=0,
        on_finished=lambda index, ids, reason: found.update({index: (ids, reason)}),
        num_slots=2,
    )
    return found


def scores(model):
    sequences = [TokenSequence(list(range(3, 30)), 4), TokenSequence(list(range(40, 52)), 2)]
    return list(score(model, head_of(model), sequences, batch_tokens=64, pad_id=0, vocab_size=290))


def test_a_spread_model_answers_and_scores_the_same_bits(both):
    one, several = both
    assert spread.is_spread(several) and not spread.is_spread(one)
    assert any(p.is_meta for p in several.parameters()), "a layer stays out of the model"
    assert answers(several) == answers(one)
    for (i, logp, top), (j, expected, expected_top) in zip(
        scores(several), scores(one), strict=True
    ):
        assert i == j and torch.equal(logp, expected) and torch.equal(top, expected_top)


@pytest.mark.parametrize("name", ["qwen3-moe", "deepseek-v3.1", "qwen3.5"])
def test_models_of_other_classes_say_the_same_when_they_are_spread(name, tmp_path):
    """Experts, latent attention, linear attention; random weights of two layers."""
    families.save(families.BY_NAME[name], tmp_path / "model")
    one, several = (loaded(tmp_path / "model", parts) for parts in (ON_ONE, PARTS))
    assert any(p.is_meta for p in several.parameters())
    assert answers(several) == answers(one)
    for found, expected in zip(scores(several), scores(one), strict=True):
        assert torch.equal(found[1], expected[1])


def test_a_spread_model_reads_continuations_the_same(both):
    batch = [Continued((5, 6, 7), ((8, 9), (10,))), Continued((11, 12), ((13, 14, 15), (16, 17)))]
    one, several = (
        log_likelihoods(Reader(model, head_of(model), 0, 290, 64), batch, lambda num: None)
        for model in both
    )
    assert one == several


def test_a_step_over_several_devices_is_not_recorded(both):
    assert not can_record(both[1])


def test_a_weight_that_is_none_is_found_also_where_it_stays_out_of_the_model(tmp_path):
    folder = folder_of(tmp_path, tied=False)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"model\.layers\.1\.mlp\.up_proj"):
        loaded(folder, PARTS)


def test_layers_that_have_no_room_in_memory_are_refused_with_the_way_out(both):
    one, several = both
    spread.refuse_disk("m", one)
    with pytest.raises(MismatchError, match=r"room neither on the GPUs.*teacher\.quantization nf4"):
        spread.refuse_disk("m", several)
    layer = several.get_submodule("model.layers.1")
    assert spread.bytes_on(several, "disk") >= 4 * sum(p.numel() for p in layer.parameters())


def test_where_the_layers_lie_is_told_with_the_price_of_this_machines_memory():
    model: Any = tiny_qwen3()
    assert spread.told(model) is None
    model.hf_device_map = dict.fromkeys(PARTS, 0) | {"model.layers.1": "cpu"}
    num_bytes = 4 * sum(p.numel() for p in model.model.layers[1].parameters())
    assert spread.bytes_on(model, spread.HOST) == num_bytes
    text = spread.told(model)
    assert text is not None and text.startswith("its layers lie on one GPU; ")
    assert "copied to a GPU for each pass" in text and "nf4" in text
    model.hf_device_map = dict.fromkeys(PARTS, 0) | {"model.layers.1": 1}
    assert spread.told(model) == "its layers lie on 2 GPUs"


def test_on_two_devices_everything_is_where_it_is_computed_with():
    """As on two GPUs, as far as no numbers are needed."""
    child = multiprocessing.get_context("fork").Process(target=check_both)
    child.start()
    child.join(120)
    assert child.exitcode == 0, "see what it wrote"


def test_without_a_gpu_there_is_one_device():
    teacher = connect(load_recipe(QUICKSTART, SPREAD))
    assert isinstance(teacher, LocalTeacher)
    assert torch.cuda.is_available() or not teacher.placement.spread
    where = load.Placement("cuda", "bfloat16", "nf4", spread=True)
    assert str(where) == "cuda, bfloat16, nf4, layers spread"


@pytest.mark.parametrize(
    ("fields", "message", "way_out"),
    [
        (["teacher.device=cpu"], "remove one of them", ["teacher.device=auto"]),
        (["teacher.gguf=t.gguf"], "remove gguf, or", ["teacher.gguf=null"]),
        (["num_processes=4"], "set num_processes to null", ["num_processes=null"]),
    ],
)
def test_what_does_not_go_with_several_devices_is_refused(fields, message, way_out):
    given = [*SPREAD, *fields]
    with pytest.raises(RecipeError, match=message):
        load_recipe(QUICKSTART, given)
    load_recipe(QUICKSTART, [*given, *way_out])


def test_where_layers_lie_is_the_machines_affair_and_not_the_students(tmp_path):
    plain, spread_out = (
        load_recipe(QUICKSTART, ["rounds={}", *more]) for more in (SPREAD[1:], SPREAD)
    )
    assert plain.teacher.identity() == spread_out.teacher.identity()
    student = Student(tmp_path, "d", load.Placement("cpu", "float32"))
    assert recipe_of_student(spread_out, student).teacher.device_map is None
