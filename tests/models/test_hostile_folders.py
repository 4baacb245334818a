"""Model folders that are broken in every way we can think of: refused clearly, or read as they are meant."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, save
from hostile_helpers import Tally
from run_helpers import QUICKSTART
from safetensors.torch import load_file, save_file

from distill.models import find, load
from distill.planning import lengths
from distill.planning.sizes import size_of
from distill.recipe import load_recipe

KIND = "model folders"
CPU = load.Placement("cpu", "float32")
IDS = torch.arange(3, 20)[None]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy") / "model"
    save(BY_NAME["qwen3"], folder)
    return folder


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(QUICKSTART)


@pytest.fixture
def attempt(healthy, recipe, tmp_path):
    """Return how a changed copy of the folder is read: tokens and logits, after all that stages ask of it."""
    numbers = iter(range(10_000))

    def read(change: Change) -> Any:
        folder = Path(shutil.copytree(healthy, tmp_path / f"model{next(numbers)}"))
        change(folder)
        location = str(folder)
        find.identity(location)
        size_of(recipe, location, None)
        tokenizer = load.load_tokenizer(location)
        config = lengths.text_config(location, None)
        lengths.require_rows("teacher", location, config, tokenizer)
        lengths.context_of(config)
        find.stop_ids_of_files(location)
        model = load.load_model(location, CPU)
        load.stop_ids(model)
        find.num_parameters(folder)
        model.save_pretrained(folder / "saved")
        with torch.no_grad():
            logits = model(IDS).logits
        return tokenizer("Habari ya asubuhi").input_ids, logits.tolist()

    return read


def edit_json(name: str, **values: Any) -> Change:
    """Set values of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        path = folder / name
        old = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({k: v for k, v in (old | values).items() if v is not ...}))

    return change


def write(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)

    return change


def edit_weights(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Change:
    def changed(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file(change(weights) or weights, folder / WEIGHTS, {"format": "pt"})

    return changed


def renamed(old: str, new: str) -> Change:
    return edit_weights(lambda w: {(new if name == old else name): t for name, t in w.items()})


def set_number(name: str, value: float) -> Change:
    def change(weights: dict[str, Any]) -> None:
        weights[name].view(-1)[random.Random(name).randrange(weights[name].numel())] = value

    return edit_weights(change)


def in_shards(edit: Callable[[Path, dict[str, Any]], None]) -> Change:
    """Cut the weights into two files and an index, which `edit(folder, weight_map)` may change."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(weights)
        weight_map: dict[str, Any] = {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"model-{number}.safetensors"
            save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        edit(folder, weight_map)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return change


def all_of(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "blob")
    (folder / WEIGHTS).symlink_to("blob")


def piped(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def looped(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)


def test_what_is_meant_is_read(tally: Tally, attempt: Any) -> None:
    right = attempt(lambda _: None)
    harmless = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.rotary_emb.inv_freq": torch.ones(8),
    }
    cases: dict[str, Change] = {
        "rotary buffers": edit_weights(lambda w: w | harmless),
        "an equal head": edit_weights(lambda w: w | {HEAD: w[EMBEDDING].clone()}),
        "the head alone": renamed(EMBEDDING, HEAD),
        "shards": in_shards(lambda *_: None),
        "a file that the index does not name": in_shards(
            lambda folder, _: save_file({"x": torch.ones(2)}, folder / "other.safetensors")
        ),
        "a pickle beside the weights": write("pytorch_model.bin", b"cposix\nsystem\n"),
        "a link": linked,
        "architectures null": edit_json("config.json", architectures=None),
        "no architectures": edit_json("config.json", architectures=...),
        "dtype bfloat16": edit_json("config.json", dtype="bfloat16"),
        "torch_dtype": edit_json("config.json", dtype=..., torch_dtype="float16"),
        "no dtype": edit_json("config.json", dtype=...),
        "unknown keys": edit_json("config.json", my_own={"a": [1]}, transformers_version="99.0"),
        "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
        "eos in a list": edit_json("generation_config.json", eos_token_id=[3, 4]),
        "sampling values without sampling": edit_json(
            "generation_config.json", do_sample=False, temperature=0.6, top_p=0.9
        ),
        "a long context": edit_json("config.json", max_position_embeddings=1 << 20),
    }
    for name, change in cases.items():
        tally.must_accept(name, lambda change=change: attempt(change), right)


def test_what_is_another_models_or_broken_is_refused(tally: Tally, attempt: Any) -> None:
    text = "\ufeff{}"
    nothing: Change = lambda folder: (folder / WEIGHTS).unlink()  # noqa: E731 - a case of a table
    cases: dict[str, Change] = {
        **{
            f"{name} is {content!r:.20}": write(name, content)
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
            for content in ("[]", "7", '"x"', "null", "{", "", text, b"\xff\xfe", "[" * 30_000)
        },
        **{
            f"generation_config.json is {content!r:.20}": write("generation_config.json", content)
            for content in ("[]", "{", b"\xff\xfe")
        },
        "an empty tokenizer": write("tokenizer.json", "{}"),
        "no config": lambda folder: (folder / "config.json").unlink(),
        "config is a folder": lambda folder: (
            (folder / "config.json").unlink(),
            (folder / "config.json").mkdir(),
        ),
        "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
        "no weights": nothing,
        "only a pickle": all_of(nothing, write("pytorch_model.bin", b"cposix\nsystem\n")),
        "only other weights": lambda folder: (folder / WEIGHTS).rename(folder / "x.safetensors"),
        "a pipe": piped,
        "a link to itself": looped,
        "empty weights": write(WEIGHTS, b""),
        "no tensors": edit_weights(lambda _: {"x": torch.ones(1)}),
        "a header of 2^63 bytes": write(WEIGHTS, b"\xff" * 7 + b"\x7f{}"),
        "git's pointer": write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        "cut off": lambda folder: os.truncate(folder / WEIGHTS, 20_000),
        "another family": edit_json("config.json", model_type="llama", architectures=None),
        "two families": edit_json("config.json", architectures=["LlamaForCausalLM"]),
        "no family": edit_json("config.json", model_type="nothing_known"),
        "an encoder": edit_json("config.json", model_type="bert"),
        "fewer layers": edit_json(
            "config.json", num_hidden_layers=1, layer_types=["full_attention"]
        ),
        "more layers": edit_json(
            "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3
        ),
        "an untied config": edit_json("config.json", tie_word_embeddings=False),
        "a tensor too many": edit_weights(lambda w: w | {"model.extra.weight": torch.ones(2)}),
        "a tensor too few": edit_weights(lambda w: {n: t for n, t in w.items() if n != UP}),
        "a renamed tensor": renamed(UP, UP.replace("up", "down_up")),
        "a turned tensor": edit_weights(lambda w: w | {UP: w[UP].T.contiguous()}),
        "NaN": set_number(UP, float("nan")),
        "infinity": set_number(EMBEDDING, float("inf")),
        "an index of a pickle": in_shards(lambda _, names: names.update({UP: "a.bin"})),
        "an index that leads away": in_shards(
            lambda _, names: names.update({UP: "../healthy/model.safetensors"})
        ),
        "an index of numbers": in_shards(lambda _, names: names.update({UP: 7})),
        "an empty index": in_shards(lambda _, names: names.clear()),
        "a missing shard": in_shards(lambda folder, _: (folder / "model-1.safetensors").unlink()),
        "two sets": in_shards(lambda folder, _: save_file({"x": torch.ones(1)}, folder / WEIGHTS)),
        "an adapter": write("adapter_config.json", '{"base_model_name_or_path": "a/b"}'),
        "weights elsewhere": edit_json("config.json", transformers_weights="adapter_model.bin"),
        "code that is needed": edit_json(
            "config.json", model_type="my_own", auto_map={"AutoConfig": "x.Config"}
        ),
        "an unknown dtype": edit_json("config.json", dtype="float99"),
        "an unknown torch_dtype": edit_json("config.json", torch_dtype="exec"),
        "an unknown quantization": edit_json(
            "config.json", quantization_config={"quant_method": "mine"}
        ),
        **{
            f"eos_token_id {ids!r}": edit_json("generation_config.json", eos_token_id=ids)
            for ids in ("x", -3, 1.5, [[1]], {"a": 1}, True)
        },
    }
    for name, change in cases.items():
        tally.must_refuse(name, lambda change=change: attempt(change))


VALUES = ("x", -1, 0, 1, 7, 10**12, 1.5, [], {}, [1], ["x"], None, True, ...)
# with another value of a right kind these make another model, and nobody can tell
FREE = (
    "rms_norm_eps",
    "normalizer",
    "pre_tokenizer",
    "decoder",
    "hidden_act",
    "rope_parameters",
    "layer_types",
    "use_sliding_window",
)
KEYS = {
    "config.json": [
        "model_type",
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "vocab_size",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "tie_word_embeddings",
        "dtype",
        "attention_bias",
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
        "quantization_config",
        "auto_map",
        "text_config",
        "initializer_range",
        "use_cache",
        *FREE,
    ],
    "generation_config.json": ["eos_token_id", "pad_token_id", "temperature", "top_k", "do_sample"],
    "tokenizer.json": [
        "version",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "decoder",
        "model",
    ],
    "tokenizer_config.json": [
        "tokenizer_class",
        "eos_token",
        "pad_token",
        "model_max_length",
        "add_bos_token",
        "padding_side",
    ],
}


@pytest.mark.parametrize("seed", range(3))
def test_a_value_of_another_kind_is_refused_or_changes_nothing(
    tally: Tally, attempt: Any, seed: int
) -> None:
    right = attempt(lambda _: None)
    chance = random.Random(seed)
    for file, keys in KEYS.items():
        for key in keys:
            value = chance.choice(VALUES)
            name = f"{file}: {key} = {value!r}"
            is_right = (lambda _: True) if key in FREE else (lambda found: found == right)
            change = edit_json(file, **{key: value})
            tally.refuse_or(name, lambda change=change: attempt(change), is_right)


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits_in_a_header_of_weights_are_refused_or_change_nothing(
    tally: Tally, attempt: Any, healthy: Path, seed: int
) -> None:
    right = attempt(lambda _: None)
    chance = random.Random(seed)
    data = (healthy / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for place in chance.sample(range(end), 20):
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        change = write(WEIGHTS, bytes(flipped))
        name = f"bit of byte {place}"
        tally.refuse_or(name, lambda change=change: attempt(change), lambda found: found == right)


@pytest.mark.parametrize("type_name", ["I32", "U32"])
def test_weights_that_are_whole_numbers_are_refused(
    tally: Tally, attempt: Any, healthy: Path, type_name: str
) -> None:
    data = (healthy / WEIGHTS).read_bytes()
    changed = data.replace(b'"dtype":"F32"', f'"dtype":"{type_name}"'.encode())
    tally.must_refuse(type_name, lambda: attempt(write(WEIGHTS, changed)))
