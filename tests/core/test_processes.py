"""What the processes of a run are given."""

import pytest

from distill.core.digests import digest
from distill.core.processes import Processes, threads_left_idle

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("environment", "num_cores", "threads"),
    [
        (LAUNCHED, 2, 2),
        (LAUNCHED, 1, None),
        ({**LAUNCHED, "LOCAL_WORLD_SIZE": "2"}, 8, 4),
        ({**LAUNCHED, "LOCAL_WORLD_SIZE": "2"}, 2, None),
        ({**LAUNCHED, "OMP_NUM_THREADS": "3"}, 8, None),  # asked for
        ({"OMP_NUM_THREADS": "1"}, 8, None),  # asked for: no launcher
        ({}, 8, None),  # torch takes all by itself
    ],
)
def test_a_launcher_that_leaves_cores_idle_is_overruled(environment, num_cores, threads):
    assert threads_left_idle(environment, num_cores) == threads


def test_jobs_divide_what_ids_stand_for_whatever_else_there_is():
    ids = [digest(str(n)) for n in range(300)]
    jobs = [Processes(rank=r, num=r + 1, job=j, num_jobs=3) for j, r in ((0, 0), (1, 1), (2, 0))]
    shares = [{i for i in ids if job.is_mine(i)} for job in jobs]
    assert (
        set.union(*shares) == set(ids)
        and sum(map(len, shares)) == 300
        and min(map(len, shares)) > 70
    )
    assert [sum(job.is_mine(ids[0], turn) for turn in range(30)) for job in jobs] == [10, 10, 10]
    assert all(Processes(num=4).is_mine(i) for i in ids)
