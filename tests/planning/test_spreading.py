"""A teacher over several GPUs: what lies where, and what is refused before anything is fetched."""

import re

import pytest
from run_helpers import QUICKSTART, ROOT

from distill import capture, generate
from distill.errors import MismatchError
from distill.pipeline import PLANNED
from distill.planning.costs import Workload
from distill.planning.launches import divided, launch_told
from distill.planning.machine import GB, Machine
from distill.planning.scoring import capture_told
from distill.planning.sizes import Size
from distill.planning.spreading import check_spreading, other_ways, spreading_told
from distill.recipe import load_recipe

REAL = ROOT / "recipes" / "qwen_to_1b.yaml"
QWEN_32B = ["teacher.model=Qwen/Qwen3-32B", "teacher.device_map=auto", "teacher.device=auto"]


def machine(num_gpus, gigabytes, memory=64):
    return Machine(
        cores=16,
        memory=memory * GB,
        disk_free=1e13,
        gpu="RTX 4090",
        gpu_memory=gigabytes * GB,
        flops=9e13,
        bandwidth=1e12,
        num_gpus=num_gpus,
    )


def work(on, *fields, source=REAL):
    return Workload.of(load_recipe(source, [*fields]), on)


def memory_of(of):
    return max(generate.cost(of).memory, capture.cost(of).memory)


def test_qwen3_32b_fits_four_gpus_of_24_gb_and_not_one():
    one, four = work(machine(1, 24), QWEN_32B[0]), work(machine(4, 24), *QWEN_32B)
    assert memory_of(one) > 60 * GB
    assert 16 * GB < memory_of(four) < 24 * GB
    assert four.host_bytes == 0 and 16 * GB < four.bytes_on_a_gpu < 17 * GB
    check_spreading(four)
    (said,) = spreading_told(four)
    assert said == "teacher: its layers lie on 4 GPUs, 16.4 GB of weights on each"


def test_qwen3_30b_a3b_fits_one_gpu_of_80_gb_without_any():
    plain = work(machine(1, 80), "teacher.model=Qwen/Qwen3-30B-A3B")
    assert memory_of(plain) < 80 * GB and not plain.is_spread and not spreading_told(plain)


def test_what_lies_in_memory_costs_time_at_each_pass_and_that_is_told():
    four, two = work(machine(4, 24), *QWEN_32B), work(machine(2, 24, memory=64), *QWEN_32B)
    check_spreading(two)
    assert two.host_bytes == pytest.approx(two.teacher_bytes - 0.8 * 48 * GB)
    (said,) = spreading_told(two)
    assert "GB lie in this machine's memory and are copied to a GPU for each pass" in said
    assert generate.cost(two).seconds > 2 * generate.cost(four).seconds
    assert capture.cost(two).seconds > capture.cost(four).seconds
    assert memory_of(two) > memory_of(four)


@pytest.mark.parametrize(
    ("on", "fields", "message", "way_out"),
    [
        (
            machine(2, 24, memory=16),
            [],
            r"2 x 24 GB of GPU memory and 16 GB of memory: .*quantization nf4",
            ["teacher.quantization=nf4"],
        ),
        (
            machine(1, 12, memory=256),
            ["teacher.quantization=nf4"],
            r"in nf4, which must lie on GPUs.*a smaller teacher",
            ["teacher.model=Qwen/Qwen3-8B"],
        ),
    ],
)
def test_what_has_no_room_is_refused_and_the_way_out_is_taken(on, fields, message, way_out):
    with pytest.raises(MismatchError, match=message):
        check_spreading(work(on, *QWEN_32B, *fields))
    check_spreading(work(on, *QWEN_32B, *fields, *way_out))


def test_without_a_gpu_or_without_the_field_nothing_changes():
    no_gpu = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)
    spread = work(no_gpu, *QWEN_32B[1:], source=QUICKSTART)
    plain = work(no_gpu, source=QUICKSTART)
    assert generate.cost(spread) == generate.cost(plain)
    assert capture.cost(spread) == capture.cost(plain)
    (said,) = spreading_told(spread)
    assert "no GPU here: one device holds it" in said
    assert isinstance(plain.teacher, Size) and not spreading_told(plain)


def test_of_deepseek_behind_a_server_nothing_is_loaded_or_fetched_here():
    fields = ["teacher.server=http://h:1", "capture.from_server=scores", "capture.signal=chunks"]
    served = work(
        machine(1, 24),
        "teacher.model=deepseek-ai/DeepSeek-V3.1",
        *fields,
        "capture.top_k=20",
        "train.hard_weight=1",
    )
    assert memory_of(served) < 2 * GB and served.teacher_download == 0
    (said,) = capture_told(served)
    assert said.startswith("capture: h scores the kept answers (prompt_logprobs)")
    spread = work(machine(4, 24), *QWEN_32B, *fields, "train.hard_weight=1", "capture.top_k=20")
    assert not spread.is_spread and not spreading_told(spread)


IN_FOUR = ["teacher.model=Qwen/Qwen3-32B", "teacher.tensor_parallel=4", "teacher.device=auto"]


def test_four_processes_that_hold_qwen3_32b_take_a_quarter_each_and_that_is_told():
    four, spread = work(machine(4, 24), *IN_FOUR), work(machine(4, 24), *QWEN_32B)
    assert four.bytes_on_a_gpu == spread.bytes_on_a_gpu
    assert 16 * GB < memory_of(spread) < memory_of(four) < 24 * GB, "a leader joins the head"
    (said,) = spreading_told(four)
    assert said.startswith("teacher: 4 processes hold it together (tensor_parallel), each 16.4 GB")
    assert said.endswith("--num_processes 4 distill/train.py RECIPE`")
    assert "with 4 GPUs: this one has 1" in spreading_told(work(machine(1, 24), *IN_FOUR))[0]
    eight = work(machine(8, 24), *IN_FOUR, "num_processes=8")
    assert eight.bytes_on_a_gpu == four.bytes_on_a_gpu
    assert "--num_processes 8" in spreading_told(eight)[0]


def test_the_plan_reckons_with_as_many_processes_as_hold_the_teacher():
    four, alone = work(machine(4, 24), *IN_FOUR), work(machine(4, 24), IN_FOUR[0], IN_FOUR[2])
    assert (alone.num_processes, four.num_processes) == (1, 4)
    assert divided(generate.STAGE, four).seconds < divided(generate.STAGE, alone).seconds / 3
    told = launch_told(four, PLANNED)
    assert told is not None and told.startswith(
        "4 processes (teacher.tensor_parallel), on one node"
    )


def test_where_a_teacher_has_no_room_both_ways_over_several_gpus_are_named():
    assert other_ways(machine(1, 24), "teacher") == ""
    said = other_ways(machine(4, 24), "teacher")
    ways = re.findall(r"teacher\.\w+=\w+", said)
    assert ways == ["teacher.device_map=auto", "teacher.tensor_parallel=N"]
    assert "N processes, at most 4," in said
    for way in ways:
        override = way.replace("=N", "=4")
        assert memory_of(work(machine(4, 24), *IN_FOUR[::2], override)) < 24 * GB
