"""The prompts of recipes/smollm2_laptop.yaml: made by our script, many, and passed by the project's own filters."""

from collections import Counter
from typing import Any

import pytest
import yaml
from run_helpers import ROOT, script

from distill.core.jsonl import read_jsonl
from distill.data.prompts import split_prompts
from distill.filters.dedup import near_duplicates
from distill.filters.prompt_filters import select_prompts
from distill.recipe import load_recipe

FOLDER = ROOT / "recipes" / "smollm2_laptop"
SUBJECTS = (FOLDER / "subjects.yaml").read_text(encoding="utf-8")
ALIKE = 0.8  # wordings are shared, so that short prompts differ in a word or two


@pytest.fixture(scope="module")
def kinds() -> dict[str, Any]:
    return yaml.safe_load(SUBJECTS)


def rows(name: str) -> list[dict[str, str]]:
    return [row for _, row in read_jsonl(FOLDER / name)]


def test_the_files_are_what_the_script_makes_of_the_subjects():
    made = script("build_laptop_prompts")["build"](SUBJECTS)
    assert set(made) == {"prompts.jsonl", "held_out.jsonl"}
    for name, content in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == content, name


def test_no_subject_is_there_twice_and_none_held_out_is_learnt(kinds):
    for kind, asked in kinds.items():
        subjects = [*asked["about"], *asked["held_out"]]
        assert all(isinstance(subject, str) for subject in subjects), kind  # not YAML's true
        assert len(set(subjects)) == len(subjects), kind
        texts = asked.get("texts"), asked.get("held_texts")
        if texts[0] is not None:
            assert [len(found) for found in texts] == [len(asked["about"]), len(asked["held_out"])]


def test_no_filter_drops_one_and_none_copies_a_held_out_prompt():
    recipe = load_recipe(ROOT / "recipes" / "smollm2_laptop.yaml")
    learn, held_out = split_prompts(recipe)
    assert [reason for _, reason in select_prompts(recipe, learn, held_out)[1]] == []
    assert [reason for _, reason in select_prompts(recipe, held_out, [])[1]] == []
    texts = [prompt.text for prompt in [*learn, *held_out]]
    assert set(near_duplicates(texts, ALIKE)) == {None}


def test_the_card_counts_right(kinds):
    card = (FOLDER / "DATA_CARD.md").read_text(encoding="utf-8")
    for name in ("prompts.jsonl", "held_out.jsonl"):
        assert f"| `{name}` | {len(rows(name))} |" in card
    learnt = Counter(row["kind"] for row in rows("prompts.jsonl"))
    held_out = Counter(row["kind"] for row in rows("held_out.jsonl"))
    assert list(kinds) == [kind for kind in kinds if learnt[kind] and held_out[kind]]
    for kind in kinds:
        numbers = f"({learnt[kind]}, {held_out[kind]})"
        assert f"{kind} {numbers}" in card or f"{kind} ({learnt[kind]}, " in card, kind


def test_the_first_hundred_prompts_hold_every_kind(kinds):
    assert {row["kind"] for row in rows("prompts.jsonl")[:100]} == set(kinds)
