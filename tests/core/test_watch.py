"""Ranks of one launch that hang, are stopped or die: named, and all end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_helpers import Forked, environment, free_port

from distill.core import activity, terminal, watch
from distill.core.processes import Processes

PATIENCE, NOTICE, SURE = 4.0, 1.5, 1.0
HUNG = 1  # the rank that `hang` is about


def work(folder: Path, hangs: bool) -> int:
    """Step together with the other rank until somebody ends it; rank 1 may hang in step 10."""
    import torch
    import torch.distributed as dist

    watch.SURE = SURE
    dist.init_process_group("gloo")
    processes = Processes(rank=dist.get_rank(), num=2)
    with watch.watching(processes, PATIENCE, notice=NOTICE, beat=0.2):
        thread = next(t for t in threading.enumerate() if isinstance(t, watch.Watch))
        while len(thread._seen) < 2:  # until each has heard the other
            time.sleep(0.02)
        for step in range(10_000):
            if hangs and step == 10 and processes.rank == HUNG:
                time.sleep(600)
            processes.sum(torch.ones(1))
            (folder / f"{processes.rank}").write_text(str(step))
            time.sleep(0.02)
    return 0


@pytest.fixture
def ranks(tmp_path):
    """`ranks()`: two ranks at work, as Slurm starts them; ended after the test."""
    started = []

    def start(*, hangs=False):
        port = str(free_port())
        for rank in range(2):
            variables = environment(
                RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            )
            started.append(Forked(work, tmp_path, hangs, variables=variables))
        end = time.monotonic() + 60
        while time.monotonic() < end and not steps(tmp_path) > 5:
            time.sleep(0.05)
        return started

    yield start
    for rank in started:
        rank.send_signal(signal.SIGKILL)


def steps(folder):
    texts = [(folder / name).read_text() for name in "01" if (folder / name).exists()]
    return min((int(text or 0) for text in texts), default=0) if len(texts) == 2 else 0


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_other_with_the_way_on(ranks, dies):
    both = ranks()
    both[dies].send_signal(signal.SIGKILL)
    began = time.monotonic()
    other = both[1 - dies].result(timeout=10)
    assert time.monotonic() - began < 10
    assert other.returncode == watch.ENDED, other.stderr
    assert "run the same command to continue" in other.stderr
    assert f"rank {dies} on " in other.stderr


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_is_stopped_is_named_and_then_ends_the_others(ranks, stopped):
    both = ranks()
    both[stopped].send_signal(signal.SIGSTOP)
    other = both[1 - stopped].result(timeout=30)
    lines = [line for line in other.stderr.splitlines() if line.startswith("distill: no step for")]
    assert len(lines) >= 2, other.stderr
    assert all(f"waiting for rank {stopped} on " in line for line in lines)
    assert f"rank {1 - stopped}" not in lines[0] and "no sign of life" in lines[0]
    assert "run the same command to continue" in lines[-1]
    assert other.returncode == watch.ENDED


def test_a_rank_that_hangs_is_named_with_the_place(ranks):
    both = ranks(hangs=True)
    first, second = (rank.result(timeout=30) for rank in both)
    said = first.stderr + second.stderr
    assert "waiting for rank 1 on " in said and "it stands in " in said
    assert "processes.patience" in said
    assert watch.ENDED in (first.returncode, second.returncode)


def told(**changes):
    given = {"host": "a", "beats": 0, "signs": 0, "efforts": 0}
    return watch.Told(
        **{**given, "waits": False, "place": "x.py:1 f", "gone": [], "refused": [], **changes}
    )


def test_a_rank_that_works_alone_while_others_wait_is_named_and_never_ended(monkeypatch):
    """Rank 0 quantizes for hours without a sign: it computes, so nothing is wrong."""
    said = []
    watched = watch.Watch(Processes(rank=1, num=2), patience=1800)
    monkeypatch.setattr(watched, "_say", said.append)
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("ended"))
    for minute in range(600):
        news = {0: told(beats=minute, efforts=minute), 1: told(beats=minute, waits=True)}
        watched._note(news, 60.0 * minute)
        watched._judge(60.0 * minute)
    assert 1 <= len(said) <= 8 and all("waiting for rank 0 on a" in line for line in said)


def judged(watched, minutes, news):
    """Let the watch see the same news for so many minutes; return what it ended all with, if it did."""
    for minute in range(minutes):
        heard = {rank: told(beats=minute, **one) for rank, one in news.items()}
        watched._note(heard, 60.0 * minute)
        watched._judge(60.0 * minute)
        if watched.ended_with:
            return watched.ended_with[0]
    return None


@pytest.fixture
def watched(monkeypatch):
    """`watched(num=2)`: rank 0's watch, which notes what it would end all with."""

    def make(num=2):
        made = watch.Watch(Processes(rank=0, num=num), patience=1800)
        made.ended_with, made.said = [], []
        monkeypatch.setattr(made, "_end_all", made.ended_with.append)
        monkeypatch.setattr(made, "_say", made.said.append)
        return made

    return make


def test_the_one_that_waits_for_nobody_is_named_and_after_the_patience_all_end(watched):
    one = watched(num=3)
    news = {0: {"waits": True}, 1: {"host": "b", "place": "x.py:7 read"}, 2: {"waits": True}}
    ended = judged(one, 60, news)
    assert "waiting for rank 1 on b (it stands in x.py:7 read)" in one.said[0]
    assert "no step for 360 s" in one.said[0] and "rank 0" not in one.said[0]
    assert "processes.patience is 30 minutes" in ended and "rank 1 on b" in ended


def test_who_was_stopped_is_gone_only_for_one_that_waits_for_him(watched, monkeypatch):
    """A signal came to all: the work in hand is finished and saved, whoever was quicker."""
    one = watched()
    monkeypatch.setattr(one._lifelines, "stopped", lambda: {1})
    assert judged(one, 3, {0: {}, 1: {}}) is None
    with activity.waiting():
        assert "rank 1 on a has ended" in judged(one, 3, {0: {"waits": True}, 1: {}})


def test_a_rank_that_has_told_nothing_can_have_ended(watched):
    ended = judged(watched(), 3, {0: {"gone": [1]}})
    assert "rank 1 on a machine that told nothing yet has ended" in ended


def test_ranks_that_were_suspended_together_judge_nobody_at_once(watched):
    """Ctrl-Z and fg, or a batch system that suspends a job for hours."""
    long_ago = time.monotonic() - 7200
    for is_forgiven in (True, False):
        one = watched()
        one._note({0: told(), 1: told(waits=True)}, long_ago)
        if is_forgiven:
            one._forgive()
        one._judge(time.monotonic())
        assert bool(one.ended_with) is not is_forgiven


def test_a_rank_that_has_heard_nobody_judges_nobody(watched):
    one = watched()
    assert judged(one, 120, {0: {"waits": True}}) is None and not one.said


def test_the_store_may_go_with_rank_0_where_that_was_stopped_by_a_signal(watched, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host-a")
    one = watched()
    one._lost = 0.0
    monkeypatch.setattr(one._lifelines, "stopped", lambda: {0})
    assert judged(one, 3, {0: {}, 1: {}}) is None, "the work in hand is finished"
    monkeypatch.setattr(one._lifelines, "stopped", set)
    assert "host-a that joins the ranks has ended" in judged(one, 3, {0: {}, 1: {}})


def test_a_line_that_nobody_reads_does_not_end_the_watch():
    reader, writer = os.pipe()
    os.close(reader)
    stderr = os.dup(2)
    try:
        os.dup2(writer, 2)
        terminal.write_news("no step for 300 s")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writer)


def comes_to_rest(effort):
    """Return whether one of some looks finds no effort: a tick of a busy machine's clock may count late."""
    for _ in range(20):
        time.sleep(0.3)
        if not effort.is_made():
            return True
    return False


def test_a_child_that_computes_is_effort():
    effort = activity.Effort()
    code = "import sys\nend = 2**22\nwhile end: end -= 1\nprint(1, flush=True)\nsys.stdin.read()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert effort.is_made()
        assert comes_to_rest(effort)
        child.communicate(b"")
    assert comes_to_rest(effort)


def test_effort_is_told_from_rest():
    effort = activity.Effort()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert effort.is_made()
    assert comes_to_rest(effort)
