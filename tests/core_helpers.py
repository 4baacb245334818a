"""Other processes that keep every core of this machine busy."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distill.core.cores import own_cores


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep each core busy within the block, with a process that computes nothing.

    Niced tests are skipped: so would be those processes, and niced work takes no core from anybody.
    """
    if os.nice(0) > 0:
        pytest.skip("niced work does not count as busy; run the tests without nice")
    program = "print(flush=True)\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        for _ in own_cores()
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it has begun
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()
