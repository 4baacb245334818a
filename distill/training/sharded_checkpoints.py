"""Checkpoints of a student that no rank holds whole, by torch.distributed.checkpoint.

    checkpoints/<role>/step-00000120/{shard-*-model-*.safetensors, state.json, SHA256SUMS}
    checkpoints/<role>/best-00000100/{shard-*-model-*.safetensors, SHA256SUMS}

Every rank writes and hashes its own part of weights and optimizer, in safetensors; the folder gets
its name when all have. Another number of ranks can read it. As with whole ones the newest good one
is taken, a damaged one is named and passed over, and two are kept.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from distill.core import activity
from distill.core.checksums import checksum_problem, write_checksums_of
from distill.core.digests import file_sha256
from distill.core.files import FolderWriter
from distill.core.processes import Processes
from distill.errors import DataError, shown
from distill.training import checkpoints
from distill.training.checkpoints import Saved, Saver
from distill.training.sharding import ranks_a_node

# A file is copied in memory before it is written: of how many bytes a rank's files are, about
FILE_BYTES = 1 << 30


class ShardedCheckpoints:
    """The checkpoints in `folder`. Every rank calls each method, with the same arguments.

    trainable: the student's DTensors by name, in whose place what is read is put.
    """

    def __init__(self, folder: Path, processes: Processes, how: str) -> None:
        self.folder = folder
        self.processes = processes
        of_node = ranks_a_node(processes) if how == "hybrid" else None
        self.saver = Saver(processes.num, how, of_node)

    def save(
        self,
        step: int,
        trainable: Mapping[str, nn.Parameter],
        optimizer: Any,
        state: dict[str, Any],
    ) -> None:
        """Write `step-<step>`; prune older ones, and newer ones, which were passed over."""
        tensors, scalars = checkpoints.flatten(optimizer.state_dict()["state"])
        # of AdamW: its count of steps. Each rank has the same
        counts = {path: float(tensors.pop(path)) for path in [*tensors] if not tensors[path].ndim}
        content = {
            "step": step,
            "state": state,
            "optimizer_scalars": scalars,
            "optimizer_counts": counts,
            "optimizer_tensors": sorted(tensors),
            **self.saver.content(),
        }
        values = _named(trainable) | {f"optimizer.{path}": t for path, t in tensors.items()}
        self._write(self.folder / f"step-{step:08d}", values, content)
        if self.processes.is_main:
            checkpoints.prune(self.folder, step, state.get("best_step"))
        self.processes.barrier()

    def save_best(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Write the weights of `step`, the best so far."""
        self._write(checkpoints.best_folder(self.folder, step), _named(trainable), None)

    def load_newest(
        self, trainable: Mapping[str, nn.Parameter], optimizer: Any, *, with_best: bool
    ) -> Saved | None:
        """Put the newest whole checkpoint into `trainable` and `optimizer`; None if there is none.

        `with_best`: one whose best weights are damaged is no whole one. Raises DataError where
        there are some and every one is damaged, or they are of a student that was not divided.
        """
        notes: list[str] = []
        paths = self.processes.broadcast(sorted(self.folder.glob("step-*"), reverse=True))
        for path in paths:
            content, problem = self._content(path, with_best)
            if content is None:
                notes.append(f"{path}: damaged ({problem}); passed over")
                continue
            self._read(path, content, trainable, optimizer)
            return Saved(content["step"], content["state"], notes + self.saver.notes(content))
        if paths:
            raise DataError(checkpoints.all_damaged(self.folder, notes[0]))
        return None

    def load_best(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Put what `save_best` wrote into `trainable`. Raises DataError if it is damaged."""
        path = checkpoints.best_folder(self.folder, step)
        if (problem := self._problem(path)) is not None:
            raise DataError(checkpoints.best_damaged(path, problem))
        _load(path, _named(trainable))

    def _write(self, path: Path, values: dict[str, Tensor], content: dict[str, Any] | None) -> None:
        """Write the folder `path`: each rank its own part of `values`, the first `content`."""
        writer = FolderWriter(path)
        here: AbstractContextManager[Path] = writer
        if not self.processes.is_main:
            here = nullcontext(writer.temporary)
        with here as temporary:
            self.processes.barrier()  # the folder is there
            _save(temporary, values)
            own = temporary.glob(f"shard-{self.processes.rank + 1:05d}-*")
            parts = self.processes.gathered({file.name: file_sha256(file) for file in own})
            if self.processes.is_main:
                checksums = {name: value for part in parts for name, value in part.items()}
                if content is not None:
                    state_file = temporary / "state.json"
                    state_file.write_text(json.dumps(content))
                    checksums[state_file.name] = file_sha256(state_file)
                write_checksums_of(checksums, temporary)
        self.processes.barrier()  # it has its name

    def _content(self, path: Path, with_best: bool) -> tuple[dict[str, Any] | None, str | None]:
        """Return (content of state.json, None), or (None, how the checkpoint is damaged)."""
        if (problem := self._problem(path)) is not None:
            return None, problem
        content, problem = self.processes.broadcast(_state_or_problem(path))
        if content is None:
            return None, problem
        checkpoints.require_saved_like(path, content, is_sharded=True)
        best_step = content["state"]["best_step"]
        if with_best and best_step is not None:
            problem = self._problem(checkpoints.best_folder(self.folder, best_step))
        return (content, None) if problem is None else (None, problem)

    def _problem(self, path: Path) -> str | None:
        """Return how the folder is damaged, or None; each rank reads its share of the files."""
        try:
            own = checksum_problem(path, share=(self.processes.rank, self.processes.num))
        except OSError as error:
            own = shown(error)
        found = [problem for problem in self.processes.gathered(own) if problem is not None]
        return f"{path.name}: {found[0]}" if found else None

    def _read(
        self,
        path: Path,
        content: dict[str, Any],
        trainable: Mapping[str, nn.Parameter],
        optimizer: Any,
    ) -> None:
        parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
        tensors = {}
        for name in content["optimizer_tensors"]:
            parameter = parameters.get(int(name.partition(".")[0]))
            if parameter is None:
                raise DataError(_other_student(path, f"no parameter has the state {name}"))
            tensors[name] = torch.zeros_like(parameter)
        of_optimizer = {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
        _load(path, _named(trainable) | of_optimizer)
        counts = {name: torch.tensor(n) for name, n in content["optimizer_counts"].items()}
        state = checkpoints.unflatten(tensors | counts, content["optimizer_scalars"])
        checkpoints.fill(optimizer, state)


def _named(trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {f"model.{name}": parameter.detach() for name, parameter in trainable.items()}


def _save(folder: Path, values: dict[str, Tensor]) -> None:
    """Let every rank write its part of `values`.

    Raises OSError where one could not, on every rank.
    """
    writer = HuggingFaceStorageWriter(str(folder), _files(values), save_distributed=True)
    try:
        with activity.waiting():
            save(values, storage_writer=writer)
    except CheckpointException as error:
        raise _first_os_error(error) from error


def _load(folder: Path, values: dict[str, Tensor]) -> None:
    """Put what the folder holds into `values`, in place.

    Raises DataError where it is of another student than this.
    """
    try:
        with activity.waiting():
            load(values, storage_reader=HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        reason = shown(next(iter(error.failures.values()))[0])
        raise DataError(_other_student(folder, reason)) from None


def _other_student(folder: Path, reason: str) -> str:
    return f"{folder}: it does not hold this student ({reason}); use --redo train to start over"


def _files(values: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file, from 1, that each tensor's parts stand in, on every rank."""
    numbers = {}
    number, size = 1, 0
    for name, value in values.items():
        num_bytes = value.numel() * value.element_size()
        if size and size + num_bytes > FILE_BYTES:
            number, size = number + 1, 0
        size += num_bytes
        numbers[name] = number
    return numbers


def _first_os_error(error: CheckpointException) -> BaseException:
    """Return what the disk said to the first rank that could not write, or the error itself."""
    causes = [failure[0] for failure in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), error)


def _state_or_problem(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        return checkpoints.state_of(path), None
    except (OSError, ValueError) as error:
        return None, shown(error)
