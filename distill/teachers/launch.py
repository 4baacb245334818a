"""What processes can ask a teacher: one where its layers are spread over all GPUs of a machine."""

from distill.core.processes import Processes
from distill.errors import MismatchError
from distill.recipe import Recipe


def check_teachers_processes(recipe: Recipe, processes: Processes) -> None:
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
