"""What other processes leave of the cores, from /proc/stat."""

import time

import pytest
from core_helpers import busy_cores

from distill.core import cores
from distill.core.cores import CoreWatch

SECONDS = 0.3
LINE = "cpu{} {} 500 {} 9000 9000 0 0 {} 0 0"


def test_cores_that_other_processes_use_are_not_spare():
    with busy_cores():
        watch = CoreWatch()
        time.sleep(SECONDS)
        assert watch.spare(watch.num_cores) <= max(1, watch.num_cores // 2)


def test_there_is_always_one_core_and_never_more_than_asked_for():
    watch = CoreWatch()
    time.sleep(SECONDS)
    assert watch.spare(1) == 1 and 1 <= watch.spare(64) <= watch.num_cores


@pytest.mark.parametrize("content", ["", "cpu  1 2 3", "intr 5\n"])
def test_a_system_that_does_not_say_leaves_all(tmp_path, monkeypatch, content):
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    assert CoreWatch().taken() == 0
    (tmp_path / "stat").write_text(content)
    assert CoreWatch().taken() == 0


def test_what_counts_is_what_others_did_on_our_cores(tmp_path, monkeypatch):
    """Not niced work, waiting, other cores, nor what this process did itself."""
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "own_cores", lambda: {0, 1})
    monkeypatch.setattr(cores.os, "sysconf", lambda name: 100)
    clock = {"monotonic": 5.0, "process_time": 1.0}
    for name in clock:
        monkeypatch.setattr(cores.time, name, lambda name=name: clock[name])
    (tmp_path / "stat").write_text("\n".join(LINE.format(n, 100, 50, 7) for n in (0, 1, 10)))
    watch = CoreWatch()
    clock.update(monotonic=7.0, process_time=1.5)
    after = [LINE.format(0, 200, 100, 57), LINE.format(1, 100, 50, 7), LINE.format(10, 900, 50, 7)]
    (tmp_path / "stat").write_text("\n".join(after))
    assert watch.taken() == pytest.approx((2.0 - 0.5) / 2)


def test_numeric_libraries_take_what_the_user_said_or_every_core(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores.usual_threads() == len(cores.own_cores())
    for said, threads in {"1": 1, " 3": 3, "4,2": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert cores.usual_threads() == threads
    for said in ("0", "many", ""):  # OpenMP ignores these
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert cores.usual_threads() == len(cores.own_cores())
