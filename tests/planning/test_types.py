"""What a plan reckons with where the CPU multiplies bfloat16, and where it does not."""

import subprocess
import sys
from dataclasses import replace

import pytest
from run_helpers import QUICKSTART

from distill.models.product_speed import multiplies_bfloat16
from distill.pipeline import PLANNED
from distill.plan import stage_costs
from distill.planning import machine as of_machine
from distill.planning.costs import Workload
from distill.planning.machine import Machine, this_machine
from distill.planning.preflight import slow_types
from distill.recipe import load_recipe

AVX2 = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)
AMX = replace(AVX2, bfloat16_speedup=4.0)
SLOWER = replace(AVX2, bfloat16_speedup=0.9)


def costs(machine, *words):
    recipe = load_recipe(QUICKSTART, ["train.precision=auto", "teacher.dtype=auto", *words])
    return stage_costs(Workload.of(recipe, machine), PLANNED)


def test_auto_is_as_fast_as_the_faster_type():
    plain, faster, slower = (costs(machine) for machine in (AVX2, AMX, SLOWER))
    for stage in ("capture", "train"):
        assert plain[stage].seconds == pytest.approx(4 * faster[stage].seconds)
        assert plain[stage] == slower[stage]
    assert faster["generate"].seconds < plain["generate"].seconds
    assert faster["capture"].memory < plain["capture"].memory, "half of the weights"
    assert faster["train"].memory > plain["train"].memory, "a copy in 16 bits more"


def test_what_the_recipe_says_is_reckoned_with():
    float32 = costs(AMX, "train.precision=float32", "teacher.dtype=float32")
    assert float32 == costs(AVX2)
    bfloat16 = costs(AVX2, "train.precision=bfloat16")
    assert bfloat16["train"].seconds == pytest.approx(10 * float32["train"].seconds)


def test_a_quantized_teacher_gains_nothing_on_a_cpu():
    words = "teacher.quantization=nf4"
    assert costs(AMX, words)["capture"] == costs(AVX2, words)["capture"]


def test_the_plan_warns_of_a_type_that_takes_ten_times_as_long_and_of_no_other():
    both = load_recipe(QUICKSTART, ["train.precision=bfloat16", "teacher.dtype=bfloat16"])
    assert [line.partition(":")[0] for line in slow_types(both)] == [
        "train.precision",
        "teacher.dtype",
    ]
    on_server = load_recipe(
        QUICKSTART,
        ["teacher.dtype=bfloat16", "teacher.server=http://host:1", "train.precision=auto"],
    )
    assert slow_types(on_server) == []


def test_a_machine_says_what_it_gains(tmp_path):
    machine = this_machine(tmp_path, with_gpu=False)
    assert bool(machine.bfloat16_speedup) == multiplies_bfloat16()
    assert "bfloat16" not in str(AVX2) and "4.0 times that in bfloat16" in str(AMX)


def test_without_the_instructions_torch_is_not_even_loaded(tmp_path, monkeypatch):
    listed = tmp_path / "cpuinfo"
    monkeypatch.setattr(of_machine, "CPU_INFO", listed)
    monkeypatch.setattr(of_machine, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(of_machine, "measured_speedup", lambda *_, **__: 3.14159)
    assert of_machine._bfloat16_speedup() == 0.0
    for flags, speedup in (
        ("flags : fpu avx2 avx512_bf16", 3.14),
        ("flags\t\t: fpu amx_bf16 amx_tile", 3.14),
        ("Features : fp asimd bf16", 3.14),
        ("flags : fpu avx2 fma", 0.0),
    ):
        listed.write_text(flags)
        assert of_machine._bfloat16_speedup() == speedup
    code = "from distill.planning import machine; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
