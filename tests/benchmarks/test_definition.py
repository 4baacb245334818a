"""Benchmark files: those that ship with distill, and those of users."""

import random

import pytest
import yaml
from benchmark_helpers import FRUIT, SUMS, with_benchmarks, write

from distill.benchmarks.definition import parsed, read_benchmark, shipped, shipped_names
from distill.benchmarks.items import languages_of
from distill.errors import DataError, MissingError, RecipeError
from distill.text.codes import base_code

KIND = "benchmark files"
NAMED = [
    "afrimgsm",
    "afrimmlu",
    "belebele",
    "global_mmlu",
    "global_mmlu_lite",
    "gsm8k",
    "include",
    "mgsm",
    "sib200",
    "xcopa",
    "xstorycloze",
]


def test_the_benchmarks_that_ship_are_those_that_the_recipe_names():
    assert shipped_names() == NAMED


@pytest.mark.parametrize("name", NAMED)
def test_each_that_ships_says_what_it_is(name):
    benchmark = shipped(name)
    assert benchmark.name == name
    assert benchmark.licence and "http" in benchmark.source and benchmark.dataset
    assert benchmark.configs
    assert (benchmark.few_shot == 0) or benchmark.shots_split


@pytest.mark.parametrize("name", NAMED)
def test_a_language_is_found_by_any_of_its_codes(name):
    benchmark = shipped(name)
    for code in benchmark.configs:
        assert benchmark.language_of(code) == code
    bases = [base_code(code) for code in benchmark.configs]
    for code in (code for code in benchmark.configs if bases.count(base_code(code)) == 1):
        assert benchmark.language_of(f"{base_code(code)}_Xxxx") == code


def test_two_scripts_of_a_language_are_not_confused():
    chinese = {
        "zh-Hans": ("zh", "zho", "cmn", "zh-CN", "zh_Hans_HK", "zho_Hans"),
        "zh-Hant": ("zh-TW", "zh_HK", "zh-mo", "zho_Hant", "zh-Hant-SG"),
    }
    for name in ("belebele", "sib200"):
        for expected, codes in chinese.items():
            for code in (expected, *codes):
                assert shipped(name).language_of(code) == expected, code
        assert shipped(name).language_of("zh-Latn") is None


def test_chinese_of_a_recipe_is_asked_in_the_benchmarks_of_two_scripts():
    recipe = with_benchmarks("belebele", "sib200")
    for use in recipe.evaluate.benchmarks:
        assert "zh" in languages_of(recipe, use, read_benchmark(recipe, use))


def test_a_region_of_several_is_found_however_it_is_written():
    two = FRUIT + "configs: {pt-BR: brazil, pt-PT: portugal}\n"
    assert parsed(two, "mine.yaml").language_of("pt_br") == "pt-BR"
    assert parsed(two, "mine.yaml").language_of("pt") is None


def test_a_recipe_sets_the_longest_answer_of_a_number_and_of_nothing_else():
    recipe = with_benchmarks({"name": "mgsm", "max_new_tokens": 4096}, "mgsm")
    longer, usual = (read_benchmark(recipe, use) for use in recipe.evaluate.benchmarks)
    assert (longer.max_new_tokens, usual) == (4096, shipped("mgsm"))
    assert longer.digest != usual.digest, "what was answered in less room is asked anew"
    recipe = with_benchmarks({"name": "belebele", "max_new_tokens": 4096})
    with pytest.raises(
        RecipeError, match="belebele: max_new_tokens is for benchmarks that ask for"
    ):
        read_benchmark(recipe, recipe.evaluate.benchmarks[0])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (FRUIT + "chat: true\n", "chat and stop are for kind number"),
        (FRUIT + 'stop: ["\\n"]\n', "chat and stop are for kind number"),
        (SUMS + "answer_is: text\n", "answer_is is for kind choices"),
    ],
)
def test_what_a_kind_would_ignore_is_refused(text, problem):
    with pytest.raises(DataError, match=f"mine.yaml: {problem}"):
        parsed(text, "mine.yaml")


def test_a_field_that_is_newer_leaves_the_digests_of_rows_that_are_there():
    before = parsed(FRUIT, "mine.yaml").digest
    assert before == "433dbe7de83f6675c242b2dab65e0218"
    assert parsed(FRUIT + "answer_is: either\n", "mine.yaml").digest == before
    assert parsed(FRUIT + "answer_is: text\n", "mine.yaml").digest != before


def test_a_name_that_is_none_is_refused_with_those_there_are():
    recipe = with_benchmarks("belebel")
    with pytest.raises(RecipeError, match=r"no such benchmark; there are .*belebele"):
        read_benchmark(recipe, recipe.evaluate.benchmarks[0])


def test_a_file_that_is_not_there_is_told_with_the_field():
    recipe = with_benchmarks("./nothing.yaml")
    with pytest.raises(MissingError, match=r"evaluate\.benchmarks"):
        read_benchmark(recipe, recipe.evaluate.benchmarks[0])


def test_languages_are_those_of_files_else_of_the_recipe(tmp_path):
    mine = write(tmp_path, FRUIT, [], "fr", "sw")
    recipe = with_benchmarks(mine, "mgsm", {"name": "mgsm", "languages": ["th"]}, "gsm8k")
    languages = [
        languages_of(recipe, use, read_benchmark(recipe, use)) for use in recipe.evaluate.benchmarks
    ]
    assert languages == [["fr", "sw"], ["en", "zh", "sw"], ["th"], ["en"]]


def test_a_benchmark_in_none_of_the_recipes_languages_is_refused():
    recipe = with_benchmarks("afrimmlu", more=("languages=[id]", "evaluate.prompts=null"))
    use = recipe.evaluate.benchmarks[0]
    with pytest.raises(DataError, match="none of the languages id; it has am, en"):
        languages_of(recipe, use, read_benchmark(recipe, use))


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        ({"name": "Belebele!"}, "neither the name of a benchmark"),
        ({"name": "mgsm", "files": {"sw": "x.pdf"}}, "does not end in"),
        ({"name": "mgsm", "files": {"sw": "x.tsv"}, "dataset": "a/b"}, "either files or dataset"),
        ({"name": "mgsm", "shots": {"sw": "x.tsv"}}, "shots is for rows from files"),
        ({"name": "mgsm", "files": {"sw": "x.tsv"}, "languages": ["en"]}, "en has no file"),
        ({"name": "mgsm", "num_examples": 0}, "greater than 0"),
        ({"name": "mgsm", "files": {"../../sw": "x.tsv"}}, "no code of a language"),
        ({"name": "mgsm", "files": {"all": "x.tsv"}}, "no code of a language"),
        ({"name": "mgsm", "files": {}}, "it is empty"),
        ({"name": "mgsm", "languages": []}, "it is empty"),
        ({"name": "mgsm", "example": 3}, "unknown key"),
        (3, "a section, so fields in braces"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(use, problem):
    with pytest.raises(RecipeError, match=problem):
        with_benchmarks(use)


WHOLE = yaml.safe_load(FRUIT)
BROKEN = ["", "[", "- a", "name: x", "a: &a [*a]", "3", "null", "\tname: x", "name: !!python/x y"]


def test_broken_benchmark_files_are_refused_in_one_line(tally):
    for text in BROKEN:
        tally.must_refuse(text, lambda text=text: parsed(text, "mine.yaml"))
    draw = random.Random(5)
    for number in range(300):
        values = dict(WHOLE)
        for key in draw.sample(sorted(values), draw.randint(1, 3)):
            values[key] = draw.choice(
                [None, "", 3, [], {}, ["x"], "{{", {"en": 3}, True, "x" * 999]
            )
        text = yaml.safe_dump(values)
        tally.refuse_or(
            f"{number}", lambda text=text: parsed(text, "mine.yaml"), lambda made: made.name
        )
    for key in ("name", "title", "kind", "licence", "source", "fields", "prompt", "answer"):
        left = {k: v for k, v in WHOLE.items() if k != key}
        message = tally.must_refuse(
            key, lambda left=left: parsed(yaml.safe_dump(left), "mine.yaml")
        )
        assert message.startswith("mine.yaml: ") and key in message and "\n" not in message
