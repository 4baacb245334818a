"""Checkpoints: folders that are whole or absent, each with the SHA-256 of all its files.

    checkpoints/<role>/step-00000120/{model.safetensors, optimizer.safetensors, state.json}
    checkpoints/<role>/best-00000100/model.safetensors
    each with its SHA256SUMS

safetensors and JSON only. The newest good one is taken, the best weights that it refers to among
it; a damaged one is named and passed over. Two are kept.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from distill.core.checksums import checksum_problem, write_checksums
from distill.core.digests import file_sha256
from distill.core.files import FolderWriter
from distill.core.processes import Processes
from distill.errors import DataError, shown

NUM_KEPT = 2
Tensors = dict[str, torch.Tensor]


class Checkpoint(NamedTuple):
    """What a checkpoint holds beside the optimizer's state.

    `notes` name newer ones that are damaged, and what an older version wrote without checksums.
    """

    step: int
    model: Tensors
    state: dict[str, Any]
    notes: list[str]


class Saved(NamedTuple):
    """What a training goes on from, once weights and optimizer are filled; `notes`: to be told."""

    step: int
    state: dict[str, Any]
    notes: list[str]


class Saver(NamedTuple):
    """Who saves: how many ranks, how they hold the student (train.shard), and of `hybrid` how many
    are on a node."""

    num_processes: int = 1
    shard: str = "none"
    ranks_a_node: int | None = None

    def content(self) -> dict[str, Any]:
        """Return what state.json says of it."""
        return self._asdict()

    def notes(self, content: Mapping[str, Any]) -> list[str]:
        """Return what is to be said where others saved: sums are then in another order."""
        if "num_processes" not in content:  # of an older version
            return []
        ranks_a_node = content.get("ranks_a_node")
        if ranks_a_node is None and content["shard"] == self.shard:  # older versions did not say
            ranks_a_node = self.ranks_a_node
        saved = Saver(content["num_processes"], content["shard"], ranks_a_node)
        if saved == self:
            return []
        return [
            f"the checkpoint is of {saved}, here are {self}: sums are in another order, so it does "
            "not go on bit for bit"
        ]

    def __str__(self) -> str:
        plural = "" if self.num_processes == 1 else "es"
        of_node = f", {self.ranks_a_node} on each node" if self.ranks_a_node else ""
        return f"{self.num_processes} process{plural} with train.shard {self.shard}{of_node}"


ONE_PROCESS = Saver()


class WholeCheckpoints:
    """The checkpoints in `folder` of a student that every rank holds whole: the first writes.

    Every rank calls each method, with the same arguments. trainable: its parameters by name, in
    whose place what is read is put.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.is_main = processes.is_main
        self.saver = Saver(processes.num)

    def save(
        self,
        step: int,
        trainable: Mapping[str, nn.Parameter],
        optimizer: Any,
        state: dict[str, Any],
    ) -> None:
        """Write `step-<step>`; see the function `save`."""
        if self.is_main:
            save(self.folder, step, _detached(trainable), optimizer, state, self.saver)

    def save_best(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Write the weights of `step`, the best so far."""
        if self.is_main:
            save_best(self.folder, step, _detached(trainable))

    def load_newest(
        self, trainable: Mapping[str, nn.Parameter], optimizer: Any, *, with_best: bool
    ) -> Saved | None:
        """Put the newest whole checkpoint into `trainable` and `optimizer`; see `load_newest`."""
        newest = load_newest(self.folder, optimizer, with_best=with_best, saver=self.saver)
        if newest is None:
            return None
        _put(trainable, newest.model)
        return Saved(newest.step, newest.state, newest.notes)

    def load_best(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Put what `save_best` wrote into `trainable`. Raises DataError if it is damaged."""
        _put(trainable, load_best(self.folder, step))


def save(
    folder: Path,
    step: int,
    model: Tensors,
    optimizer: Any,
    state: dict[str, Any],
    saver: Saver = ONE_PROCESS,
) -> None:
    """Write `step-<step>` with the model's tensors, the optimizer's state and `state`.

    Older ones are pruned, and newer ones, which were damaged and passed over.
    """
    tensors, scalars = flatten(optimizer.state_dict()["state"])
    tensors = _without_shared_memory(tensors)
    with FolderWriter(folder / f"step-{step:08d}") as temporary:
        save_file(model, temporary / "model.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        content = {"step": step, "state": state, "optimizer_scalars": scalars, **saver.content()}
        (temporary / "state.json").write_text(json.dumps(content))
        write_checksums(temporary)
    prune(folder, step, state.get("best_step"))


def load_newest(
    folder: Path, optimizer: Any, *, with_best: bool = True, saver: Saver = ONE_PROCESS
) -> Checkpoint | None:
    """Return the newest whole checkpoint, after filling `optimizer`; None if there is none at all.

    `with_best`: one whose best weights are damaged is no whole one. `saver`: who goes on. Raises
    DataError where there are some and every one is damaged, or the student was divided.
    """
    notes: list[str] = []
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths:
        try:
            unchecked, content, model, optimizer_tensors = _read(path)
            best_step = content["state"]["best_step"]
            if with_best and best_step is not None:
                unchecked += _unchecked(best_folder(folder, best_step), "model.safetensors")
        except DataError:  # it is whole, and of a student held in the other way
            raise
        except (OSError, ValueError, SafetensorError) as error:
            notes.append(f"{path}: damaged ({shown(error)}); passed over")
            continue
        notes += [f"{file}: of an older version, without a checksum; taken" for file in unchecked]
        fill(optimizer, unflatten(optimizer_tensors, content["optimizer_scalars"]))
        notes += saver.notes(content)
        return Checkpoint(content["step"], model, content["state"], notes)
    if paths:
        raise DataError(all_damaged(folder, notes[0]))
    return None


def save_best(folder: Path, step: int, model: Tensors) -> None:
    """Write the model's tensors of `step`, the best so far."""
    with FolderWriter(best_folder(folder, step)) as temporary:
        save_file(model, temporary / "model.safetensors")
        write_checksums(temporary)


def load_best(folder: Path, step: int) -> Tensors:
    """Return what `save_best` wrote. Raises DataError if it is damaged."""
    path = best_folder(folder, step)
    try:
        _unchecked(path, "model.safetensors")
        return load_file(path / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(best_damaged(path, shown(error))) from None


def all_damaged(folder: Path, first: str) -> str:
    """Return the message where no checkpoint of the folder is whole; `first`: why the newest is not."""
    return f"{folder}: every checkpoint is damaged ({first}); use --redo train to start over"


def best_damaged(path: Path, problem: str) -> str:
    """Return the message where the best weights are not whole."""
    return (
        f"{path}: damaged ({problem}); run the same command: training goes on from a checkpoint "
        "before it"
    )


def require_saved_like(path: Path, content: Mapping[str, Any], *, is_sharded: bool) -> None:
    """Raise DataError where a checkpoint is of a student held in the other of the two ways."""
    how = content.get("shard", "none")
    if (how != "none") == is_sharded:
        return
    raise DataError(
        f"{path}: it was saved with train.shard {how}; go on with train.shard={how}, or use --redo "
        "train to start over"
    )


def best_folder(folder: Path, step: int) -> Path:
    return folder / f"best-{step:08d}"


def _read(path: Path) -> tuple[list[Path], dict[str, Any], Tensors, Tensors]:
    """Return (files without checksum, content of state.json, model tensors, optimizer tensors).

    Raises OSError, ValueError or SafetensorError for a checkpoint that is damaged.
    """
    unchecked = _unchecked(path, "state.json")
    content = state_of(path)
    require_saved_like(path, content, is_sharded=False)
    if unchecked:
        _require_own_checksums(path, content)
    model = load_file(path / "model.safetensors")
    return unchecked, content, model, load_file(path / "optimizer.safetensors")


def _unchecked(path: Path, name: str) -> list[Path]:
    """Return the file `name` where an older version wrote the folder without checksums of it.

    Raises ValueError where the folder is not what was written.
    """
    if not path.is_dir():
        raise ValueError(f"{path.name}: missing")
    try:
        problem = checksum_problem(path)
    except FileNotFoundError:
        return [path / name]
    if problem is not None:
        raise ValueError(f"{path.name}: {problem}")
    return []


def _require_own_checksums(path: Path, content: dict[str, Any]) -> None:
    """Compare the tensors with the checksums that older versions wrote into state.json."""
    checksums = content.get("sha256")
    if not isinstance(checksums, dict):
        raise ValueError("it has no checksums")
    for name in ("model.safetensors", "optimizer.safetensors"):
        if file_sha256(path / name) != checksums.get(name):
            raise ValueError(f"{name} does not match its SHA-256")


def state_of(path: Path) -> dict[str, Any]:
    """Return the content of state.json. Raises OSError, or ValueError if it is none of ours."""
    try:
        content = json.loads((path / "state.json").read_text(encoding="utf-8"))
        expected = _STATE if content.get("shard", "none") == "none" else _SHARDED_STATE
        is_ours = all(isinstance(content[name], kind) for name, kind in expected.items())
        is_ours &= content.get("shard", "none") in ("none", "full", "hybrid")
        is_ours &= isinstance(content.get("num_processes", 1), int)
        is_ours &= isinstance(content.get("ranks_a_node"), int | None)
        best_step = content["state"]["best_step"]
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("state.json is of another form") from None
    if not is_ours or not isinstance(best_step, int | None):
        raise ValueError("state.json is of another form")
    return content


_STATE: dict[str, type] = {"step": int, "state": dict, "optimizer_scalars": dict}
_SHARDED_STATE = _STATE | {"optimizer_counts": dict, "optimizer_tensors": list}


def prune(folder: Path, step: int, best_step: int | None) -> None:
    """Keep the newest steps up to `step`, and the best weights that they refer to."""
    paths = sorted(folder.glob("step-*"))
    passed_over = [path for path in paths if path.name > f"step-{step:08d}"]
    whole = [path for path in paths if path not in passed_over]
    for path in [*passed_over, *whole[:-NUM_KEPT]]:
        shutil.rmtree(path)
    best_folders = {None if best_step is None else best_folder(folder, best_step)}
    for path in whole[-NUM_KEPT:]:
        try:
            referred = state_of(path)["state"]["best_step"]
        except (OSError, ValueError):  # damaged: no run will go on from it
            continue
        best_folders.add(None if referred is None else best_folder(folder, referred))
    for path in folder.glob("best-*"):
        if path not in best_folders:
            shutil.rmtree(path)


def flatten(state: dict[int, dict[str, Any]]) -> tuple[Tensors, dict[str, Any]]:
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
    return tensors, scalars


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


def unflatten(tensors: Tensors, scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Do the inverse of `flatten`."""
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *scalars.items()]:
        index, *outer_names, name = path.split(".")
        values = state.setdefault(int(index), {})
        for outer_name in outer_names:
            values = values.setdefault(outer_name, {})
        values[name] = value
    return state


def fill(optimizer: Any, state: dict[int, dict[str, Any]]) -> None:
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


def _detached(parameters: Mapping[str, nn.Parameter]) -> Tensors:
    return {name: p.detach().contiguous() for name, p in parameters.items()}


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], tensors: Tensors) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
