"""The processes of a run: one, or as many as `accelerate launch` started. Ranks share work and meet at barriers.

Launchers can quietly start one process instead of two, or two that do not know of each other
(`accelerate launch --cpu --num_processes 2`); `start` compares what is there with what was asked for.
"""

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill.core import activity, shutdown, terminal
from distill.core.cores import own_cores
from distill.core.launcher_settings import overruled, refuse_other_engines
from distill.errors import MismatchError

if TYPE_CHECKING:
    from distill.core.teams import Team

T = TypeVar("T")

# one rank may make a file for hours while the others wait at a barrier
LONGEST_WAIT = timedelta(days=7)
NOTICE = 300.0  # seconds in which nothing is done, before that is told
PATIENCE = 1800.0  # seconds before that ends all
ENDED = 75  # exit status: a rank hung or has ended, and the same command continues (EX_TEMPFAIL)


@dataclass(frozen=True)
class Processes:
    """`rank` of `num` processes; collective calls do nothing where there is one.

    `job` of `num_jobs`: independent launches that know nothing of each other and divide one stage's
    work (`--shard`); `leases`: they claim it block by block, and there may be any number of them
    (`--shard auto`). `node`: what names this rank's. `group`: torch's, of these processes; None: all
    of the launch. `team`: the ranks that hold a large teacher together (core/teams.py); None: each
    holds all that it loads.
    """

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    job: int = 0
    num_jobs: int = 1
    leases: bool = False
    node: str = ""
    group: Any = None
    team: "Team | None" = None

    @property
    def is_partial_job(self) -> bool:
        """Return whether other jobs may be doing parts of the same stage."""
        return self.num_jobs > 1 or self.leases

    def is_mine(self, content_id: str, turn: int = 0) -> bool:
        """Return whether work that this id (hexadecimal) stands for is this job's.

        By the id alone: where one job has read a longer list than another, or launched more
        processes, nothing else changes hands. `turn` goes round the jobs, for several of one id.
        """
        return (int(content_id, 16) + turn) % self.num_jobs == self.job

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.num > 1:
            import torch.distributed as dist

            with activity.waiting():
                dist.barrier(group=self.group)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, on every rank."""
        if self.num == 1:
            return value
        import torch.distributed as dist

        box: list[Any] = [value]
        with activity.waiting():
            dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]

    def overwrite(self, values: Any) -> Any:
        """Fill a tensor with rank 0's numbers, in place; return it."""
        if self.num == 1:
            return values
        import torch.distributed as dist

        there = values.to(device_between_ranks())
        with activity.waiting():
            dist.broadcast(there, group=self.group, group_src=0)
            return values.copy_(there)  # on a GPU the wait is here

    def any(self, flag: bool) -> bool:
        """Return True on every rank if it is True on one."""
        if self.num == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(int(flag))).item())

    def gathered(self, value: T) -> list[T]:
        """Return every rank's value, in their order, on every rank."""
        if self.num == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.num
        with activity.waiting():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def sum(self, values: Any) -> Any:
        """Sum a tensor over ranks, elementwise and in place; return it."""
        if self.num == 1:
            return values
        import torch.distributed as dist

        there = values.to(device_between_ranks())  # nccl knows no CPU tensors
        with activity.waiting():
            dist.all_reduce(there, group=self.group)
            return values.copy_(there)  # on a GPU the wait is here


ALONE = Processes()


def device_between_ranks() -> Any:
    """Return the device where a tensor must be for the ranks to exchange it."""
    import torch
    import torch.distributed as dist

    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )


def launched_rank() -> int:
    """Return the rank that the launcher gave this process, without importing torch."""
    return int(os.environ.get("RANK", "0"))


def launched_number() -> int:
    """Return how many processes the launcher has started, without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(num_wanted: int | None, patience: float = PATIENCE) -> Processes:
    """Join the other processes. Where they do not all come within `patience` seconds this one ends.

    Raises MismatchError where the launch made another number than it says or was asked for, more
    than there are GPUs, or where accelerate's configuration names an engine of its own.
    """
    refuse_other_engines(os.environ)
    if launched_rank() == 0:
        for line in overruled(os.environ):
            print(line, flush=True)
    import torch
    from accelerate import PartialState

    num_cores = len(own_cores())
    asked = environment_of_launcher() | threads_of_command(command_of_launcher())
    if threads := threads_left_idle(os.environ, num_cores, asked):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for llama.cpp, and children
        torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        # without this, `accelerate launch --multi_gpu` on a CPU makes independent runs that race on the same files
        os.environ["ACCELERATE_USE_CPU"] = "true"
    else:
        require_own_gpu(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
    node = own_node(os.environ)  # before accelerate writes its own guess there
    launched = launched_number()
    with meeting(launched, patience):
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
        state.wait_for_everyone()  # NCCL meets at the first thing that is done together
    kind = str(state.distributed_type).rpartition(".")[2]
    expected = ("NO",) if launched == 1 else ("MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")
    if state.num_processes != launched or kind not in expected:
        raise MismatchError(
            f"the launcher started {launched} processes but they joined as {state.num_processes} of type {kind}; "
            "use `accelerate launch --multi_gpu --num_processes N` (on a CPU with ACCELERATE_USE_CPU=true before it)"
        )
    if num_wanted is not None and state.num_processes != num_wanted:
        raise MismatchError(
            f"num_processes: the recipe wants {num_wanted}, {state.num_processes} is running; launch with "
            f"`accelerate launch --multi_gpu --num_processes {num_wanted}` (`--cpu` silently starts one)"
        )
    return Processes(
        rank=state.process_index,
        num=state.num_processes,
        local_rank=state.local_process_index,
        node=node,
    )


@contextmanager
def meeting(num: int, patience: float) -> Iterator[None]:
    """Tell that the block waits for `num` processes; end this one where it does so for too long.

    They watch each other only when all have come (core/watch.py).
    """
    have_met = threading.Event()
    notice = min(NOTICE, patience / 2)

    def count() -> None:
        if have_met.wait(notice):
            return
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        waiting = f"waiting for {num} processes at {place}, which have not all come"
        terminal.write_news(
            f"{waiting} for {notice:.0f} s: see what the launcher and the others say"
        )
        if have_met.wait(patience - notice):
            return
        terminal.write_news(
            f"{waiting} for {patience:.0f} s: this one ends; run the same command again"
        )
        os._exit(ENDED)

    if num == 1:
        yield
        return
    threading.Thread(target=count, daemon=True, name="meeting").start()
    try:
        # nothing is at work yet, and torch waits where no handler of ours is called
        with shutdown.deaf():
            yield
    finally:
        have_met.set()


def require_own_gpu(local_rank: int, num_gpus: int) -> None:
    """Raise MismatchError where the launcher shows this process no GPU of its own."""
    if local_rank < num_gpus:
        return
    raise MismatchError(
        f"process {local_rank} of this machine (from 0) has no GPU of its own, it sees {num_gpus}: start at "
        "most one process a GPU; Slurm shows all of them by --gpus-per-node=N in place of --gpus-per-task"
    )


def own_node(environment: Mapping[str, str]) -> str:
    """Return what names the node of this rank among those of the launch.

    By the launcher's word for which of its agents started it, else for how many ranks it has started
    on each (which may be another number elsewhere), else by the name of the host.
    """
    agent, num = environment.get("GROUP_RANK"), environment.get("LOCAL_WORLD_SIZE")
    if agent is not None:
        return agent
    return f"{launched_rank() // int(num)}" if num else socket.gethostname()


def threads_left_idle(
    environment: Mapping[str, str], num_cores: int, of_launcher: Mapping[str, str]
) -> int | None:
    """Return how many threads to take where a launcher allows one and nobody asked for that.

    None where this process shall keep what its environment says. `accelerate launch` and torchrun
    set OMP_NUM_THREADS to 1 where they find none (`of_launcher`: what they found, or were told), and
    half of a laptop would do nothing.
    `num_cores`: those that this process may use; it shares them with the others of its machine.
    """
    is_launched = bool({"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & set(environment))
    if not is_launched or environment.get("OMP_NUM_THREADS") != "1":
        return None
    if "OMP_NUM_THREADS" in of_launcher:
        return None
    threads = num_cores // int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return threads if threads > 1 else None


def environment_of_launcher() -> dict[str, str]:
    """Return the environment that the process which started this one was itself started with.

    Empty where the system does not tell: not Linux, or another user's process.
    """
    try:
        raw = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return {}
    entries = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in entries}


def command_of_launcher() -> list[str]:
    """Return the command line of the process that started this one; empty where it cannot be read."""
    try:
        raw = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in raw.split(b"\0") if word]


def threads_of_command(words: Sequence[str]) -> dict[str, str]:
    """Return OMP_NUM_THREADS as `accelerate launch` was told on its command line; {} if it was not."""
    for word, following in pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if option.replace("-", "_") == "__num_cpu_threads_per_process":
            return {"OMP_NUM_THREADS": value or following}
    return {}


def open_store(num: int, timeout: timedelta) -> Any:
    """Return a connection of its own with the store through which `num` processes have met.

    `timeout`: how long the store may take to answer. A connection is one thread's alone.
    """
    from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        num,
        is_master=False,
        wait_for_workers=False,
        timeout=timeout,
    )


def finish(processes: Processes) -> None:
    """Leave together: without it gloo aborts now and then after the work is done."""
    if processes.num > 1:
        import torch.distributed as dist

        processes.barrier()
        dist.destroy_process_group()
