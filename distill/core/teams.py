"""Teams: ranks that hold one large model together. Each team holds a copy of it, and the first rank leads.

Leaders divide the work among themselves, claim it, and alone write what comes of it; the others of a
team do in each pass of the model what their leader does (models/divided.py).
"""

from dataclasses import dataclass, replace
from typing import Any

from distill.core.processes import LONGEST_WAIT, Processes, device_between_ranks

# What transformers calls the dimensions of the ranks of layers, and of experts. Of each only two are
# used: the copies of the model (dp_replicate), and the parts of a copy
LAYERS = ("pp", "dp_replicate", "fsdp", "tp")
EXPERTS = ("pp", "dp_replicate", "efsdp", "ep")


@dataclass(frozen=True)
class Team:
    """This rank's team: `number` of `num`.

    `members`: the processes of the team. `leaders`: torch's group of those that lead, on one of
    them. `meshes`: torch's DeviceMesh of all ranks for layers, and for experts.
    """

    members: Processes
    number: int
    num: int
    leaders: Any
    meshes: tuple[Any, Any]

    @property
    def is_led_here(self) -> bool:
        """Return whether this rank leads."""
        return self.members.is_main

    def leading(self, processes: Processes) -> Processes:
        """Return the leaders as processes that divide the work of all; for one of them to call."""
        return replace(processes, rank=self.number, num=self.num, group=self.leaders, team=None)


def in_teams(processes: Processes, size: int) -> Processes:
    """Return the processes in teams of `size` ranks one after the other. Every rank calls it.

    As they are where they cannot be divided so, or one rank holds the model: whoever needs a team
    must ask for it.
    """
    if size == 1 or processes.num % size:
        return processes
    from torch.distributed import distributed_c10d
    from torch.distributed.device_mesh import init_device_mesh

    num, device = processes.num // size, device_between_ranks().type
    meshes = (
        init_device_mesh(device, (1, num, 1, size), mesh_dim_names=LAYERS),
        init_device_mesh(device, (1, num, 1, size), mesh_dim_names=EXPERTS),
    )
    for group in (group for mesh in meshes for group in mesh.get_all_groups()):
        # else torch's own: minutes, after which NCCL ends a run
        distributed_c10d._set_pg_timeout(LONGEST_WAIT, group)
    number, rank = divmod(processes.rank, size)
    layers = meshes[0]
    members = replace(processes, rank=rank, num=size, group=layers.get_group("tp"))
    team = Team(members, number, num, layers.get_group("dp_replicate"), meshes)
    return replace(processes, team=team)
