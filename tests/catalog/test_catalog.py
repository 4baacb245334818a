"""The catalogue: which models it finds, and the licence gate says what the licences say."""

import re

import pytest

from distill.catalog import catalog
from distill.errors import RecipeError

IDS = [
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-235B-A22B-Thinking-2507",
    "Qwen/Qwen3.5-397B-A17B",
    "Qwen/Qwen2.5-72B-Instruct",
    "deepseek-ai/DeepSeek-V3.2",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "moonshotai/Kimi-K2.5",
    "MiniMaxAI/MiniMax-M1-80k",
    "MiniMaxAI/MiniMax-M2.5",
    "baidu/ERNIE-4.5-300B-A47B-PT",
    "zai-org/GLM-4.7",
    "openbmb/MiniCPM5-1B",
    "tencent/Hunyuan-A13B-Instruct",
    "meta-llama/Llama-3.2-1B",
    "google/gemma-3-1b-it",
    "openai/gpt-oss-20b",
]


@pytest.mark.parametrize("model_id", IDS)
def test_the_models_of_the_families_are_known(model_id):
    model = catalog.find(model_id)
    assert model is not None and model_id in (model.id, *model.also)
    assert catalog.licence(model.licence).key == model.licence


def test_only_an_exact_id_is_found():
    assert catalog.find("Qwen/Qwen3-8b") is None
    assert catalog.find("./teachers/Qwen3-8B") is None


# every family of the mission, and two for comparison
FAMILIES = [
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3.5-9B",
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "moonshotai/Kimi-K2-Instruct",
    "MiniMaxAI/MiniMax-M2",
    "baidu/ERNIE-4.5-0.3B-PT",
    "baidu/ERNIE-4.5-21B-A3B-PT",
    "zai-org/GLM-4.5",
    "openai/gpt-oss-20b",
    "meta-llama/Llama-3.2-1B",
]


@pytest.mark.parametrize("model_id", FAMILIES)
def test_a_family_has_its_required_facts(model_id):
    model = catalog.find(model_id)
    assert model is not None
    template = catalog.template(model)
    assert template is not None and template.source
    assert (
        model.group
        and model.width
        and model.params
        and model.shape
        and model.shape[0]
        and model.shape[1]
    )
    assert (template.thinking == "never") == (template.tags is None) and (
        template.thinking == "never"
    ) == (template.history is None)
    assert re.search(r"\(checked \d{4}-\d\d-\d\d\)$", catalog.source(model))


# (teacher, base, use) -> (level, commercial)
VERDICTS = [
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "logits", "allow", "allow"),
    ("Qwen/Qwen3-8B", None, "logits", "allow", "allow"),
    ("deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-0.6B-Base", "outputs", "allow", "allow"),
    ("moonshotai/Kimi-K2.5", "Qwen/Qwen3-1.7B", "outputs", "allow", "attribution"),
    ("moonshotai/Kimi-K2.5", "Qwen/Qwen3-1.7B", "logits", "attribution", "attribution"),
    ("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-1.5B", "outputs", "attribution", "attribution"),
    ("deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-1.7B", "outputs", "restricted", "restricted"),
    ("deepseek-ai/DeepSeek-V3-0324", "Qwen/Qwen3-1.7B", "outputs", "allow", "allow"),
    ("Qwen/Qwen3-8B", "Qwen/Qwen2.5-3B", "outputs", "restricted", "forbid"),
    ("google/gemma-3-27b-it", "Qwen/Qwen3-1.7B", "outputs", "restricted", "restricted"),
    ("moonshotai/Kimi-K3", "Qwen/Qwen3-1.7B", "outputs", "manual_review", "manual_review"),
    ("tencent/Hunyuan-7B-Instruct", "Qwen/Qwen3-1.7B", "outputs", "forbid", "forbid"),
    ("tencent/Hunyuan-7B-Instruct", None, "outputs", "forbid", "forbid"),
    (
        "tencent/Hunyuan-7B-Instruct",
        "tencent/Hunyuan-0.5B-Pretrain",
        "outputs",
        "restricted",
        "forbid",
    ),
    ("Qwen/Qwen2-72B-Instruct", "openbmb/MiniCPM5-1B", "outputs", "forbid", "attribution"),
    ("Qwen/Qwen2-72B-Instruct", "Qwen/Qwen3-1.7B", "outputs", "allow", "attribution"),
    ("somebody/some-model", "Qwen/Qwen3-1.7B", "outputs", "undeclared", "undeclared"),
    ("somebody/some-model", "Qwen/Qwen2.5-3B", "outputs", "undeclared", "forbid"),
]


@pytest.mark.parametrize(("teacher", "base", "use", "level", "commercial"), VERDICTS)
def test_the_strictest_of_teacher_and_base_counts(teacher, base, use, level, commercial):
    found = catalog.verdict(teacher, base, use=use)
    assert (found.level, found.commercial) == (level, commercial), found.sentences


def test_a_student_of_a_llama_model_must_be_called_llama():
    found = catalog.verdict(
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "Qwen/Qwen3-1.7B", use="outputs"
    )
    assert found.level == "attribution" and found.name_prefix == "Llama"
    assert any("begin the student's name with Llama" in duty for duty in found.duties)
    assert catalog.verdict("Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B").name_prefix is None


def test_an_unknown_model_says_what_to_write_in_the_recipe():
    (sentence,) = catalog.verdict("./teacher", None).sentences
    assert "teacher.licence: apache-2.0" in sentence
    assert any(
        "student.licence: apache-2.0" in s
        for s in catalog.verdict("Qwen/Qwen3-8B", "./mine").sentences
    )


def test_a_declared_licence_counts_for_an_unknown_model_and_never_softens_a_known_one():
    assert catalog.verdict("./teacher", None, declared_teacher="apache-2.0").level == "allow"
    assert (
        catalog.verdict(
            "./teacher", "./base", declared_teacher="mit", declared_base="qwen-research"
        ).commercial
        == "forbid"
    )
    found = catalog.verdict("tencent/Hunyuan-7B-Instruct", None, declared_teacher="apache-2.0")
    assert found.level == "forbid" and any("the stricter counts" in s for s in found.sentences)


def test_a_misspelt_licence_is_refused_with_the_nearest_key():
    with pytest.raises(RecipeError, match=r"apache2.*did you mean apache-2\.0"):
        catalog.verdict("./teacher", None, declared_teacher="apache2")


def test_a_licence_known_from_memory_asks_for_a_look_at_the_card():
    assert any(
        "memory" in s for s in catalog.verdict("deepseek-ai/DeepSeek-V3-0324", None).sentences
    )
    assert not any(
        "memory" in s for s in catalog.verdict("deepseek-ai/DeepSeek-R1", None).sentences
    )
