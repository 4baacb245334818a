"""The catalogue's files: every row loads, its numbers agree with each other, and a wrong row is refused."""

import re

import pytest

from distill.catalog import catalog, facts
from distill.errors import DataError


def test_models_of_one_group_have_one_vocabulary_width():
    widths: dict[str, set[int | None]] = {}
    for model in facts.models().values():
        if model.group is not None:
            widths.setdefault(model.group, set()).add(model.width)
    assert all(len(found) == 1 for found in widths.values()), widths
    assert widths["qwen3"] == {151936} and widths["ernie4.5"] == {103424}


def test_exact_parameter_counts_follow_from_the_shapes():
    """The formula for tied Qwen3: V h + h + L (h nq d + 2 h nkv d + nq d h + 2 d + 3 h f + 2 h)."""
    for model_id, ffn in (
        ("Qwen/Qwen3-0.6B", 3072),
        ("Qwen/Qwen3-1.7B", 6144),
        ("Qwen/Qwen3-4B", 9728),
    ):
        model = catalog.find(model_id)
        assert model is not None and model.shape is not None
        num_layers, h, nq, nkv, d = model.shape
        layer = h * nq * d + 2 * h * nkv * d + nq * d * h + 2 * d + 3 * h * ffn + 2 * h
        assert model.params == 151936 * h + h + num_layers * layer


def test_every_licence_is_used_and_duties_are_whole_sentences():
    models = facts.models().values()
    used = {model.licence for model in models}
    used |= {entry.licence for model in models for entry in model.history}
    for key, terms in facts.licences().items():
        assert key in used, key
        for duty in (*terms.duties_outputs, *terms.duties_weights):
            assert isinstance(duty, str) and duty.count("(") == duty.count(")"), (
                f"{key}: {duty!r} was cut at a comma"
            )


def test_every_template_is_used():
    used = {model.template for model in catalog.teachers()}
    assert used - {None} == facts.templates().keys()


def test_exact_sizes_of_llama_follow_from_its_shapes():
    """V h (twice where the head is its own) + h + L (2 h nq d + 2 h nkv d + 3 h f + 2 h)."""
    tied, own = (
        [("3.2-1B", 8192, 1), ("3.2-3B", 8192, 1)],
        [("3.1-8B", 14336, 2), ("3.3-70B-Instruct", 28672, 2)],
    )
    for name, ffn, heads in tied + own:
        model = catalog.find(f"meta-llama/Llama-{name}")
        assert model is not None and model.shape is not None
        num_layers, h, nq, nkv, d = (value or 0 for value in model.shape)
        assert model.params == heads * 128256 * h + h + num_layers * (
            2 * h * nq * d + 2 * h * nkv * d + 3 * h * ffn + 2 * h
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "a/b", "family": "x", "licence": "mit", "checked": "verified", "layers": 3},
            "a/b: unknown key 'layers'",
        ),
        ({"id": "a/b", "family": "x", "licence": "mit"}, "a/b: checked is missing"),
        (
            {"id": "a/b", "family": "x", "licence": "mit", "checked": "surely"},
            "checked 'surely' is none of",
        ),
        (
            {"id": "a/b", "family": "x", "licence": "mit", "checked": "memory", "params": "8B"},
            "a/b: params '8B': ",
        ),
        (
            {"id": "a/b", "family": "x", "licence": "mit", "checked": "memory", "params": 8.5},
            r"a/b: params 8\.5: ",
        ),
        (
            {
                "id": "a/b",
                "family": "x",
                "licence": "mit",
                "checked": "memory",
                "shape": [1, "x", 3, 4, 5],
            },
            r"a/b: shape\.1 'x': ",
        ),
        (
            {"id": "a/b", "family": "x", "licence": "mit", "checked": "memory", "also": "c/d"},
            "a/b: also 'c/d': ",
        ),
    ],
)
def test_a_row_with_a_wrong_field_is_refused(row, message):
    with pytest.raises(DataError, match=message):
        facts.checked_row(facts.ModelFacts, row, f"teachers.yaml: {row['id']}")


def test_every_problem_of_a_row_has_a_line():
    row = {"id": "a/b", "family": "x", "licence": "mit", "sampling": [0.6, 0.9], "shape": [1] * 6}
    with pytest.raises(DataError) as caught:
        facts.checked_row(facts.ModelFacts, row, "teachers.yaml: a/b")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("teachers.yaml: a/b: ") for line in lines)
    for message in ("checked is missing", "shape [1, 1, 1, 1, 1, 1]: ", "sampling.2 is missing"):
        assert sum(message in line for line in lines) == 1, message
    assert len(lines) == 3


def test_a_switch_that_switches_nothing_is_refused():
    row = {"key": "k", "source": "s", "checked": "memory", "thinking": "on"}
    with pytest.raises(DataError, match="k: thinking 'on' and switch None contradict each other"):
        facts.checked_row(facts.Template, row, "teachers.yaml: k")


def test_a_file_without_a_section_is_refused():
    with pytest.raises(DataError, match=r"teachers\.yaml: templates is missing"):
        facts.checked_row(facts.TeachersFile, {"sources": {}, "teachers": []}, "teachers.yaml")


def test_what_a_licence_asks_for_is_said_in_numbers_and_with_a_source():
    for key, terms in facts.licences().items():
        assert terms.name and re.search(r"\d{4}-\d\d-\d\d|from memory", terms.source), key
        if terms.checked == "verified":
            assert terms.link, key
        for duty in terms.duties:
            if duty.kind == "use":
                assert duty.says.startswith("https://"), key
            if duty.kind == "threshold":
                limits = [limit for limit in (duty.users, duty.revenue) if limit is not None]
                assert limits and min(limits) >= 1_000_000, key


@pytest.mark.parametrize(
    ("duty", "problem"),
    [
        ({"kind": "threshold", "says": "ask"}, "needs one of them"),
        ({"kind": "name", "says": "Llama", "users": 1}, "belong to kind: threshold"),
        ({"kind": "threshold", "says": "ask", "revenue": 5, "per": "year"}, "belong together"),
        ({"kind": "nmae", "says": "Llama"}, "kind 'nmae' is none of"),
        ({"kind": "threshold", "says": "ask", "users": "7"}, "users"),
    ],
)
def test_a_wrong_duty_is_refused(duty, problem):
    with pytest.raises(DataError, match=problem):
        facts.checked_row(facts.Duty, duty, "licences.yaml: x")


def test_a_licence_that_changed_ends_in_the_one_that_holds_now():
    changed = [model for model in facts.models().values() if model.history]
    assert {model.id for model in changed} >= {"MiniMaxAI/MiniMax-M2", "MiniMaxAI/MiniMax-M2.5"}
    for model in changed:
        days = [entry.since for entry in model.history]
        assert days == sorted(set(days)) and model.history[-1].licence == model.licence


def test_the_texts_that_are_shipped_are_whole():
    texts = {terms.text for terms in facts.licences().values()} - {None}
    assert texts == {path.name for path in (facts.LICENCES.parent / "texts").iterdir()}
    apache = facts.licence_text(facts.licences()["apache-2.0"])
    mit = facts.licence_text(facts.licences()["mit"])
    assert apache and "END OF TERMS AND CONDITIONS" in apache
    assert mit and "substantial portions of the Software" in mit
    assert facts.licence_text(facts.licences()["gemma-2025"]) is None
