"""What is checked of a loaded model: its weights are all there, all used, all finite, and its head is its own."""

import json

import pytest
import torch
from conftest import tiny_qwen3
from families import BY_NAME, save
from safetensors.torch import load_file, save_file

from distill.errors import DataError, MismatchError
from distill.formats import w16a16
from distill.formats.bitsandbytes import load_bnb, write_bnb
from distill.formats.w4a16 import load_w4a16, write_w4a16
from distill.models import load

CPU = load.Placement("cpu", "float32")
IDS = torch.tensor([[5, 6, 7]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder, change):
    """Write the folder's weights after `change(dict)`, which returns a dict or changes the given one."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(change(weights) or weights, path, {"format": "pt"})


def set_number(name, value, place=17):
    def change(weights):
        weights[name].view(-1)[place] = value

    return change


@pytest.mark.parametrize("names", [["LlamaForCausalLM"], None])
def test_a_config_of_another_architecture_is_refused_with_the_names_that_have_no_place(
    folder, names
):
    """A Qwen3 as a Llama: without q_norm and k_norm it would go on, and answer otherwise."""
    edit_config(folder, model_type="llama", architectures=names)
    with pytest.raises(
        MismatchError, match=r"4 of its tensors have no place in a LlamaForCausalLM .*q_norm"
    ):
        load.load_model(str(folder), CPU)


def test_fewer_layers_in_the_config_than_in_the_file_are_refused(folder):
    edit_config(folder, num_hidden_layers=1, layer_types=["full_attention"])
    with pytest.raises(MismatchError, match=r"have no place .*model\.layers\.1\."):
        load.load_model(str(folder), CPU)


def test_architecture_and_model_type_of_two_families_are_refused(folder):
    """The same tensors in both: only the config's own words tell."""
    edit_config(folder, architectures=["LlamaForCausalLM"])
    with pytest.raises(MismatchError, match=r"LlamaForCausalLM.*model_type 'qwen3'"):
        load.load_model(str(folder), CPU)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_buffers_that_older_versions_saved_are_harmless(folder, name):
    edit_weights(folder, lambda weights: weights | {name: torch.ones(8)})
    assert torch.equal(load.load_model(str(folder), CPU)(IDS).logits, tiny_qwen3()(IDS).logits)


def test_heads_that_guess_several_tokens_are_harmless_where_the_family_has_them(tmp_path):
    saved = save(BY_NAME["deepseek-v3.1"], tmp_path)
    head = {"model.layers.2.eh_proj.weight": torch.ones(64, 128)}
    edit_weights(tmp_path, lambda weights: weights | head)
    with pytest.raises(MismatchError, match=r"no place .*model\.layers\.2\.eh_proj"):
        load.load_model(str(tmp_path), CPU)
    edit_config(tmp_path, num_nextn_predict_layers=1)
    assert torch.equal(load.load_model(str(tmp_path), CPU)(IDS).logits, saved(IDS).logits)


def test_what_sees_and_what_guesses_ahead_are_harmless_beside_a_language_model(tmp_path):
    save(BY_NAME["qwen3.5"], tmp_path)
    parts = ["vision_tower.patch.weight", "model.multi_modal_projector.weight", "mtp.fc.weight"]
    edit_weights(tmp_path, lambda weights: weights | {name: torch.ones(2) for name in parts})
    assert load.load_model(str(tmp_path), CPU)
    edit_weights(tmp_path, lambda weights: weights | {"model.memory.weight": torch.ones(2)})
    with pytest.raises(MismatchError, match=r"1 of its tensors .*model\.memory\.weight"):
        load.load_model(str(tmp_path), CPU)


def test_parts_of_a_larger_model_have_no_place_in_one_that_is_none(folder):
    edit_weights(folder, lambda weights: weights | {"vision_tower.patch.weight": torch.ones(2)})
    with pytest.raises(MismatchError, match=r"no place .*vision_tower"):
        load.load_model(str(folder), CPU)
    edit_weights(folder, lambda weights: {n: t for n, t in weights.items() if "vision" not in n})
    edit_weights(folder, lambda weights: weights | {"model.mtp.fc.weight": torch.ones(2)})
    with pytest.raises(MismatchError, match=r"no place .*mtp"):
        load.load_model(str(folder), CPU)
    edit_config(folder, use_mtp=True)
    assert load.load_model(str(folder), CPU)


def test_a_config_of_a_far_larger_model_is_refused_before_its_memory_is_taken(folder):
    edit_config(folder, vocab_size=10**11)
    with pytest.raises(MismatchError, match=r"config\.json: .*numbers.*fetch the whole folder"):
        load.load_model(str(folder), CPU)
    edit_config(folder, vocab_size=300, num_hidden_layers=10**7, layer_types=None)
    with pytest.raises(MismatchError, match=r"config\.json: .*10,000,000 layers"):
        load.load_model(str(folder), CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [EMBEDDING, "model.layers.1.mlp.up_proj.weight"])
def test_a_number_that_is_none_is_told_when_the_model_is_loaded(folder, name, value):
    edit_weights(folder, set_number(name, value))
    with pytest.raises(DataError, match=rf"{name} holds .*(NaN|infinite).*fetch it again"):
        load.load_model(str(folder), CPU)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_it_is_told_where_the_weights_are_packed_as_they_are_loaded(folder, quantization):
    edit_weights(folder, set_number("model.layers.1.mlp.up_proj.weight", float("nan")))
    where = load.Placement("cpu", "bfloat16", quantization)
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj\.weight holds "):
        load.load_model(str(folder), where)


def test_a_number_beyond_the_type_that_is_asked_for_is_told_with_the_way_out(folder):
    edit_weights(folder, set_number("model.layers.0.mlp.up_proj.weight", 1e6))
    assert load.load_model(str(folder), load.Placement("cpu", "bfloat16"))
    with pytest.raises(MismatchError, match=r"up_proj.*beyond float16.*bfloat16"):
        load.load_model(str(folder), load.Placement("cpu", "float16"))


def test_a_type_of_eight_bits_is_checked_too(folder):
    from distill.models.loaded_weights import is_finite

    weights = torch.randn(64).to(torch.float8_e4m3fn)
    assert is_finite(weights)
    weights.view(torch.uint8)[3] = 0x7F
    assert not is_finite(weights)
    assert is_finite(torch.empty(0)) and is_finite(torch.tensor([1, 2]))


@pytest.mark.parametrize("kind", ["nf4", "int8", "w4a16"])
def test_the_folders_that_we_write_are_checked_when_they_are_loaded_back(folder, tmp_path, kind):
    out = tmp_path / kind
    out.mkdir()
    loaded = load_w4a16 if kind == "w4a16" else load_bnb
    if kind == "w4a16":
        pytest.importorskip("compressed_tensors")
        write_w4a16(folder, out)
    else:
        write_bnb(folder, out, kind)
    assert torch.isfinite(loaded(out)(IDS).logits).all()
    edit_weights(out, lambda weights: weights | {"model.layers.0.spare.weight": torch.ones(2)})
    with pytest.raises(MismatchError, match=r"layers\.0\.spare\.weight"):
        loaded(out)
    edit_weights(out, lambda weights: {n: t for n, t in weights.items() if "spare" not in n})
    edit_weights(out, set_number("model.norm.weight", float("nan"), place=3))
    with pytest.raises(DataError, match=r"model\.norm\.weight holds "):
        loaded(out)


@pytest.mark.parametrize("write", [lambda f, o: write_bnb(f, o, "nf4"), write_w4a16])
def test_a_student_that_its_config_does_not_describe_is_not_quantized(folder, tmp_path, write):
    (tmp_path / "out").mkdir()
    edit_config(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(MismatchError, match="no place"):
        write(folder, tmp_path / "out")


def add_head(folder, change):
    """Put a separate lm_head in the file of a model whose config says it is tied."""
    edit_weights(folder, lambda weights: weights | {HEAD: change(weights[EMBEDDING])})


def test_a_head_of_its_own_is_computed_with_and_the_config_says_so_from_then_on(
    folder, tmp_path, capsys
):
    """What PEFT leaves where it has merged an adapter into a tied head."""
    add_head(folder, lambda embedding: embedding.roll(1, 0))
    model = load.load_model(str(folder), CPU)
    saved = tiny_qwen3()
    with torch.no_grad():
        expected = saved(IDS).logits.roll(1, -1)
    assert torch.allclose(model(IDS).logits, expected, atol=1e-5)
    assert model.config.tie_word_embeddings is False
    assert "the file holds another head: the file's is taken" in capsys.readouterr().err
    model.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    again = load.load_model(str(tmp_path / "again"), CPU)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    w16a16.write_w16a16(folder, tmp_path, "bfloat16")
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


def test_of_two_equal_heads_one_is_kept(folder, tmp_path):
    add_head(folder, torch.clone)
    model = load.load_model(str(folder), CPU)
    assert model.config.tie_word_embeddings is True
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "again")
    assert HEAD not in load_file(tmp_path / "again" / "model.safetensors")
