"""What the processes of a run are given."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from run_helpers import Forked, environment, free_port

from distill.core import shutdown
from distill.core.digests import digest
from distill.core.processes import (
    ENDED,
    Processes,
    own_node,
    start,
    threads_left_idle,
    threads_of_command,
)
from distill.errors import MismatchError

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("environment", "num_cores", "threads"),
    [
        (LAUNCHED, 2, 2),
        (LAUNCHED, 1, None),
        ({**LAUNCHED, "LOCAL_WORLD_SIZE": "2"}, 8, 4),
        ({**LAUNCHED, "LOCAL_WORLD_SIZE": "2"}, 2, None),
        ({"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 8, 4),
        ({**LAUNCHED, "OMP_NUM_THREADS": "3"}, 8, None),  # asked for
        ({"OMP_NUM_THREADS": "1"}, 8, None),  # asked for: no launcher
        ({}, 8, None),  # torch takes all by itself
    ],
)
def test_a_launcher_that_leaves_cores_idle_is_overruled(environment, num_cores, threads):
    assert threads_left_idle(environment, num_cores, {}) == threads


def test_a_launcher_whose_user_asked_for_one_thread_is_obeyed():
    assert threads_left_idle(LAUNCHED, 8, {"OMP_NUM_THREADS": "1"}) is None
    assert threads_left_idle(LAUNCHED, 8, {"OMP_NUM_THREADS": "4"}) is None


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["accelerate", "launch", "--num_cpu_threads_per_process", "1", "x.py"], {"1"}),
        (["accelerate", "launch", "--num-cpu-threads-per-process=1", "x.py"], {"1"}),
        (["accelerate", "launch", "x.py"], set()),
        ([], set()),
    ],
)
def test_a_launcher_that_is_told_the_threads_is_obeyed(words, asked):
    told = threads_of_command(words)
    assert set(told.values()) == asked
    assert threads_left_idle(LAUNCHED, 8, told) == (None if asked else 8)


CHILD = "from distill.core.processes import environment_of_launcher as e; print(e().get('OMP_NUM_THREADS'))"
LAUNCHER = f"""
import os, subprocess, sys
os.environ["OMP_NUM_THREADS"] = "1"  # as accelerate does where it finds none
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="only Linux tells it")
@pytest.mark.parametrize("asked", [None, "1"])
def test_what_the_launcher_itself_found_is_told_from_what_it_set(asked):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if asked:
        environment["OMP_NUM_THREADS"] = asked
    command = [sys.executable, "-c", LAUNCHER]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(asked)


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


def test_a_process_without_a_gpu_of_its_own_is_refused_before_it_joins(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(MismatchError, match=r"process 1 .* sees 1: .*--gpus-per-node=N"):
        start(None)


def meet(patience):
    start(None, patience)
    return 0


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_waits_for_others_that_never_come_says_so_and_ends(rank):
    port = str(free_port())
    of_two = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    alone = Forked(meet, 1.0, variables=environment(**of_two, **place)).result(60)
    assert alone.returncode == ENDED, alone.stderr
    said = [line for line in alone.stderr.splitlines() if line.startswith("distill: ")]
    assert len(said) == 2 and "run the same command" in said[1]
    assert all(f"waiting for 2 processes at 127.0.0.1:{port}" in line for line in said)


def meet_and_listen(marker):
    with shutdown.listening():
        marker.touch()
        start(None, 60.0)
    return 0


def test_a_signal_ends_one_that_waits_for_others(tmp_path):
    of_two = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    waits = Forked(meet_and_listen, tmp_path / "marker", variables=environment(**of_two, **place))
    while not (tmp_path / "marker").exists():
        time.sleep(0.02)
    time.sleep(0.5)  # in torch by now; a signal that comes before is looked at on the way there
    waits.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert waits.result(50).returncode != 0
    assert time.monotonic() - began < 20


def test_ranks_of_nodes_with_unequal_numbers_are_told_apart(monkeypatch):
    nodes = []
    for rank, (agent, num) in enumerate([("0", "2")] * 2 + [("1", "4")] * 4):
        monkeypatch.setenv("RANK", str(rank))
        nodes.append(own_node({"GROUP_RANK": agent, "LOCAL_WORLD_SIZE": num}))
    assert nodes == ["0", "0", "1", "1", "1", "1"]
