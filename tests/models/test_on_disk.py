"""A model whose layers stay in its files is the one that is loaded whole."""

import pytest
import torch
import transformers
from families import BY_NAME, save
from safetensors.torch import load_file, save_file

from distill.errors import DataError, DistillError
from distill.models import load, on_disk
from distill.models.loaded_weights import BeyondTypeError

WHOLE = load.Placement("cpu", "float32")
ON_DISK = load.Placement("cpu", "float32", layers_on_disk=True)
IDS = torch.arange(3, 40)[None]
FAMILIES = ["qwen3", "llama", "qwen3-moe", "qwen3.5", "deepseek-v3.1", "ernie4.5-moe", "gpt-oss"]
NORM = "model.layers.1.post_attention_layernorm.weight"


@pytest.fixture
def folder(tmp_path):
    save(BY_NAME["qwen3"], tmp_path)
    return tmp_path


def change(folder, **changes):
    """Write tensors anew, by their names with _ for the dots; None takes one away."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if n.replace(".", "_") in changes]:
        value = changes[name.replace(".", "_")](tensors.pop(name))
        tensors |= {} if value is None else {name: value.contiguous()}
    save_file(tensors, path, {"format": "pt"})


def unread(model):
    return [name for name, p in model.named_parameters() if p.is_meta]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_computes_the_same_bits_and_keeps_the_same_weights(tmp_path, name):
    save(BY_NAME[name], tmp_path)
    whole, model = (load.load_model(str(tmp_path), where) for where in (WHOLE, ON_DISK))
    layers = {f"{layer}" for layer in range(len(model.base_model.layers))}
    assert {name.split("layers.")[1][0] for name in unread(model)} == layers
    before = unread(model)
    assert torch.equal(model(IDS).logits, whole(IDS).logits)
    assert unread(model) == before
    on_disk.keep(model)
    assert torch.equal(model(IDS).logits, whole(IDS).logits)
    expected, found = whole.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert type(found[key]) is torch.Tensor and found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
    assert model.config.to_dict() == whole.config.to_dict()
    assert model.generation_config.to_dict() == whole.generation_config.to_dict()
    assert {p.requires_grad for p in model.parameters()} == {True}


def test_stored_in_bfloat16_and_in_several_files_it_has_the_same_numbers(tmp_path):
    save(BY_NAME["qwen3-moe"], tmp_path)
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    (tmp_path / "model.safetensors").unlink()
    half.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    whole, model = (load.load_model(str(tmp_path), where) for where in (WHOLE, ON_DISK))
    assert torch.equal(model(IDS).logits, whole(IDS).logits)


def test_a_layer_that_is_kept_is_read_once(folder):
    model = load.load_model(str(folder), ON_DISK)
    on_disk.keep(model, model.base_model.layers[1].mlp.down_proj)
    assert all(".layers.0." in name for name in unread(model))
    change(folder, **{NORM.replace(".", "_"): lambda _: None})
    assert torch.isfinite(model(IDS).logits).all()  # the first one is still there


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "layer 0 can no longer be read"),
        (cut_short, "layer 0 can no longer be read"),
        (lambda folder: change(folder, **{NORM.replace(".", "_"): lambda _: None}), "layer 1 can"),
        (
            lambda folder: change(folder, **{NORM.replace(".", "_"): lambda t: t[1:]}),
            r"layer 1 lacks post_attention_layernorm\.weight, or has it in another shape",
        ),
    ],
)
def test_files_that_are_damaged_after_they_were_opened_are_refused_by_the_layers_name(
    folder, damage, named
):
    model = load.load_model(str(folder), ON_DISK)
    damage(folder)
    with pytest.raises(DataError, match=rf"{folder}: {named}.*fetch the whole folder again"):
        model(IDS)


@pytest.mark.parametrize(
    "value",
    [
        lambda _: None,
        lambda t: t[1:],
        lambda t: t * float("nan"),
        lambda t: t / 0,
        lambda t: t.int(),
    ],
)
def test_a_damaged_layer_is_refused_as_in_a_model_that_is_loaded_whole(folder, value):
    change(folder, **{NORM.replace(".", "_"): value})
    with pytest.raises(DistillError) as whole:
        load.load_model(str(folder), WHOLE)
    with pytest.raises(type(whole.value)) as parts:
        load.load_model(str(folder), ON_DISK)
    assert str(parts.value) == str(whole.value)


def test_a_number_beyond_float32_is_refused_when_its_layer_is_read(folder):
    change(folder, **{NORM.replace(".", "_"): lambda t: t.double() * 1e300})
    model = load.load_model(str(folder), ON_DISK)
    with pytest.raises(BeyondTypeError, match=r"layer 1: post_attention_layernorm\.weight"):
        model(IDS)


def test_a_model_whose_layers_share_weights_is_loaded_whole(folder, monkeypatch):
    shared = {"model.layers.1.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight"}
    family = transformers.Qwen3ForCausalLM
    monkeypatch.setattr(family, "_tied_weights_keys", family._tied_weights_keys | shared)
    model = load.load_model(str(folder), ON_DISK)
    assert unread(model) == [] and not on_disk.are_on_disk(model)
    assert torch.equal(model(IDS).logits, load.load_model(str(folder), WHOLE)(IDS).logits)


def test_a_layers_weight_that_the_file_names_otherwise_stays_in_memory(folder, monkeypatch):
    from transformers import conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    renamed = WeightRenaming(r"^norms\.(\d+)", r"model.layers.\1.post_attention_layernorm.weight")
    mapping = conversion_mapping.get_model_conversion_mapping
    monkeypatch.setattr(
        "transformers.modeling_utils.get_model_conversion_mapping",
        lambda *given, **options: [*mapping(*given, **options), renamed],
    )
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"norms.1": tensors.pop(NORM) + 1}, path, {"format": "pt"})
    whole, model = (load.load_model(str(folder), where) for where in (WHOLE, ON_DISK))
    assert NORM not in unread(model) and unread(model)
    for _ in range(2):
        assert torch.equal(model(IDS).logits, whole(IDS).logits)
    on_disk.keep(model)
    assert torch.equal(model.get_parameter(NORM), whole.get_parameter(NORM))
