"""A student that no rank holds whole: torch's `fully_shard` (FSDP2) on each layer and on StudentLoss.

Each layer is a group of weights that is gathered when its turn comes and let go after it. All else
(embedding, output head, projection) is the group of the StudentLoss itself, so that the loss,
which uses the head outside its module, finds it whole. What is sharded lies on every rank as DTensors,
cut along the first dimension: weights, gradients and the optimizer's state.

Source: Zhao et al., "PyTorch FSDP", 2023 (arXiv 2304.11277); torch.distributed.fsdp.fully_shard.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distill.core import activity
from distill.core.processes import LONGEST_WAIT, Processes
from distill.errors import MismatchError
from distill.models.load import Placement
from distill.training.student import StudentLoss


def shard(
    whole: StudentLoss | None, placement: Placement, how: str, processes: Processes
) -> StudentLoss:
    """Return the student divided over the ranks. Every rank calls it.

    whole: rank 0's, on its CPU, where it stays as it is; None on the others, which never hold more
    of it than a layer, or what is in no layer. how: "full" or "hybrid". Passes in bfloat16 gather a
    layer's weights in it, the weights of norms among them; gradients are added up in float32.
    """
    device = _device(placement)
    mesh = _mesh(how, device.type, processes)
    source = None if whole is None else dict(whole.named_parameters())
    student = processes.broadcast(None if whole is None else _without_weights(whole))
    assert student is not None
    names = {parameter: name for name, parameter in student.named_parameters()}
    in_bfloat16 = placement.dtype == "bfloat16"
    for layer in reversed(_layers(student.model)):
        _fill(layer.parameters(), names, source, device)
        fully_shard(layer, mesh=mesh, mp_policy=_policy(in_bfloat16))
    _fill([*names], names, source, device)
    fully_shard(student, mesh=mesh)
    return student


@contextmanager
def accumulating(student: nn.Module) -> Iterator[None]:
    """Add up gradients within a node alone: those of the other nodes come with the last backward.

    Within a node they are divided at once: kept whole until the last they would fill the memory
    that sharding is to save.
    """
    sharded = cast(FSDPModule, student)
    sharded.set_requires_all_reduce(False)
    try:
        yield
    finally:
        sharded.set_requires_all_reduce(True)


@torch.no_grad()
def gather(trainable: Mapping[str, nn.Parameter], into: Mapping[str, nn.Parameter] | None) -> None:
    """Copy what was trained into rank 0's whole parameters of these names, one after the other.

    Every rank calls it; `into` is None on all but rank 0.
    """
    for name, parameter in trainable.items():
        value = whole_tensor(parameter)
        if into is not None:
            into[name].copy_(value)


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor as it is, or gathered where it is divided: then every rank calls it."""
    if not isinstance(value, DTensor):
        return value
    with activity.waiting():
        return value.full_tensor()


def _device(placement: Placement) -> torch.device:
    """Return this rank's device."""
    if placement.device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _mesh(how: str, device: str, processes: Processes) -> DeviceMesh:
    """Return the ranks in a row ("full"), or in rows of a node each ("hybrid"): a copy a node."""
    if how == "full":
        return init_device_mesh(device, (processes.num,))
    size = ranks_a_node(processes)
    mesh = init_device_mesh(device, (processes.num // size, size), mesh_dim_names=("node", "rank"))
    for group in mesh.get_all_groups():  # else torch's own: minutes, after which NCCL ends a run
        distributed_c10d._set_pg_timeout(LONGEST_WAIT, group)
    return mesh


def ranks_a_node(processes: Processes) -> int:
    """Return how many ranks a node has, by the launcher's word or by the names of the hosts.

    Every rank calls it. Raises MismatchError where nodes have different numbers, or their ranks do not stand together.
    """
    nodes = processes.gathered(processes.node)
    size = nodes.count(nodes[0])
    rows = [nodes[start : start + size] for start in range(0, len(nodes), size)]
    is_even = all(len(row) == size and len(set(row)) == 1 for row in rows)
    if not is_even or len({row[0] for row in rows}) != len(rows):
        raise MismatchError(
            f"train.shard hybrid: a copy of the student on each node, but the nodes have different "
            f"numbers of the {processes.num} processes; start equally many on each, or set "
            "train.shard=full"
        )
    return size


def _without_weights(whole: StudentLoss) -> StudentLoss:
    """Return a copy on torch's meta device, tied weights tied; buffers, which are small, are whole."""
    memo: dict[int, Any] = {}
    for parameter in whole.parameters():
        meta = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(meta, requires_grad=parameter.requires_grad)
    return copy.deepcopy(whole, memo)


def _layers(model: Any) -> list[nn.Module]:
    """Return the decoder's layers, by the classes that transformers says are not to be split."""
    classes = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in classes]
    if not layers:
        raise MismatchError(
            f"{type(model).__name__}: transformers does not say which of its modules are layers, so "
            "it cannot be divided; set train.shard=none"
        )
    return layers


def _policy(in_bfloat16: bool) -> MixedPrecisionPolicy:
    """Return how a layer's weights are gathered. What goes through it stays in its own type."""
    if not in_bfloat16:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )


@torch.no_grad()
def _fill(
    parameters: Iterable[nn.Parameter],
    names: dict[nn.Parameter, str],
    source: Mapping[str, nn.Parameter] | None,
    device: torch.device,
) -> None:
    """Give parameters of the meta device rank 0's values, on every rank, and forget their names.

    A name that is kept would keep the whole tensor, once it is sharded.
    """
    for parameter in parameters:
        name = names.pop(parameter)
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if source is not None:
            value.copy_(source[name])
        with activity.waiting():
            dist.broadcast(value, src=0)
        filled = nn.Parameter(value, requires_grad=parameter.requires_grad)
        torch.utils.swap_tensors(parameter, filled)
