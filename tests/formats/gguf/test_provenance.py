"""What a GGUF file says of its origin comes from recipe and catalogue, and names no folder of this machine."""

from collections.abc import Callable
from pathlib import Path

import gguf

from distill.formats.gguf.provenance import provenance
from distill.formats.gguf.write import write_gguf
from distill.recipe import load_recipe

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
PINNED = "0123456789abcdef0123456789abcdef01234567"


def test_a_student_of_a_hub_model_names_it_and_both_licences() -> None:
    recipe = load_recipe(
        QUICKSTART,
        [
            "teacher={model: zai-org/GLM-4.5-Air}",
            f"student={{method: base, model: Qwen/Qwen3-0.6B, revision: {PINNED}}}",
            "generate.prompts=[{dataset: CohereLabs/aya_dataset}, {file: ./quickstart/prompts.jsonl}]",
        ],
    )
    assert provenance(recipe) == {
        "general.name": "quickstart",
        "general.description": "distilled from GLM-4.5-Air",
        "general.languages": ["en", "zh", "sw", "id", "hi"],
        "general.tags": ["distillation", "text-generation"],
        "general.license": "Apache-2.0 AND MIT",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen3-0.6B",
        "general.base_model.0.version": PINNED,
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-0.6B",
        "general.dataset.count": 2,
        "general.dataset.0.name": "aya_dataset",
        "general.dataset.0.organization": "CohereLabs",
        "general.dataset.0.repo_url": "https://huggingface.co/datasets/CohereLabs/aya_dataset",
        "general.dataset.1.name": "prompts.jsonl",
    }


def test_an_unknown_licence_is_left_out_and_folders_stay_private(tmp_path: Path) -> None:
    student = f"student={{method: layers, model: {tmp_path}/mine, licence: null}}"
    found = provenance(load_recipe(QUICKSTART, [student]))
    assert "general.license" not in found and found["general.base_model.0.name"] == "mine"
    assert not any(str(tmp_path) in str(value) for value in found.values())
    assert not any(key.endswith(("repo_url", "organization")) for key in found)


def test_a_name_that_a_licence_wants_is_in_the_file_too() -> None:
    llama = "teacher={model: meta-llama/Llama-3.2-1B}"
    assert provenance(load_recipe(QUICKSTART, [llama]))["general.name"] == "Llama quickstart"
    named = load_recipe(QUICKSTART, [llama, "name=Llama-goats"])
    assert provenance(named)["general.name"] == "Llama-goats"
    judge = [
        "generate.judge_min_score=4",
        "generate.judge_server=http://127.0.0.1:1",
        "generate.judge_model=meta-llama/Llama-3.3-70B-Instruct",
    ]
    assert provenance(load_recipe(QUICKSTART, judge))["general.name"] == "Llama quickstart"
    assert provenance(load_recipe(QUICKSTART))["general.name"] == "quickstart"


def test_the_file_holds_it(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART)
    path = write_gguf(
        model_folder("qwen3"), tmp_path / "m.gguf", "f16", metadata=provenance(recipe)
    ).path
    held = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert (
        held["general.languages"] == ["en", "zh", "sw", "id", "hi"]
        and held["general.license"] == "Apache-2.0"
    )
    assert held["general.dataset.count"] == 1 and held["general.size_label"] == "1.3M"
