"""What the machine at hand has: cores, memory, a GPU, free disk, and how fast it multiplies matrices."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

GB = 1e9
CPU_EFFICIENCY = 0.45  # of a large matrix product, in a small model's forward or backward pass
# operations a second in half precision, as large products reach them, and bytes a second of the GPU's memory, by its makers
GPU_SPEEDS = {
    "H100": (400e12, 3.3e12),
    "H200": (400e12, 4.8e12),
    "A100": (160e12, 1.9e12),
    "L40": (100e12, 0.86e12),
    "4090": (90e12, 1.0e12),
    "3090": (45e12, 0.94e12),
    "T4": (20e12, 0.32e12),
}
OTHER_GPU_SPEEDS = (30e12, 0.3e12)


@dataclass(frozen=True)
class Machine:
    """What this machine has; bytes and operations a second."""

    cores: int
    memory: float
    disk_free: float
    gpu: str | None
    gpu_memory: float
    flops: float
    bandwidth: float = 0.0  # of the GPU's memory; where there is none it is not needed

    def __str__(self) -> str:
        gpu = f"{self.gpu}, {self.gpu_memory / GB:.0f} GB" if self.gpu else "no GPU"
        return (
            f"{self.cores} cores, {self.memory / GB:.1f} GB of memory, {gpu}, {self.disk_free / GB:.1f} GB of disk free, "
            f"{self.flops / 1e9:,.0f} GFLOP/s"
        )


# what is never free for a model: the system and the user's other programs; on a GPU the screen and CUDA's own context
KEPT_BYTES, KEPT_GPU_BYTES = 1.5 * GB, 0.5 * GB


@dataclass(frozen=True)
class Room:
    """Bytes for a model, without what the system keeps: `loaded`, where models are loaded (`name`: the GPU, or this machine),
    and `ram`, where llama.cpp runs."""

    name: str
    loaded: float
    ram: float


def room_for_models() -> Room:
    gpu, gpu_memory = _gpu()
    ram = max(0.0, _memory() - KEPT_BYTES)
    return (
        Room(gpu, gpu_memory - KEPT_GPU_BYTES, ram)
        if gpu
        else Room("this machine (no GPU)", ram, ram)
    )


def _memory() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's or batch job's own limit
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return memory


def this_machine(place: Path, *, with_gpu: bool = True) -> Machine:
    """`place`: where files will be written; `with_gpu` False: a recipe that leaves the GPU alone."""
    existing = next(p for p in [place, *place.parents] if p.exists())
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    gpu, gpu_memory = _gpu() if with_gpu else (None, 0.0)
    known = [speeds for name, speeds in GPU_SPEEDS.items() if gpu and name in gpu]
    flops, bandwidth = (
        (known or [OTHER_GPU_SPEEDS])[0] if gpu else (_cpu_flops() * CPU_EFFICIENCY, 0.0)
    )
    return Machine(
        cores, _memory(), shutil.disk_usage(existing).free, gpu, gpu_memory, flops, bandwidth
    )


def _gpu() -> tuple[str | None, float]:
    """(name, bytes) of the first NVIDIA GPU, by nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None, 0.0
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if found.returncode or not found.stdout.strip():
        return None, 0.0
    name, _, megabytes = found.stdout.strip().splitlines()[0].rpartition(",")
    return name.strip(), float(megabytes) * 2**20


def _cpu_flops() -> float:
    """Float32 operations a second of a matrix product on all cores, measured for a tenth of a second."""
    import numpy as np

    a = np.ones((512, 512), np.float32)
    np.matmul(a, a)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.1:
        np.matmul(a, a)
        count += 1
    return count * 2 * 512**3 / elapsed
