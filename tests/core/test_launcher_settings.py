"""What of accelerate's configuration is refused or overruled, in the environment that accelerate itself makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from distill.core import processes
from distill.core.launcher_settings import ENGINES, overruled, refuse_other_engines
from distill.errors import MismatchError

PLAIN = (
    "compute_environment: LOCAL_MACHINE\nmixed_precision: 'no'\nnum_machines: 1\nnum_processes: 2\n"
)
FSDP = "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: NO_WRAP}\n"
DEEPSPEED = "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3}\n"
MULTI_GPU = "distributed_type: MULTI_GPU\n"


def environment_of(yaml: str, tmp_path: Path, *words: str) -> dict[str, str]:
    """What accelerate's launcher sets for its children, of this configuration and these options."""
    path = tmp_path / "accelerate.yaml"
    path.write_text(PLAIN + yaml)
    arguments = launch.launch_command_parser().parse_args(
        ["--config_file", str(path), *words, "distill/train.py", "recipe.yaml"]
    )
    before = dict(os.environ)
    arguments, *_ = launch._validate_launch_command(arguments)
    if arguments.use_deepspeed:  # what it calls there, without the package being installed
        arguments.deepspeed_fields_from_accelerate_config = ""
        return launch.prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.multi_gpu or arguments.use_fsdp:
        made = prepare_multi_gpu_env(arguments)
    else:
        made = prepare_simple_launcher_cmd_env(arguments)[1]
    return {name: value for name, value in made.items() if before.get(name) != value}


@pytest.mark.parametrize("of_cpu", ["use_cpu: false\n", "use_cpu: true\n"])
@pytest.mark.parametrize(
    ("yaml", "name"), [(FSDP, "FSDP"), (DEEPSPEED, "DeepSpeed")], ids=["fsdp", "deepspeed"]
)
def test_an_engine_in_accelerates_configuration_is_refused_by_name(yaml, name, of_cpu, tmp_path):
    made = environment_of(yaml + of_cpu, tmp_path)
    with pytest.raises(MismatchError, match=f"asks for {name} .*train.shard=full"):
        refuse_other_engines(made)


def test_the_way_out_of_the_refusal_works(tmp_path):
    """The same file, with the option that the message names."""
    refuse_other_engines(environment_of(FSDP, tmp_path, "--multi_gpu"))
    refuse_other_engines(environment_of(DEEPSPEED, tmp_path, "--multi_gpu"))


@pytest.mark.parametrize("variable", ENGINES)
def test_an_engine_that_the_users_shell_sets_is_refused_before_anything_starts(
    variable, monkeypatch
):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(MismatchError, match=f"{variable}=true.*unset {variable}"):
        processes.start(None)
    for value in ("false", "0", ""):
        refuse_other_engines({variable: value})


def test_a_plain_configuration_says_nothing(tmp_path):
    made = environment_of(MULTI_GPU, tmp_path)
    refuse_other_engines(made)
    assert "ACCELERATE_DYNAMO_BACKEND" in made and overruled(made) == []


def test_what_is_not_taken_of_a_configuration_is_told(tmp_path):
    yaml = "dynamo_config: {dynamo_backend: INDUCTOR}\n" + MULTI_GPU
    made = environment_of(yaml, tmp_path, "--mixed_precision", "bf16")
    made["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = "4"
    told = overruled(made)
    assert [line.split()[1] for line in told] == [
        "dynamo_backend",
        "mixed_precision",
        "gradient_accumulation_steps",
    ]
    assert "train.precision decides" in told[1]


def test_our_accelerator_takes_none_of_it():
    """In an interpreter of its own: accelerate remembers what it was first told."""
    code = (
        "from distill.training.written import accelerator_without_defaults as a\n"
        "import torch\n"
        "made = a(); module = torch.nn.Linear(2, 2)\n"
        "assert made.prepare_model(module) is module, 'compiled'\n"
        "assert made.mixed_precision == 'no' and made.gradient_accumulation_steps == 1\n"
    )
    more = {
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_USE_CPU": "true",
    }
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, check=True)
