"""How fast this machine reads memory: what bounds decoding, since each token reads every weight."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distill.planning.machine import memory_bytes

BUFFER_BYTES = 512 << 20
PASSES = 7
UNITS = {"K": 1 << 10, "M": 1 << 20}  # of a cache's size, as Linux writes it


def read_bandwidth(num_threads: int, num_bytes: int | None = None) -> float:
    """Return the bytes a second that `num_threads` threads read together.

    It is the best of seven passes over `num_bytes`. libc's memchr looks for a byte that is not
    there: nothing is written, next to nothing computed, and ctypes frees the interpreter's lock
    meanwhile. The buffer (512 MiB; an eighth of the memory where that is less) is larger than the
    caches.
    """
    num_bytes = num_bytes or min(BUFFER_BYTES, memory_bytes() // 8)
    buffer = np.ones(num_bytes, np.uint8)  # written, so that every page is its own
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memchr.restype = ctypes.c_void_p
    share = num_bytes // num_threads
    starts = [buffer.ctypes.data + n * share for n in range(num_threads)]
    seconds = []
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(PASSES):
            begin = time.perf_counter()
            matches = list(pool.map(lambda start: memchr(start, 0, share), starts))
            seconds.append(time.perf_counter() - begin)
            assert not any(matches)
    return share * num_threads / min(seconds)


def cache_bytes() -> int | None:
    """Return the size of the first core's largest cache; None where the system does not say."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    texts = [path.read_text().strip() for path in caches.glob("index*/size")]
    return max((int(text[:-1]) * UNITS[text[-1]] for text in texts), default=None)
