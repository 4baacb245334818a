"""A wait that can be cut short."""

import asyncio
import time
from collections.abc import Callable

STEP = 0.2  # seconds between two looks


async def sleep_unless(is_over: Callable[[], bool], seconds: float) -> bool:
    """Sleep; return False as soon as `is_over()`: a stop asked for in a minute's wait is not late."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if is_over():
            return False
        await asyncio.sleep(min(left, STEP))
    return True
