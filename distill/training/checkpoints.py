"""Checkpoints: folders that are whole or absent, safetensors and JSON only, every file with its SHA-256.

    checkpoints/<role>/step-00000120/{model.safetensors, optimizer.safetensors, state.json}
    checkpoints/<role>/best-00000100/model.safetensors

The newest good one is taken; a damaged one is named and passed over. Two are kept.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distill.core.digests import file_sha256
from distill.core.files import FolderWriter
from distill.errors import DataError

NUM_KEPT = 2
Tensors = dict[str, torch.Tensor]


def save(folder: Path, step: int, model: Tensors, optimizer: Any, state: dict[str, Any]) -> None:
    """Write `step-<step>` with the model's tensors, the optimizer's state and `state`; prune old ones."""
    tensors, scalars = _flatten(optimizer.state_dict()["state"])
    with FolderWriter(folder / f"step-{step:08d}") as temporary:
        save_file(model, temporary / "model.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        hashes = {path.name: file_sha256(path) for path in temporary.glob("*.safetensors")}
        content = {"step": step, "state": state, "optimizer_scalars": scalars, "sha256": hashes}
        (temporary / "state.json").write_text(json.dumps(content))
    _prune(folder, state.get("best_step"))


def load_newest(
    folder: Path, optimizer: Any
) -> tuple[int, Tensors, dict[str, Any], list[str]] | None:
    """(step, model tensors, state, notes on damaged ones) of the newest whole checkpoint, after filling `optimizer`.

    None where there is no checkpoint at all; DataError where there are some and every one is damaged.
    """
    notes = []
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        try:
            content = json.loads((path / "state.json").read_text())
            for name, expected in content["sha256"].items():
                if file_sha256(path / name) != expected:
                    raise ValueError(f"{name} does not match its SHA-256")
            model = load_file(path / "model.safetensors")
            tensors = load_file(path / "optimizer.safetensors")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            notes.append(f"{path}: damaged ({error}); passed over")
            continue
        optimizer_state = _unflatten(tensors, content["optimizer_scalars"])
        optimizer.load_state_dict(
            {"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        if getattr(optimizer, "is_paged", False):
            _page(optimizer)
        return content["step"], model, content["state"], notes
    if found:
        raise DataError(
            f"{found[0].parent}: every checkpoint is damaged ({notes[0]}); use --redo train to start over"
        )
    return None


def save_best(folder: Path, step: int, model: Tensors) -> None:
    with FolderWriter(folder / f"best-{step:08d}") as temporary:
        save_file(model, temporary / "model.safetensors")


def load_best(folder: Path, step: int) -> Tensors:
    path = folder / f"best-{step:08d}" / "model.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); use --redo train to start over"
        ) from None


def _prune(folder: Path, best_step: int | None) -> None:
    """Keep the newest steps, and the best weights that they refer to."""
    steps = sorted(folder.glob("step-*"))
    for path in steps[:-NUM_KEPT]:
        shutil.rmtree(path)
    wanted = {best_step}
    for path in steps[-NUM_KEPT:]:
        wanted.add(json.loads((path / "state.json").read_text())["state"].get("best_step"))
    for path in folder.glob("best-*"):
        if int(path.name.removeprefix("best-")) not in wanted:
            shutil.rmtree(path)


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and scalars of an optimizer's state, each by its path (`3.exp_avg`); bitsandbytes has one level more."""
    tensors, scalars = {}, {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{path}.{name}", inner)
        elif isinstance(value, torch.Tensor):
            tensors[path] = value.contiguous()
        else:
            scalars[path] = value

    for index, values in state.items():
        walk(str(index), values)
    shared: set[int] = set()
    for (
        path,
        tensor,
    ) in (
        tensors.items()
    ):  # bitsandbytes' tables are one tensor for all parameters; safetensors wants a copy each
        if tensor.data_ptr() in shared:
            tensors[path] = tensor.clone()
        shared.add(tensor.data_ptr())
    return tensors, scalars


def _unflatten(tensors: Tensors, scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *scalars.items()]:
        index, *between, name = path.split(".")
        place = state.setdefault(int(index), {})
        for key in between:
            place = place.setdefault(key, {})
        place[name] = value
    return state


@torch.no_grad()
def _page(optimizer: Any) -> None:
    """Put the states of a paged optimizer back into memory that moves between GPU and CPU: loading left them on the GPU."""
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            if name in state:
                state[name] = optimizer.get_state_buffer(parameter, dtype=state[name].dtype).copy_(
                    state[name]
                )
