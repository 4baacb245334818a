"""A model in parts on two gloo ranks: the same as on one within rounding, and nobody waits for ever."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_qwen3
from sharding_helpers import ranks
from team_helpers import CASES, hold_models, loaded, measured, save_models

from distill.core.processes import Processes
from distill.errors import MismatchError
from distill.models import divided, load
from distill.models.graphed_step import can_record

# of states of size 3 and of sums of log-probs of size 10; measured: 1.9e-6 and 0
TOLERANCE = {"float32": 5e-6, "float64": 1e-12}
NUMBERS = ("states", "log-probs", "choices")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The folder in which two ranks left what they found."""
    folder = tmp_path_factory.mktemp("held")
    save_models(folder)
    started = ranks(hold_models, 2, folder)
    results = [one.result(120) for one in started]
    assert [r.returncode for r in results] == [0, 0], (
        results[0].stderr[-3000:] + results[1].stderr[-3000:]
    )
    return folder


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_in_parts_a_model_says_what_it_says_whole(held, name, dtype):
    whole = measured(loaded(held / name, dtype))
    parts = torch.load(held / f"{name}-{dtype}-parts.pt")
    for what in NUMBERS:
        assert (parts[what] - whole[what]).abs().max() <= TOLERANCE[dtype], what
    assert parts["sampled"] == whole["sampled"] and len(whole["sampled"]) == 4
    assert parts["greedy"] == whole["greedy"]
    assert whole["told"] is None and parts["told"].startswith(
        "its weights are divided over 2 processes (tensor parallel"
    )
    assert ("of 8 experts each holds 4" in parts["told"]) == (
        name in ("qwen3-moe", "deepseek-v3.1")
    )


def test_what_a_callback_raises_ends_the_work_on_all_ranks_and_the_next_goes_on(held):
    were_raised, answers = torch.load(held / "broken.pt")
    assert were_raised == [True, True]
    assert answers == torch.load(held / "tied-float32-parts.pt")["sampled"]
    assert (held / "stopped.txt").read_text() == "stopped by SIGTERM"


def config_of(kind="qwen3", **values):
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **values)


HEADS: dict[str, Any] = {"num_attention_heads": 12, "num_key_value_heads": 6}


@pytest.mark.parametrize(
    ("config", "message", "way_out"),
    [
        (config_of(**HEADS), "12 attention heads and 6 key/value heads.* set it to 2 or 3 or 6", 6),
        (config_of("qwen3_moe", num_experts=9, **HEADS), "and 9 experts.* set it to 3$", 3),
        (config_of("deepseek_v3", n_routed_experts=12), "it has 12 experts.* set it to", 4),
        (
            config_of(num_attention_heads=5, num_key_value_heads=1),
            "take teacher.tensor_parallel=null teacher.device_map=auto",
            1,
        ),
        (config_of("gpt2"), "no plan to divide it: take teacher.tensor_parallel=null", None),
        (config_of(quantization_config={"quant_method": "fp8"}), "files are quantized", None),
    ],
    ids=["heads", "experts", "latent attention", "one head", "no plan", "fp8"],
)
def test_what_transformers_cannot_divide_is_refused_with_the_numbers_that_it_can(
    config, message, way_out
):
    with pytest.raises(MismatchError, match=f"m: teacher.tensor_parallel 8: .*{message}"):
        divided.require_divisible("m", config, 8)
    if way_out is not None:
        divided.require_divisible("m", config, way_out)


def test_an_older_transformers_is_refused(monkeypatch):
    monkeypatch.setattr(divided, "LEAST_TRANSFORMERS", (99, 1))
    with pytest.raises(MismatchError, match=r"pip install 'transformers>=99\.1'"):
        divided.require_divisible("m", config_of(), 2)


def test_a_step_of_a_part_is_not_recorded_and_the_placement_says_that_it_is_one():
    model = tiny_qwen3()
    model.config.get_text_config()._attn_implementation = "sdpa"
    on_gpu = SimpleNamespace(device=torch.device("cuda"), config=model.config)
    assert can_record(on_gpu)
    setattr(on_gpu, divided.PART, divided.Part(Processes(num=2)))
    assert not can_record(on_gpu)
    assert "are not recorded as a graph" in str(divided.told(on_gpu))
    assert str(load.Placement("cuda", "bfloat16", num_parts=4)) == "cuda, bfloat16, in 4 parts"
