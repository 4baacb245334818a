"""What a teacher takes that no GPU holds alone.

Its layers are spread over the GPUs of a machine (teacher.device_map: auto), or several processes hold
a part of it each (teacher.tensor_parallel).
"""

from distill.errors import MismatchError
from distill.models.spread import HOST_SHARE, WAY_OUT, price_of_host
from distill.planning.costs import Workload
from distill.planning.machine import GB, Machine


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
        if part.recipe.loads_teacher and (part.recipe.teacher.device_map or part.num_parts > 1)
    ]


def other_ways(machine: Machine, section: str) -> str:
    """Return how a teacher that has no room on one of several GPUs gets it, as the end of a sentence."""
    num = machine.num_gpus
    if num == 1:
        return ""
    return (
        f"; {section}.device_map=auto divides it over the {num} GPUs, and so does, without "
        f"quantization, {section}.tensor_parallel=N with N processes, at most {num}, which its heads "
        "and experts must divide by: there all work at once"
    )


def _told_of_parts(whose: str, work: Workload) -> str:
    num, where = work.num_parts, "its GPU" if work.machine.gpu else "memory"
    text = (
        f"{whose}: {num} processes hold it together (tensor_parallel), each {work.bytes_on_a_gpu / GB:.1f} "
        f"GB of weights in {where}; start them with `accelerate launch --multi_gpu --num_processes "
        f"{work.num_processes} distill/train.py RECIPE`"
    )
    if work.machine.gpu and work.machine.num_gpus < num:
        text += f" on a machine with {num} GPUs: this one has {work.machine.num_gpus}"
    return text


def _told(work: Workload) -> str:
    whose = f"teacher {work.recipe.route}" if work.recipe.route else "teacher"
    if work.num_parts > 1:
        return _told_of_parts(whose, work)
    if not work.is_spread:
        return f"{whose}: device_map auto, and no GPU here: one device holds it"
    text = (
        f"{whose}: its layers lie on {work.machine.num_gpus} GPUs, {work.bytes_on_a_gpu / GB:.1f} GB of "
        "weights on each"
    )
    return f"{text}; {price_of_host(work.host_bytes)}" if work.host_bytes else text
