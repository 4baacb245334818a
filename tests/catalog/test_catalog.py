"""The catalogue: which models it finds, and the licence gate says what the licences say."""

import re

import pytest

from distill.catalog import catalog, facts
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
    ("tencent/Hunyuan-7B-Instruct", "Qwen/Qwen3-1.7B", "outputs", "forbid", "restricted"),
    ("tencent/Hunyuan-7B-Instruct", None, "outputs", "forbid", "restricted"),
    (
        "tencent/Hunyuan-7B-Instruct",
        "tencent/Hunyuan-0.5B-Pretrain",
        "outputs",
        "restricted",
        "restricted",
    ),
    ("Qwen/Qwen2-72B-Instruct", "openbmb/MiniCPM5-1B", "outputs", "forbid", "attribution"),
    ("Qwen/Qwen2-72B-Instruct", "Qwen/Qwen3-1.7B", "outputs", "allow", "attribution"),
    ("openai/gpt-oss-120b", None, "logits", "allow", "allow"),
    ("zai-org/GLM-4.5", None, "logits", "allow", "allow"),
    ("baidu/ERNIE-4.5-300B-A47B-PT", None, "logits", "allow", "allow"),
    ("MiniMaxAI/MiniMax-M2", None, "logits", "attribution", "attribution"),
    ("MiniMaxAI/MiniMax-M2.5", None, "outputs", "attribution", "attribution"),
    ("MiniMaxAI/MiniMax-M2.7", None, "outputs", "restricted", "forbid"),
    ("CohereLabs/aya-expanse-8b", None, "outputs", "restricted", "forbid"),
    ("CohereLabs/c4ai-command-a-03-2025", None, "logits", "restricted", "forbid"),
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


# licence -> level of outputs, logits, weights, commercial use; kinds of duties of a student of its outputs, of its weights
LICENCES = {
    "apache-2.0": ("allow allow allow allow", "credit", "text changes"),
    "gpt-oss": ("allow allow allow allow", "credit use", "text changes use"),
    "mit": ("allow allow allow allow", "credit", "text"),
    "mit-llama3.1": ("attribution " * 4, "name attribution text use threshold", "+ text notice"),
    "mit-llama3.3": ("attribution " * 4, "name attribution text use threshold", "+ text notice"),
    "llama3": (
        "forbid forbid attribution attribution",
        "name attribution text use threshold",
        "name attribution text notice use threshold",
    ),
    "llama3.1": ("attribution " * 4, "name attribution text use threshold", "+ notice"),
    "llama3.2": ("attribution " * 4, "name attribution text use threshold", "+ notice"),
    "llama3.3": ("attribution " * 4, "name attribution text use threshold", "+ notice"),
    "kimi-modified-mit": ("allow attribution attribution attribution", "threshold", "+ text"),
    "minimax-m2-modified-mit": ("allow attribution attribution attribution", "threshold", "+ text"),
    "minimax-m2.5-modified-mit": ("allow attribution attribution attribution", "other", "+ text"),
    "minimax-model-license": ("attribution " * 4, "text notice use changes", "+"),
    "minimax-m2.7": ("restricted restricted restricted forbid", "attribution", "+ text"),
    "deepseek-la-1.0": ("restricted " * 4, "other use text changes", "+"),
    "qwen-2024": ("attribution " * 4, "attribution threshold", "+ text notice changes"),
    "qwen-research": (
        "restricted restricted restricted forbid",
        "attribution other",
        "+ text notice changes",
    ),
    "tongyi-2023": (
        "forbid forbid allow attribution",
        "threshold",
        "text notice changes threshold",
    ),
    "hunyuan-community": (
        "forbid forbid restricted restricted",
        "text notice changes other use other threshold",
        "text notice changes other use other threshold",
    ),
    "gemma-2025": ("restricted " * 4, "other use text notice changes", "+"),
    "cohere-cc-by-nc": ("restricted restricted restricted forbid", "credit text use other", "+"),
    "qwen-community-1.0": ("manual_review " * 4, "", ""),
    "qwen3.8-max": ("manual_review " * 4, "threshold", "+"),
    "kimi-k3": ("manual_review " * 4, "threshold", "+"),
    "minimax-community": ("manual_review " * 4, "threshold", "+"),
    "glm-5.3": ("manual_review " * 4, "threshold", "+"),
}


def test_every_licence_has_its_row_in_the_table_below():
    assert set(LICENCES) == set(facts.licences())


@pytest.mark.parametrize("key", LICENCES)
def test_a_licence_allows_and_asks_for_what_its_text_says(key):
    levels, learnt, began = LICENCES[key]
    terms = catalog.licence(key)
    found = (terms.outputs, terms.logits, terms.weights, terms.commercial)
    assert found == tuple(levels.split())
    outputs = catalog.verdict("somebody/m", None, declared_teacher=key, use="outputs")
    weights = catalog.base_verdict("somebody/m", declared=key)
    assert (outputs.level, weights.level) == (terms.outputs, terms.weights)
    began = began.replace("+", learnt)
    assert sorted(duty.kind for duty in outputs.owed) == sorted(learnt.split())
    assert sorted(duty.kind for duty in weights.owed) == sorted(began.split())
    assert len(outputs.duties) == len(outputs.owed)


def test_thresholds_are_numbers_with_a_currency():
    (kimi,) = [d for d in catalog.licence("kimi-modified-mit").duties if d.kind == "threshold"]
    assert (kimi.users, kimi.revenue, kimi.currency, kimi.per) == (10**8, 2 * 10**7, "USD", "month")
    assert kimi.sentence.startswith("above 100,000,000 monthly users or 20,000,000 USD revenue a ")
    (m2,) = [d for d in catalog.licence("minimax-m2-modified-mit").duties if d.kind == "threshold"]
    assert (m2.revenue, m2.per) == (3 * 10**7, "year")
    (llama,) = [d for d in catalog.licence("llama3.3").duties if d.kind == "threshold"]
    assert (llama.users, llama.revenue) == (7 * 10**8, None)


def test_llama_3_is_not_taken_for_its_milder_successors():
    learnt = catalog.teacher_verdict("meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen3-0.6B")
    assert learnt.level == "forbid" and learnt.name_prefix == "Llama 3"
    assert any("llama3.1, llama3.2 and llama3.3 are other licences" in s for s in learnt.sentences)
    base = "meta-llama/Meta-Llama-3-8B"
    assert catalog.verdict("meta-llama/Meta-Llama-3-8B-Instruct", base).level == "attribution"
    with pytest.raises(RecipeError, match=r"'mit-llama3' is not in.*did you mean mit-llama3\."):
        catalog.licence("mit-llama3")


def test_of_two_beginnings_of_a_name_the_longer_holds_both():
    student = catalog.verdict("meta-llama/Llama-3.2-1B", "meta-llama/Meta-Llama-3-8B")
    assert student.name_prefix == "Llama 3"
    assert catalog.begun_with("Llama", "goats") == "Llama goats"
    for name in ("Llama-goats", "Llama 3 goats"):
        assert catalog.begun_with("Llama", name) == name
    assert catalog.begun_with(None, "goats") == "goats"


def test_the_stricter_of_two_licences_is_told_first():
    both = catalog.teacher_verdict("Qwen/Qwen3-8B", None, declared="hunyuan-community")
    assert "hunyuan-community" in both.sentences[0] and "is forbidden" in both.sentences[0]


def test_terms_that_nobody_of_us_has_read_are_told_as_such():
    unread = catalog.verdict("moonshotai/Kimi-K3", None)
    assert any("we know its terms from reports, 2026-11-22 only" in s for s in unread.sentences)
    read = catalog.verdict("Qwen/Qwen3-8B", None)
    assert not any("we know its terms" in s for s in read.sentences)


def test_where_a_licence_changed_the_revision_decides_or_the_strictest_counts():
    model = "MiniMaxAI/MiniMax-M2"
    assert catalog.licence_keys(model) == ["minimax-m2-modified-mit"]
    unknown = catalog.verdict(model, None, teacher_revision="0123456789")
    assert unknown.level == "attribution"
    assert any("minimax-m2-modified-mit counts, the strictest" in s for s in unknown.sentences)
    pinned = catalog.verdict(model, None, declared_teacher="mit", teacher_revision="0123456789")
    assert pinned.level == "allow" and any("the recipe says" in s for s in pinned.sentences)
    unpinned = catalog.verdict(model, None, declared_teacher="mit")
    assert unpinned.level == "attribution", "main may have another licence tomorrow"
    never = catalog.verdict(model, None, declared_teacher="hunyuan-community", teacher_revision="0")
    assert never.level == "forbid", "a licence that it never had is declared beside its own"


def test_a_revision_that_is_known_decides_by_the_beginning_of_its_commit(monkeypatch):
    known = catalog.find("MiniMaxAI/MiniMax-M2")
    assert known is not None
    commit = "0123456789abcdef" * 2
    first = known.history[1].model_copy(update={"revisions": (commit, "v1")})
    changed = known.model_copy(update={"history": (known.history[0], first, known.history[2])})
    monkeypatch.setitem(facts.models(), known.id, changed)
    for revision in (commit, commit[:7], "v1"):
        assert catalog.licence_keys(known.id, None, revision) == ["mit"]
    for revision in (commit[:6], commit + "0", "v", "main"):
        assert catalog.licence_keys(known.id, None, revision) == ["minimax-m2-modified-mit"]


def test_the_licence_of_data_counts_by_its_key():
    assert catalog.data_verdict("a/b", "cc0-1.0").level == "allow"
    shared = catalog.data_verdict("a/b", "cc-by-4.0")
    assert shared.level == "attribution" and shared.duties == [
        "a/b: credit the data and its licence"
    ]
    limited = catalog.data_verdict("a/b", "cc-by-nc-4.0")
    assert (limited.level, limited.commercial) == ("restricted", "forbid")
    unknown = catalog.data_verdict("a/b", None)
    assert unknown.level == "undeclared" and "`licence: KEY`" in unknown.sentences[0]
    with pytest.raises(RecipeError, match=r"cc-by4.*did you mean cc-by-"):
        catalog.data_verdict("a/b", "cc-by4.0")
