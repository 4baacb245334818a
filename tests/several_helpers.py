"""Teachers for recipes with several: the quickstart's own, one that says other things, one with other tokens."""

import json
import shutil
from pathlib import Path

import torch
from run_helpers import QUICKSTART, SMALL
from safetensors.torch import load_file, save_file

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
SWAPPED = (300, 301)  # two tokens of whole characters


def like_the_teacher(folder: Path) -> Path:
    """Copy the quickstart's teacher with weights that differ a little: the same tokenizer."""
    shutil.copytree(TEACHER, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name] = weights[name] * 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_other_tokens(folder: Path) -> Path:
    """Copy it so that two tokens have each other's ids: the same answers in another tokenizer."""
    shutil.copytree(TEACHER, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    names = {number: token for token, number in vocabulary.items()}
    one, other = (names[number] for number in SWAPPED)
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    num_rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    order = torch.arange(num_rows)
    order[list(SWAPPED)] = order[list(reversed(SWAPPED))]
    for name, tensor in weights.items():
        if tensor.shape[0] == num_rows:
            weights[name] = tensor[order].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def words(run_folder: Path, *teachers: str, more: tuple[str, ...] = ()) -> list[object]:
    """Return the words of a small run on the quickstart's prompts; `teachers`: YAML, an entry each."""
    entries = f"teachers=[{', '.join(teachers)}]"
    small = [word for word in SMALL if not word.startswith("teacher.")]
    return [QUICKSTART, "teacher=null", entries, *small, f"run_folder={run_folder}", *more]


def entry(name: str, model: Path, **fields: object) -> str:
    """Return an entry of `teachers` in YAML."""
    values = {"batch_tokens": 1500, **fields}
    others = "".join(f", {key}: {value}" for key, value in values.items())
    return f"{{name: {name}, model: {model}{others}}}"
