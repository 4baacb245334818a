"""What processes can ask a teacher: one of several GPUs, several that hold it together, or any number."""

from distill.core.processes import Processes
from distill.errors import MismatchError
from distill.models import find
from distill.recipe import Recipe


def check_teachers_processes(recipe: Recipe, processes: Processes) -> None:
    """Raise MismatchError where these processes cannot hold a teacher as the recipe says.

    Every rank calls it.
    """
    _check_spread_teachers(recipe, processes)
    size = recipe.team_size
    if size == 1:
        return
    held = [v for v in recipe.views if v.teacher.num_parts > 1 and v.loads_teacher]
    who = f"{recipe.source}: {held[0].teacher_section}.tensor_parallel {size}"
    _check_teams(who, size, processes)
    for view in held:
        check_division(view)
    _check_devices(who, held)


def _check_spread_teachers(recipe: Recipe, processes: Processes) -> None:
    """Raise MismatchError where each of several processes would spread the teacher over all GPUs."""
    spread = [v.teacher_section for v in recipe.views if v.teacher.device_map is not None]
    if processes.num == 1 or not spread:
        return
    import torch

    if not torch.cuda.is_available():
        return  # nothing to spread over: each has the whole
    raise MismatchError(
        f"{recipe.source}: {spread[0]}.device_map auto, and {processes.num} processes, each of which "
        "would take all GPUs: do the stages that ask the teacher by one process, with "
        "`--stages plan,generate,capture`, launch several with `--stages initialize,train`, and end by one "
        "(`distill run RECIPE`)"
    )


def _check_teams(who: str, size: int, processes: Processes) -> None:
    """Raise MismatchError where the processes are no teams of `size`, each on one node."""
    if processes.num % size:
        more = -(-processes.num // size) * size
        raise MismatchError(
            f"{who}: so many processes hold a copy of it, and there are {processes.num}: start them with "
            f"`accelerate launch --multi_gpu --num_processes {more} distill/train.py RECIPE`, or for one "
            "process set it to null, and device_map to auto"
        )
    nodes = processes.gathered(processes.node)
    for first in range(0, processes.num, size):
        if len({*nodes[first : first + size]}) > 1:
            raise MismatchError(
                f"{who}: the processes {first} to {first + size - 1} hold a copy of it together, which "
                "exchange what they have in each layer, and are on several nodes: start a multiple of "
                f"{size} on each node, or serve it (teacher.server)"
            )


def check_division(view: Recipe) -> None:
    """Raise MismatchError where transformers cannot divide a teacher as its recipe wants it.

    Of one that is not here nothing is known; nothing is fetched.
    """
    if view.teacher.num_parts == 1 or not view.loads_teacher:
        return
    from distill.models import divided, load

    location = view.model_location(view.teacher.model)
    folder = find.folder_here(location, view.teacher.revision)
    if folder is None:
        return  # it is, when it is loaded
    config = load.known_config(folder) or load.config_of(
        folder, trust_remote_code=view.teacher.trust_remote_code
    )
    divided.require_divisible(location, config, view.teacher.num_parts)


def _check_devices(who: str, held: list[Recipe]) -> None:
    """Raise MismatchError where they are to compute on a CPU and talk between GPUs."""
    from torch import distributed

    on_cpu = any(view.teacher.device == "cpu" for view in held)
    if on_cpu and distributed.get_backend() == "nccl":
        raise MismatchError(
            f"{who}: teacher.device cpu, and the processes of this launch talk over NCCL, which knows "
            "no CPU: set teacher.device=cuda, or tensor_parallel to null"
        )
