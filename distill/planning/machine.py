"""What the machine at hand has: cores, memory, a GPU, free disk, and how fast it multiplies."""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.core.cores import CoreWatch, own_cores, usual_threads
from distill.models.product_speed import Matrices, measured_speedup, multiplies_bfloat16

if TYPE_CHECKING:
    import numpy as np

GB = 1e9
CPU_EFFICIENCY = 0.45  # of a large matrix product, in a small model's forward or backward pass
# Operations a second in half precision, as large products reach them, and bytes a second of the
# GPU's memory, by its makers
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
# The speed of a CPU: the best of so many products of square matrices, in bursts with pauses between
BURSTS, PRODUCTS, PRODUCT_SIZE = 10, 10, 256
PAUSE_SECONDS, MEASURING_SECONDS = 0.02, 1.0  # before each burst; at most, in all
# Products so small that a library gives them one thread, and what a core reaches beside the others
SMALL_PRODUCTS, SMALL_SIZE, SHARE_TOGETHER = 20, 64, 0.7
# A plan asks what bfloat16 gains in training the layers of a small model: whose it is, the run measures
USUAL_MATRICES = Matrices(Counter({(3072, 1024): 2, (1024, 3072): 1, (2048, 1024): 2}))
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container or batch job
CPU_FLAGS = {"amx_bf16", "avx512_bf16", "bf16", "svebf16"}
# What is never free for a model: the system and the user's other programs; on a GPU the screen and
# CUDA's own context
KEPT_BYTES, KEPT_GPU_BYTES = 1.5 * GB, 0.5 * GB
BUSY_CORES = 0.3  # taken by other processes, from which one is told


@dataclass(frozen=True)
class Machine:
    """What this machine has; bytes and operations a second.

    `flops`: in half precision of a GPU, in float32 of a CPU. `bfloat16_speedup`: how many times as
    fast the CPU is in bfloat16; 0 where it has no instructions for that, and beside a GPU.
    """

    cores: int
    memory: float
    disk_free: float
    gpu: str | None
    gpu_memory: float
    flops: float
    bandwidth: float = 0.0  # of the GPU's memory; where there is none it is not needed
    taken_cores: float = 0.0  # that other processes kept busy while the speed was measured
    bfloat16_speedup: float = 0.0
    num_gpus: int = 1  # that this process sees, as large as the first; where there is none it counts for nothing

    @property
    def busy(self) -> str | None:
        """Return a sentence on the other processes that were at work here; None if none was."""
        if self.taken_cores < BUSY_CORES:
            return None
        return (
            f"other processes kept {self.taken_cores:.1f} of {self.cores} cores busy: times are of "
            "this machine at rest, as far as that could be measured; beside them the run is slower"
        )

    def processes_a_node(self, num: int) -> int:
        """Return how many of `num` processes are on a node like this machine: one a GPU; without one all."""
        return min(num, self.num_gpus) if self.gpu else num

    def __str__(self) -> str:
        gpu = f"{self.gpu}, {self.gpu_memory / GB:.0f} GB" if self.gpu else "no GPU"
        if self.gpu and self.num_gpus > 1:
            gpu = f"{self.num_gpus} x {gpu}"
        return (
            f"{self.cores} cores, {self.memory / GB:.1f} GB of memory, {gpu}, "
            f"{self.disk_free / GB:.1f} GB of disk free, {self.flops / 1e9:,.0f} GFLOP/s{self._bfloat16}"
        )

    @property
    def _bfloat16(self) -> str:
        if not self.bfloat16_speedup:
            return ""
        return f", {self.bfloat16_speedup:.1f} times that in bfloat16"


@dataclass(frozen=True)
class Room:
    """Bytes for a model, without what the system keeps.

    `loaded` is where models are loaded (`name`: the GPU, or this machine), `ram` where llama.cpp
    runs.
    """

    name: str
    loaded: float
    ram: float


class Gpu(NamedTuple):
    """A GPU: its name, and the bytes of its memory."""

    name: str
    memory: float


def room_for_models() -> Room:
    """Return how many bytes of this machine a model may take."""
    ram = max(0.0, memory_bytes() - KEPT_BYTES)
    gpu = next(iter(_gpus()), None)
    if gpu is None:
        return Room("this machine (no GPU)", ram, ram)
    return Room(gpu.name, gpu.memory - KEPT_GPU_BYTES, ram)


def memory_bytes() -> int:
    """Return the bytes of memory of this machine, or of this container or batch job if less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP / "memory.max"
    if not limit.is_file():
        return memory
    text = limit.read_text().strip()
    return min(memory, int(text)) if text.isdigit() else memory


def available_bytes() -> int:
    """Return the bytes of memory that are free here, or in this container or batch job if fewer."""
    free = memory_bytes()
    if MEMORY_INFO.is_file():
        fields = dict(line.split(":") for line in MEMORY_INFO.read_text().splitlines())
        free = min(free, int(fields["MemAvailable"].split()[0]) << 10)
    used, stat = CGROUP / "memory.current", CGROUP / "memory.stat"
    if used.is_file() and stat.is_file():
        kinds = dict(line.split() for line in stat.read_text().splitlines())
        taken = int(used.read_text()) - int(kinds["inactive_file"])  # files that it can drop
        free = min(free, max(0, memory_bytes() - taken))
    return free


def this_machine(folder: Path, *, with_gpu: bool = True) -> Machine:
    """Return what this machine has.

    `folder`: where files will be written, whether it is there yet or not. `with_gpu` False: for a
    recipe that leaves the GPU alone.
    """
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    gpus = _gpus() if with_gpu else []
    gpu = gpus[0] if gpus else None
    watch = CoreWatch()
    flops, bandwidth = _speeds(gpu)
    taken_cores = 0.0 if gpu else watch.taken()
    return Machine(
        cores=watch.num_cores,
        memory=memory_bytes(),
        disk_free=shutil.disk_usage(existing).free,
        gpu=gpu.name if gpu else None,
        gpu_memory=gpu.memory if gpu else 0.0,
        flops=flops,
        bandwidth=bandwidth,
        taken_cores=taken_cores,
        bfloat16_speedup=0.0 if gpu else _bfloat16_speedup(),
        num_gpus=len(gpus) or 1,
    )


def _speeds(gpu: Gpu | None) -> tuple[float, float]:
    """Return operations a second, and bytes a second of a GPU's memory."""
    if gpu is None:
        return _cpu_flops() * CPU_EFFICIENCY, 0.0
    for name, speeds in GPU_SPEEDS.items():
        if name in gpu.name:
            return speeds
    return OTHER_GPU_SPEEDS


def _gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs that nvidia-smi lists; as many as CUDA_VISIBLE_DEVICES lets be seen."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if listed.returncode:
        return []
    parts = [line.rpartition(",") for line in listed.stdout.strip().splitlines()]
    found = [Gpu(name.strip(), float(megabytes) * 2**20) for name, _, megabytes in parts]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # which of them is nothing to a plan: they are taken to be alike
    return found[: len(visible.split(","))] if visible else found


def _cpu_flops() -> float:
    """Return float32 operations a second of a matrix product on all cores.

    Beside other processes the threads of one product wait for each other, up to a thousand times as
    long as the product takes, and that is not this machine's speed. What one thread does in its own
    processor time is nearly the same then.
    """
    import numpy as np

    threads = min(usual_threads(), len(own_cores()))
    matrix = np.ones((PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    together = 2 * PRODUCT_SIZE**3 / _shortest(matrix, time.perf_counter)
    small = np.ones((SMALL_PRODUCTS, SMALL_SIZE, SMALL_SIZE), np.float32)
    alone = 2 * SMALL_PRODUCTS * SMALL_SIZE**3 / _shortest(small, time.thread_time)
    return max(together, alone * threads * SHARE_TOGETHER)


def _shortest(matrices: "np.ndarray", clock: Callable[[], float]) -> float:
    """Return the seconds of the shortest product of `matrices` with themselves.

    After a pause the system gives a process the cores first.
    """
    import numpy as np

    np.matmul(matrices, matrices)
    best, end = float("inf"), time.perf_counter() + MEASURING_SECONDS
    for _ in range(BURSTS):
        time.sleep(PAUSE_SECONDS)
        for _ in range(PRODUCTS):
            start = clock()
            np.matmul(matrices, matrices)
            best = min(best, clock() - start)
        if time.perf_counter() > end:
            break
    return best


def _bfloat16_speedup() -> float:
    """Return how many times as fast this CPU trains in bfloat16 as in float32.

    0 where it has no instructions for that. The system's list is read first: torch, which has the
    last word, takes seconds to load.
    """
    if not CPU_INFO.is_file() or not CPU_FLAGS & set(CPU_INFO.read_text().split()):
        return 0.0
    if not multiplies_bfloat16():
        return 0.0
    return round(measured_speedup(USUAL_MATRICES, PRODUCT_SIZE, trains=True), 2)
