"""Whole runs with two teachers on the quickstart's prompts: of one tokenizer, and of two."""

import json

import pytest
from several_helpers import TEACHER, entry, like_the_teacher, with_other_tokens, words

from distill.pipeline import run
from distill.recipe import load_recipe


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A teacher whose tokens are not the student's."""
    return with_other_tokens(tmp_path_factory.mktemp("teachers") / "other")


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return like_the_teacher(tmp_path_factory.mktemp("teachers") / "alike")


def recipe_of(folder, *teachers, more=()):
    source, *overrides = map(str, words(folder, *teachers, more=more))
    return load_recipe(source, overrides)


def manifest(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text())["result"]


def test_a_whole_run(other, tmp_path):
    teachers = [
        entry("east", TEACHER, languages="[en, zh]"),
        entry("south", other),
    ]
    run(recipe_of(tmp_path, *teachers))
    print((tmp_path / "report/MODEL_CARD.md").read_text())
    print(manifest(tmp_path, "plan")["text"])
    print(manifest(tmp_path, "report")["text"])
    print(manifest(tmp_path, "capture"), manifest(tmp_path, "generate")["teachers"])
