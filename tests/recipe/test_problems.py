"""A mistake in a recipe gets a line with file, field, value and way out, and no secret."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe


def test_a_misspelt_key_gets_the_nearest_name():
    assert "train.lerning_rate: unknown key; did you mean learning_rate?" in problem(
        "train.lerning_rate=1e-3"
    )
    assert "trian: unknown key; did you mean train?" in problem("trian.epochs=1")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=2", "train.epochs"),
        ("learning_rate=1e-4", "train.learning_rate"),
        ("batch_tokens=512", "teacher.batch_tokens or train.batch_tokens"),
        ("generate.epochs=2", "train.epochs"),
        ("sed=1", "seed"),
    ],
)
def test_a_field_without_its_section_gets_the_sections_that_have_it(override, meant):
    assert f"unknown key; did you mean {meant}?" in problem(override)


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("generate.think=drop", "reasoning"),
        ("generate.thinking=false", "enable_thinking"),
        ("generate.prompts=[{expand: magpie, num: 3, steer: {sw: Msaidie.}}]", "system_prompts"),
    ],
)
def test_a_field_s_old_name_is_an_unknown_key_that_names_the_new_one(override, new):
    assert f"unknown key; did you mean {new}?" in problem(override)


def test_all_problems_are_reported_at_once_each_with_file_field_and_value():
    lines = problem("train.epochs=0", "capture.num_draws=many", "seed=-1").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(QUICKSTART)) for line in lines)
    assert any("train.epochs: 0: input should be greater than 0" in line for line in lines)
    assert any(
        "capture.num_draws: 'many': input should be a valid integer" in line for line in lines
    )


@pytest.mark.parametrize("name", ["teacher", "judge"])
@pytest.mark.parametrize(
    "value",
    [
        "sk-SECRET123",
        "SECRET.abc",
        "1SECRET",
        "S" + "ECRET" * 30,
        "[SECRET]",
        "{a: SECRET}",
        "SECRET: b: c",
    ],
)
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown(name, value):
    place = "teacher.api_key_env" if name == "teacher" else "generate.judge_api_key_env"
    said = problem(
        f"{place}={value}",
        "generate.judge_server=http://h",
        "generate.judge_model=m",
        "generate.judge_min_score=4",
    )
    assert "api_key_env" in said and "SECRET" not in said
    load_recipe(QUICKSTART, ["teacher.api_key_env=DEEPSEEK_KEY_2"])


@pytest.mark.parametrize("place", ["teacher.server", "generate.judge_server"])
@pytest.mark.parametrize(
    "address",
    [
        "http://user:SECRET@h:1",
        "https://SECRET@h/v1",
        "https://h/v1?api_key=SECRET",
        "http://h/#SECRET",
        "user:SECRET@h ost",
        "[SECRET]",
    ],
)
def test_an_address_that_holds_a_key_is_refused_and_not_shown(place, address):
    said = problem(f"{place}={address}", "generate.judge_model=m", "generate.judge_min_score=4")
    assert "server" in said and "SECRET" not in said


def test_an_unknown_key_of_a_source_names_those_that_are_known():
    for section in ("generate", "evaluate"):
        said = problem(f"{section}.prompts={{file: a.jsonl, zzz: 1}}")
        assert f"{section}.prompts.0.zzz: unknown key; known here: expand, num," in said


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("student.vocabulary=8192", "student.vocabulary: 8192: a section, so fields in braces"),
        ("student.vocabulary={texts: [sw.txt]}", "it has file, dataset, config, split, revision"),
        ("train=fast", "train: 'fast': a section, so fields in braces, {NAME: value}; it has"),
    ],
)
def test_a_value_where_a_section_belongs_is_told_what_it_has(override: str, told: str) -> None:
    assert told in problem(override)


def test_a_field_of_a_lists_entry_is_told_how_to_be_set() -> None:
    told = "give the whole list, student.vocabulary.texts=[...]"
    assert told in problem(
        "student.vocabulary={texts: [{file: a.txt, language: en}]}",
        "student.vocabulary.texts.0.file=b",
    )
    assert "give the whole list, quantize.formats=[...]" in problem("quantize.formats.0.x=q4_0")
