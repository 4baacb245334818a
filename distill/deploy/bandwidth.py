"""How fast this machine reads memory: what bounds decoding, since each new token reads every weight once."""

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BUFFER_BYTES = 512 << 20
PASSES = 7


def read_bandwidth(num_threads: int, num_bytes: int | None = None) -> float:
    """Bytes a second that `num_threads` threads read together, the best of seven passes over `num_bytes`.

    libc's memchr looks for a byte that is not there: nothing is written, next to nothing computed, and ctypes frees the
    interpreter's lock meanwhile. The buffer (512 MiB; an eighth of the memory where that is less) is larger than the caches.
    """
    num_bytes = num_bytes or min(
        BUFFER_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    )
    buffer = np.ones(num_bytes, np.uint8)  # written, so that every page is its own
    find = ctypes.CDLL(None).memchr
    find.argtypes, find.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    share = num_bytes // num_threads
    starts = [buffer.ctypes.data + n * share for n in range(num_threads)]
    seconds = []
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(PASSES):
            begin = time.perf_counter()
            found = list(pool.map(lambda start: find(start, 0, share), starts))
            seconds.append(time.perf_counter() - begin)
            assert not any(found)
    return share * num_threads / min(seconds)


def cache_bytes() -> int | None:
    """The largest cache of the first core; None where the system does not say."""
    sizes = [
        path.read_text().strip()
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes), default=None)
