"""What several processes take together, on one node or several: memory, time, and who waits for whom.

Each process does its part of a shared stage; the others wait while the first does a stage alone. What
they send each other is not reckoned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distill.core.stage import Cost, Stage
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.machine import GB
from distill.planning.round_costs import rounds_seconds


@dataclass(frozen=True)
class Launch:
    """What the processes of a launch take: `num`, of which `num_a_node` are on a node.

    `memory`: bytes that one takes, of its GPU where there is one. `node_memory`: bytes of a node's own
    memory. `seconds`: from the first stage to the last. `waiting`: the share of all processes' time in
    which they wait. `alone`: the stages that the first does alone, the longest first.
    """

    num: int
    num_a_node: int
    memory: float
    node_memory: float
    seconds: float
    waiting: float
    alone: tuple[str, ...]

    @property
    def num_nodes(self) -> int:
        return -(-self.num // self.num_a_node)


def divided(stage: Stage, work: Workload) -> Cost:
    """Return what a stage costs the recipe's num_processes; `work` must know its cost."""
    assert stage.cost is not None
    cost, num = stage.cost(work), work.num_at_work
    if num == 1 or not stage.shared:
        return cost
    undivided = _undivided_seconds(stage, work)
    seconds = undivided + (cost.seconds - undivided) / num * _unevenness(stage, work, num)
    return replace(cost, seconds=seconds)


def _undivided_seconds(stage: Stage, work: Workload) -> float:
    """Return the seconds of a stage that more processes do not hasten: a server is at work, or the
    first of them alone."""
    if stage.name == "rounds":
        return rounds_seconds(work).undivided
    if stage.name != "generate":
        return 0.0
    return sum(part.teacher_seconds(part.num_requests) for part in work.turns if part.on_server)


def _unevenness(stage: Stage, work: Workload, num: int) -> float:
    """Return how many times as long a stage takes as if its pieces were of any size."""
    pieces = _num_pieces(stage, work)
    return 1.0 if pieces is None else -(-pieces // num) * num / pieces


def _num_pieces(stage: Stage, work: Workload) -> int | None:
    """Return how many pieces of a shared stage go to one process each, None where there are many.

    Those are the rows of an optimizer step, the formats, and the models of the run.
    """
    options, num_files = work.recipe.train, len(work.recipe.quantize.formats)
    if stage.name == "train":
        return max(1, options.batch_tokens // options.max_length)
    if stage.name == "quantize":
        return 1 + num_files
    if stage.name in ("evaluate", "benchmark", "safety"):
        return 2 + options.num_roles + num_files  # the teacher, those trained, w16a16, the files
    return None


def launch_of(work: Workload, planned: Sequence[Stage]) -> Launch:
    """Return what the recipe's num_processes take of the stages `planned`."""
    num = work.num_processes
    num_a_node = work.machine.processes_a_node(num)
    stages = [s for s in planned if s.left_out(work.recipe) is None and s.cost is not None]
    costs = {stage.name: divided(stage, work) for stage in stages}
    seconds = sum(cost.seconds for cost in costs.values())
    memory = max(cost.memory for cost in costs.values())
    alone = {stage.name: costs[stage.name].seconds for stage in stages if not stage.shared}
    unused = sum(alone.values()) * (num - 1) / num
    for stage in stages:
        uneven = _unevenness(stage, work, num) if stage.shared else 1.0
        unused += costs[stage.name].seconds * (1 - 1 / uneven)
    return Launch(
        num,
        num_a_node,
        memory,
        _node_bytes(work, num_a_node, memory),
        seconds,
        unused / max(seconds, 1e-9),
        tuple(sorted(alone, key=lambda name: -alone[name])),
    )


def _node_bytes(work: Workload, num_a_node: int, memory: float) -> float:
    """Return the bytes of a node's own memory: of the node of the first process, which has most."""
    if not work.machine.gpu:
        return num_a_node * memory
    whole = 4 * work.student.parameters if work.recipe.train.shard != "none" else 0
    return num_a_node * PROCESS_BYTES + whole


def too_little_memory(work: Workload, planned: Sequence[Stage]) -> str | None:
    """Return a warning where a node's processes take more than its memory, or None."""
    if work.num_processes == 1:
        return None
    launch, memory = launch_of(work, planned), work.machine.memory
    if launch.node_memory <= memory:
        return None
    return (
        f"{launch.num_a_node} processes on a node need about {launch.node_memory / GB:.1f} GB of its "
        f"memory, this machine has {memory / GB:.1f} GB: start fewer on each"
    )


def duration(seconds: float) -> str:
    """Return a time as a plan says it: `40 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def launch_told(work: Workload, planned: Sequence[Stage]) -> str | None:
    """Return what the recipe's processes take, in words; None where it wants one or any."""
    if work.num_processes == 1:
        return None
    launch = launch_of(work, planned)
    memory, node_memory = launch.memory / GB, launch.node_memory / GB
    where = "GPU memory" if work.machine.gpu else "memory"
    nodes = f"{launch.num_a_node} on each of {launch.num_nodes} nodes"
    if launch.num_nodes == 1:
        nodes = "on one node"
    field = "num_processes" if work.recipe.num_processes else "teacher.tensor_parallel"
    return (
        f"{launch.num} processes ({field}), {nodes}: up to {memory:.1f} GB of {where} each, "
        f"{node_memory:.1f} GB of a node's memory in all; {duration(launch.seconds)}, "
        f"in {launch.waiting:.0%} of which a process waits: the first alone does "
        f"{', '.join(launch.alone[:3])} ...; what they send each other is not reckoned"
    )
