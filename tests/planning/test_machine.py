"""What this machine has, as far as a plan counts on it."""

import dataclasses
import os

from core_helpers import busy_cores

from distill.planning import machine as of_machine
from distill.planning.machine import memory_bytes, room_for_models, this_machine

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_system_keeps_some_of_the_memory():
    room = room_for_models()
    assert 0 < room.ram < 0.999 * PHYSICAL and room.loaded > 0


def test_there_is_no_more_memory_than_the_machine_has():
    assert 0 < memory_bytes() <= PHYSICAL


def test_a_folder_that_is_not_there_yet_is_on_some_disk(tmp_path):
    machine = this_machine(tmp_path / "runs" / "mango", with_gpu=False)
    assert machine.gpu is None and machine.gpu_memory == 0
    assert machine.cores >= 1 and machine.memory == memory_bytes() and machine.disk_free > 0
    assert 1e8 < machine.flops < 1e14


def test_the_speed_is_the_machines_own_while_others_are_at_work(tmp_path):
    """One long measurement found a fiftieth of it there, and a plan of 41 hours."""
    rested = max(this_machine(tmp_path, with_gpu=False).flops for _ in range(3))
    with busy_cores(), busy_cores():
        beside = max(this_machine(tmp_path, with_gpu=False).flops for _ in range(3))
    assert beside > rested / 2


def test_the_gpus_that_can_be_seen_are_counted(tmp_path, monkeypatch):
    listed = tmp_path / "nvidia-smi"
    listed.write_text("#!/bin/sh\necho 'NVIDIA A100, 40960'\necho 'NVIDIA A100, 40960'\n")
    listed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = this_machine(tmp_path)
    assert (machine.gpu, machine.num_gpus) == ("NVIDIA A100", 2)
    assert "2 x NVIDIA A100, 43 GB" in str(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert this_machine(tmp_path).num_gpus == 1
    listed.write_text("#!/bin/sh\nexit 9\n")
    assert this_machine(tmp_path).gpu is None


def test_the_plan_says_that_the_machine_was_busy(tmp_path):
    with busy_cores():
        machine = this_machine(tmp_path, with_gpu=False)
    assert machine.busy is not None and machine.taken_cores > 0.3
    assert f"of {machine.cores} cores busy: times are of this machine at rest" in machine.busy
    at_rest = dataclasses.replace(machine, taken_cores=0.1)
    assert at_rest.busy is None


def test_free_memory_is_that_of_the_machine_or_of_its_container(tmp_path, monkeypatch):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       9000 kB\nMemAvailable:   4000 kB\n")
    monkeypatch.setattr(of_machine, "MEMORY_INFO", info)
    monkeypatch.setattr(of_machine, "CGROUP", tmp_path)
    assert of_machine.available_bytes() == 4000 << 10
    (tmp_path / "memory.max").write_text(f"{3000 << 10}\n")
    (tmp_path / "memory.current").write_text(f"{2500 << 10}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {500 << 10}\n")
    assert of_machine.available_bytes() == 1000 << 10, "what files hold can be dropped"
    (tmp_path / "memory.max").write_text("max\n")
    assert of_machine.available_bytes() == 4000 << 10
