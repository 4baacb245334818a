"""The prompts in recipes/assistant: what the project's own filters say of them."""

from collections import Counter

import pytest
from run_helpers import ROOT

from distill.core.jsonl import read_jsonl
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.filters.dedup import near_duplicates
from distill.filters.prompt_filters import select_prompts
from distill.recipe import Recipe, load_recipe

FOLDER = ROOT / "recipes" / "assistant"
LANGUAGES = ["en", "zh", "sw", "id", "hi"]
A_THIRD = 0.35


def rows(name: str) -> list[dict[str, str]]:
    return [row for _, row in read_jsonl(FOLDER / name)]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(
        ROOT / "recipes" / "qwen_to_1b.yaml",
        [
            f"generate.prompts=[{{file: {FOLDER}/seeds.jsonl}}, {{file: {FOLDER}/decline.jsonl}}]",
            f"evaluate.prompts={FOLDER}/held_out.jsonl",
            "generate.task=null",
        ],
    )


@pytest.fixture(scope="module")
def split(recipe: Recipe) -> tuple[list[Prompt], list[Prompt]]:
    return split_prompts(recipe)


def test_no_filter_drops_one_and_no_seed_copies_a_held_out_prompt(recipe, split):
    learn, held_out = split
    assert [reason for _, reason in select_prompts(recipe, learn, held_out)[1]] == []
    assert [reason for _, reason in select_prompts(recipe, held_out, [])[1]] == []


def test_no_two_are_alike(split):
    texts = [prompt.text for prompts in split for prompt in prompts]
    assert set(near_duplicates(texts, A_THIRD)) == {None}


@pytest.mark.parametrize(
    ("name", "fewest"),
    [("seeds.jsonl", 60), ("held_out.jsonl", 16), ("decline.jsonl", 10), ("personas.jsonl", 16)],
)
def test_every_language_has_enough_of_them_and_the_card_counts_right(name, fewest):
    found = Counter(row["language"] for row in rows(name))
    assert list(found) == LANGUAGES and min(found.values()) >= fewest
    assert f"| `{name}` | {found.total()} |" in (FOLDER / "DATA_CARD.md").read_text()


def test_every_language_has_every_kind():
    kinds = {row["kind"] for row in rows("seeds.jsonl")}
    for language in LANGUAGES:
        assert {row["kind"] for row in rows("seeds.jsonl") if row["language"] == language} == kinds


def test_nobody_is_there_twice():
    personas = [row["persona"] for row in rows("personas.jsonl")]
    assert len(set(personas)) == len(personas)
