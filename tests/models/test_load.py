import json
import os
import shutil

import pytest
import torch
from conftest import tiny_qwen3
from safetensors.torch import load_file, save_file

from distill.errors import DataError, MismatchError, MissingError, RecipeError
from distill.models import find, load
from distill.models.head import Head, head_of, logits


@pytest.fixture
def folder(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_comes_back_as_it_was_saved(folder):
    model = load.load_model(str(folder), load.Placement("cpu", "float32"))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, tiny_qwen3()(ids).logits)
    assert find.num_parameters(folder) == model.num_parameters()
    assert load.stop_ids(model) == [2]


def test_the_identity_follows_weights_and_config_not_the_place(folder, tmp_path):
    before = find.identity(str(folder))
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert find.identity(str(tmp_path / "elsewhere")) == before
    tiny_qwen3(seed=1).save_pretrained(tmp_path / "other")
    assert find.identity(str(tmp_path / "other")) != before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert find.identity(str(folder)) != before
    assert find.identity("Qwen/Qwen3-8B", "abc") == "Qwen/Qwen3-8B@abc"


def test_weights_that_could_run_code_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingError, match=r"no \*\.safetensors; other weight files can run code"):
        load.load_model(str(folder), load.Placement("cpu", "float32"))


@pytest.mark.parametrize("left", ["half", "head", "nothing", "pointer"])
def test_half_a_download_is_named(folder, left):
    file = folder / "model.safetensors"
    if left == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n")
    else:
        os.truncate(file, {"half": file.stat().st_size // 2, "head": 100, "nothing": 0}[left])
    with pytest.raises(
        DataError, match=r"model\.safetensors: not a whole file of weights .* fetch it again"
    ):
        load.load_model(str(folder), load.Placement("cpu", "float32"))


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_are_not_there_are_not_made_up(folder, change):
    """transformers would start with random ones, and say so in a table."""
    if change == "missing":
        weights = load_file(folder / "model.safetensors")
        save_file(
            {k: v for k, v in weights.items() if "layers.1" not in k},
            folder / "model.safetensors",
            {"format": "pt"},
        )
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 999}))
    with pytest.raises(
        MismatchError, match=r"of its weights are missing, or of another shape .*model\.layers\.\d"
    ):
        load.load_model(str(folder), load.Placement("cpu", "float32"))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_none_is_named(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json: .*fetch it again"):
        find.read_config(str(folder))


def test_a_folder_without_a_tokenizer_has_none(folder):
    with pytest.raises(MissingError, match=r"tokenizer"):
        load.load_tokenizer(str(folder))


@pytest.mark.parametrize("code", [False, True])
def test_a_tokenizer_that_only_foreign_code_can_read_is_said_with_the_ways_out(tmp_path, code):
    """What Kimi K2's repository holds; none of its code is run to find out."""
    (tmp_path / "tiktoken.model").write_text("IQ== 0\n")
    names = {
        "tokenizer_class": "TikTokenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "tokenization_kimi.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(
        MismatchError,
        match=r"tiktoken\.model.* no tokenizer\.json.*teacher\.server_gives=text.*TikTokenConverter",
    ):
        load.load_tokenizer(str(tmp_path), trust_remote_code=code)


def test_a_hub_id_without_network_says_what_to_do():
    with pytest.raises(MissingError, match=r"neither a folder .* nor in the hub cache"):
        find.local_folder("nobody/nothing-of-this-name")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu():
    with pytest.raises(RecipeError, match="torch sees no GPU"):
        load.placement("cuda", "auto")
    assert str(load.placement("auto", "auto")) == "cpu, float32"


def test_a_head_with_scale_and_softcap_is_rebuilt_and_an_unknown_one_refused(qwen3):
    ids = torch.tensor([[5, 6, 7]])
    hidden = qwen3.base_model(ids).last_hidden_state
    assert torch.allclose(logits(head_of(qwen3), hidden), qwen3(ids).logits, atol=1e-5)
    capped = Head(qwen3.lm_head.weight, scale=0.5, softcap=3.0)
    assert torch.allclose(
        logits(capped, hidden), 3 * (0.5 * qwen3(ids).logits / 3).tanh(), atol=1e-5
    )
    qwen3.config.logit_scale = 2.0  # says what Qwen3 does not do
    with pytest.raises(MismatchError, match="its logits are not head"):
        head_of(qwen3)
