"""What stays whatever the texts are: digits, ASCII punctuation, the template's own words, the ids that config files name."""

import json
import shutil
import string

import pytest
from run_helpers import QUICKSTART
from shaping_helpers import counts_of

from distill import chat
from distill.errors import DistillError
from distill.models.load import load_tokenizer
from distill.recipe import load_recipe
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.pruning import Limits, prune
from distill.shaping.required import required_ids
from distill.shaping.rewrite import trimmed_tokenizer

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"


def recipe_of(model):
    return load_recipe(
        QUICKSTART,
        ["student.method=base", f"student.model={model}", "student.vocabulary={size: 64}"],
    )


@pytest.fixture(params=["quickstart", "smollm2"])
def folder(request):
    return TEACHER if request.param == "quickstart" else request.getfixturevalue("smollm2")


@pytest.fixture
def trimmed(folder):
    """(parent, as little of it as may be left: no text needs a token)."""
    parent = load_tokenizer(str(folder))
    vocabulary = BpeVocabulary.of(parent)
    required = required_ids(recipe_of(folder), parent, vocabulary)
    pruned = prune(vocabulary, counts_of(parent, [["a"]]), required, Limits(64, None))
    assert pruned.stopped_by == "required" and len(pruned.kept) < len(vocabulary.tokens)
    return parent, trimmed_tokenizer(parent, vocabulary, pruned.kept)


def tokens_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_digit_and_a_mark_are_one_token_as_before_a_space_before_or_not(trimmed):
    parent, made = trimmed
    for mark in string.digits + string.punctuation:
        for text in (mark, f" {mark}"):
            assert tokens_of(made.tokenizer, text) == tokens_of(parent, text), text


def test_what_the_template_writes_of_itself_takes_no_more_tokens(trimmed):
    parent, made = trimmed
    system, user = ({"role": role, "content": "1"} for role in ("system", "user"))
    answer = {"role": "assistant", "content": "1"}
    for turns in ([user], [system, user], [system, user, answer, user]):
        try:
            text = chat.prompt_text(parent, turns, begin_answer=True)
        except DistillError:
            continue  # a template without such turns
        assert tokens_of(made.tokenizer, text) == tokens_of(parent, text)


def test_ids_that_config_files_name_stay(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    parent = load_tokenizer(str(copy))
    vocabulary = BpeVocabulary.of(parent)
    before = required_ids(recipe_of(copy), parent, vocabulary)
    first, second = sorted(vocabulary.tokens.keys() - before - vocabulary.byte_ids)[-2:]
    for name, value in (("config.json", first), ("generation_config.json", [second])):
        path = copy / name
        values = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(values | {"eos_token_id": value}))
    assert required_ids(recipe_of(copy), parent, vocabulary) >= before | {first, second}
