"""What a teacher takes whose layers are spread over the GPUs of a machine (teacher.device_map: auto)."""

from distill.errors import MismatchError
from distill.models.spread import HOST_SHARE, WAY_OUT, price_of_host
from distill.planning.costs import Workload
from distill.planning.machine import GB


def check_spreading(work: Workload) -> None:
    """Raise MismatchError where a spread teacher has no room on the GPUs and in memory together."""
    for part in work.turns:
        teacher, machine = part.recipe.teacher, part.machine
        of_gpus = f"{machine.num_gpus} x {machine.gpu_memory / GB:.0f} GB of GPU memory"
        needs = f"teacher.device_map auto: {teacher.model} has {part.teacher_bytes / GB:.0f} GB of weights"
        if part.host_bytes and teacher.quantization != "none":
            raise MismatchError(
                f"{part.recipe.source}: {needs} in {teacher.quantization}, which must lie on GPUs, and "
                f"there are {of_gpus}: take a smaller teacher, teacher.gguf, or teacher.server with a "
                "machine that holds it"
            )
        if part.host_bytes > HOST_SHARE * machine.memory:
            raise MismatchError(
                f"{part.recipe.source}: {needs}, and there are {of_gpus} and {machine.memory / GB:.0f} "
                f"GB of memory: {WAY_OUT}"
            )


def spreading_told(work: Workload) -> list[str]:
    """Return a line for each teacher that is to be spread: what lies where, and what that costs."""
    return [
        _told(part)
        for part in work.turns
        if part.recipe.teacher.device_map and part.recipe.loads_teacher
    ]


def _told(work: Workload) -> str:
    whose = f"teacher {work.recipe.route}" if work.recipe.route else "teacher"
    if not work.is_spread:
        return f"{whose}: device_map auto, and no GPU here: one device holds it"
    text = (
        f"{whose}: its layers lie on {work.machine.num_gpus} GPUs, {work.bytes_on_a_gpu / GB:.1f} GB of "
        "weights on each"
    )
    return f"{text}; {price_of_host(work.host_bytes)}" if work.host_bytes else text
