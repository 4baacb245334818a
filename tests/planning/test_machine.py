"""What this machine has, as far as a plan counts on it."""

import os

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
