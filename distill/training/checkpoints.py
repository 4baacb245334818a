"""Checkpoints: folders that are whole or absent, every file with its SHA-256.

    checkpoints/<role>/step-00000120/{model.safetensors, optimizer.safetensors, state.json}
    checkpoints/<role>/best-00000100/model.safetensors

safetensors and JSON only. The newest good one is taken; a damaged one is named and passed over. Two
are kept.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distill.core.digests import file_sha256
from distill.core.files import FolderWriter
from distill.errors import DataError

NUM_KEPT = 2
Tensors = dict[str, torch.Tensor]


class Checkpoint(NamedTuple):
    """What a checkpoint holds beside the optimizer's state; `notes` name newer, damaged ones."""

    step: int
    model: Tensors
    state: dict[str, Any]
    notes: list[str]


def save(folder: Path, step: int, model: Tensors, optimizer: Any, state: dict[str, Any]) -> None:
    """Write `step-<step>` with the model's tensors, the optimizer's state and `state`.

    Older ones are pruned.
    """
    tensors, scalars = _flatten(optimizer.state_dict()["state"])
    with FolderWriter(folder / f"step-{step:08d}") as temporary:
        save_file(model, temporary / "model.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        hashes = {path.name: file_sha256(path) for path in temporary.glob("*.safetensors")}
        content = {"step": step, "state": state, "optimizer_scalars": scalars, "sha256": hashes}
        (temporary / "state.json").write_text(json.dumps(content))
    _prune(folder, state.get("best_step"))


def load_newest(folder: Path, optimizer: Any) -> Checkpoint | None:
    """Return the newest whole checkpoint, after filling `optimizer`; None if there is none at all.

    Raises DataError where there are some and every one is damaged.
    """
    notes = []
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths:
        try:
            content, model, optimizer_tensors = _read(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            notes.append(f"{path}: damaged ({error}); passed over")
            continue
        _fill(optimizer, _unflatten(optimizer_tensors, content["optimizer_scalars"]))
        return Checkpoint(content["step"], model, content["state"], notes)
    if paths:
        raise DataError(
            f"{paths[0].parent}: every checkpoint is damaged ({notes[0]}); "
            "use --redo train to start over"
        )
    return None


def save_best(folder: Path, step: int, model: Tensors) -> None:
    """Write the model's tensors of `step`, the best so far."""
    with FolderWriter(folder / f"best-{step:08d}") as temporary:
        save_file(model, temporary / "model.safetensors")


def load_best(folder: Path, step: int) -> Tensors:
    """Return what `save_best` wrote. Raises DataError if it cannot be read."""
    path = folder / f"best-{step:08d}" / "model.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); use --redo train to start over"
        ) from None


def _read(path: Path) -> tuple[dict[str, Any], Tensors, Tensors]:
    """Return (content of state.json, model tensors, optimizer tensors) of a checkpoint.

    Raises OSError, ValueError, KeyError or SafetensorError for one that is damaged.
    """
    content = json.loads((path / "state.json").read_text())
    for name, expected in content["sha256"].items():
        if file_sha256(path / name) != expected:
            raise ValueError(f"{name} does not match its SHA-256")
    model = load_file(path / "model.safetensors")
    return content, model, load_file(path / "optimizer.safetensors")


def _prune(folder: Path, best_step: int | None) -> None:
    """Keep the newest steps, and the best weights that they refer to."""
    paths = sorted(folder.glob("step-*"))
    for path in paths[:-NUM_KEPT]:
        shutil.rmtree(path)
    best_steps = {best_step}
    for path in paths[-NUM_KEPT:]:
        content = json.loads((path / "state.json").read_text())
        best_steps.add(content["state"].get("best_step"))
    for path in folder.glob("best-*"):
        if int(path.name.removeprefix("best-")) not in best_steps:
            shutil.rmtree(path)


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the scalars of an optimizer's state, each by its path (`3.exp_avg`).

    bitsandbytes has one level more.
    """
    tensors: Tensors = {}
    scalars: dict[str, Any] = {}

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
    return _without_shared_memory(tensors), scalars


def _without_shared_memory(tensors: Tensors) -> Tensors:
    """Copy tensors that share memory with one before them, as safetensors asks for.

    bitsandbytes' tables are one tensor for all parameters.
    """
    seen: set[int] = set()
    separate: Tensors = {}
    for path, tensor in tensors.items():
        separate[path] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return separate


def _unflatten(tensors: Tensors, scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Do the inverse of `_flatten`."""
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *scalars.items()]:
        index, *outer_names, name = path.split(".")
        values = state.setdefault(int(index), {})
        for outer_name in outer_names:
            values = values.setdefault(outer_name, {})
        values[name] = value
    return state


def _fill(optimizer: Any, state: dict[int, dict[str, Any]]) -> None:
    """Give `optimizer` the state, and leave its groups (learning rate, decay) as they are."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if getattr(optimizer, "is_paged", False):
        _page(optimizer)


@torch.no_grad()
def _page(optimizer: Any) -> None:
    """Put the states of a paged optimizer back into memory that moves between GPU and CPU.

    Loading left them on the GPU.
    """
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            if name in state:
                buffer = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = buffer.copy_(state[name])
