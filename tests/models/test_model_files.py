"""The files of a model folder: what is read of it, and what is refused before anything is."""

import json
import os

import pytest
import torch
from conftest import tiny_qwen3
from safetensors.torch import load_file, save_file

from distill.errors import DataError, DistillError, MismatchError, MissingError
from distill.models import load, model_files

CPU = load.Placement("cpu", "float32")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path / "model", max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    return tmp_path / "model"


def rename_in_index(folder, name):
    """Let the index say that a tensor is in the file `name`."""
    index = json.loads((folder / INDEX).read_text())
    first = min(index["weight_map"])
    index["weight_map"][first] = name
    (folder / INDEX).write_text(json.dumps(index))


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_weights_are_those_that_the_index_names(folder, tmp_path):
    assert model_files.weight_files(folder) == [folder / "model.safetensors"]
    other = tmp_path / "sharded"
    tiny_qwen3().save_pretrained(other, max_shard_size="100KB")
    files = model_files.weight_files(other)
    assert files == sorted(other.glob("*.safetensors")) and len(files) > 1
    save_file({"left over": torch.zeros(1)}, other / "consolidated.safetensors")
    assert model_files.weight_files(other) == files, "what it does not name is not read"


class RunsWhenRead:
    """A pickle of it makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors.bin"])
def test_an_index_that_names_a_file_which_can_run_code_is_refused(sharded, tmp_path, name):
    torch.save(RunsWhenRead(tmp_path / "it was run"), sharded / name)
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=rf"index\.json: .*'{name}'.* can run code"):
        load.load_model(str(sharded), CPU)
    assert not (tmp_path / "it was run").exists()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/x.safetensors", "a/b.safetensors", "", 7, None]
)
def test_an_index_that_points_out_of_its_folder_is_refused(sharded, name):
    rename_in_index(sharded, name)
    with pytest.raises(DataError, match=r"index\.json: .*fetch it again"):
        load.load_model(str(sharded), CPU)


def test_a_file_that_the_index_names_and_that_is_not_there_is_named(sharded):
    first = model_files.weight_files(sharded)[0]
    first.rename(first.with_suffix(".part"))
    with pytest.raises(MissingError, match=rf"{first.name}: no such file, though {INDEX} names it"):
        load.load_model(str(sharded), CPU)
    first.symlink_to("nowhere")
    with pytest.raises(MissingError, match=rf"{first.name}: no such file"):
        load.load_model(str(sharded), CPU)


def test_weights_may_be_links_as_in_the_hubs_cache(folder, tmp_path):
    file = folder / "model.safetensors"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    assert load.load_model(str(folder), CPU).num_parameters() > 0


def test_a_pipe_in_place_of_weights_is_refused_and_not_waited_for(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(DistillError, match=r"model\.safetensors: "):
        load.load_model(str(folder), CPU)


def test_two_sets_of_weights_in_one_folder_are_refused(sharded, tmp_path):
    """transformers takes model.safetensors, others what the index names."""
    save_file({}, sharded / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        MismatchError, match=r"model\.safetensors and .*index\.json.* two sets .*remove"
    ):
        load.load_model(str(sharded), CPU)


def test_a_tensor_that_two_files_hold_is_refused(sharded):
    first, second, *_ = model_files.weight_files(sharded)
    weights = load_file(first)
    name = min(weights)
    save_file(load_file(second) | {name: weights[name] + 1}, second, {"format": "pt"})
    with pytest.raises(DataError, match=rf"'{name}' is in .* and in "):
        load.load_model(str(sharded), CPU)


def test_an_adapter_is_not_taken_for_a_model(folder):
    """transformers would fetch the base model that it names, from wherever that is."""
    settings = {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(MismatchError, match=r"adapter_config\.json: .*merge"):
        load.load_model(str(folder), CPU)


def test_a_config_that_names_the_file_of_weights_is_refused(folder):
    """transformers would read adapter_model.bin, a pickle, where a config says so."""
    edit_config(folder, transformers_weights="adapter_model.bin")
    with pytest.raises(DataError, match=r"config\.json: transformers_weights 'adapter_model\.bin'"):
        load.load_model(str(folder), CPU)
