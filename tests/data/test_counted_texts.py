"""Texts that are read for their tokens alone, from files and from data sets of the `datasets` library."""

import json
import shlex

import pytest
from format_helpers import SENTENCES
from run_helpers import QUICKSTART

from distill.data.bad_rows import Left
from distill.data.counted_texts import counted_texts, require_text, texts_inputs
from distill.errors import DataError, MissingError
from distill.planning.vocabulary import check_vocabulary
from distill.recipe import load_recipe

ROWS = [{"text": text, "other": number} for number, text in enumerate(SENTENCES)]


def recipe_of(**text):
    texts = json.dumps([{"language": "en", **text}])
    return load_recipe(QUICKSTART, [f"student.vocabulary={{texts: {texts}}}"])


def texts_of(recipe):
    (text,) = recipe.student.vocabulary.texts
    return list(counted_texts(recipe, text, Left()))


def write_hub_folder(folder):
    """A data set with two configurations, as `hf download --local-dir` leaves it."""
    configs = "".join(
        f"- config_name: {name}\n  data_files: [{{split: train, path: {name}/*.jsonl}}]\n"
        for name in ("english", "swahili")
    )
    for name, rows in (("english", ROWS[:1]), ("swahili", ROWS[2:3])):
        (folder / name).mkdir(parents=True)
        (folder / name / "part.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")


def test_a_data_set_is_read_as_one_of_prompts_is(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert texts_of(recipe_of(dataset=str(tmp_path / "saved"))) == SENTENCES
    write_hub_folder(tmp_path / "hub")
    for config, place in (("english", 0), ("swahili", 2)):
        recipe = recipe_of(dataset=str(tmp_path / "hub"), config=config, revision="abc")
        assert texts_of(recipe) == [SENTENCES[place]]
    with pytest.raises(DataError, match=r"no column 'said'; there are text, other"):
        texts_of(recipe_of(dataset=str(tmp_path / "saved"), column="said"))


def test_a_data_set_that_changes_is_another_input(tmp_path):
    write_hub_folder(tmp_path / "hub")
    recipe = recipe_of(dataset=str(tmp_path / "hub"), config="english")
    before = texts_inputs(recipe)
    assert before == texts_inputs(recipe)
    (tmp_path / "hub" / "english" / "part.jsonl").write_text(json.dumps(ROWS[1]) + "\n")
    assert texts_inputs(recipe) != before and texts_of(recipe) == [SENTENCES[1]]
    pinned, other = (recipe_of(dataset="a/b", revision=revision) for revision in ("1", "2"))
    assert texts_inputs(pinned) != texts_inputs(other), "of a hub's the revision counts"


def test_without_a_network_it_is_said_how_to_carry_it_and_that_works(tmp_path):
    """Before the teacher has cost anything, and whether or not the tokenizer is here."""
    recipe = recipe_of(dataset="nobody/some texts", config="swahili", revision="abc")
    with pytest.raises(MissingError) as error:
        check_vocabulary(recipe, None)
    advice = str(error.value)
    assert "student.vocabulary.texts: data set 'nobody/some texts/swahili/train'" in advice
    assert "run `distill fetch RECIPE` where there is a network" in advice
    command = shlex.split(advice.partition("fetch it there by `")[2].partition("`")[0])
    folder = command[command.index("--local-dir") + 1]
    assert command[:3] == ["hf", "download", "nobody/some texts"] and command[-1] == "abc"
    assert advice.endswith(f"name it: dataset=./{folder}")
    write_hub_folder(tmp_path / folder)
    check_vocabulary(recipe_of(dataset=f"{tmp_path}/{folder}", config="swahili"), None)
    with pytest.raises(MissingError, match=r"texts\.dataset: '\./nowhere': no such folder"):
        check_vocabulary(recipe_of(dataset="./nowhere"), None)
    with pytest.raises(MissingError, match=r"check its name, config and split$"):
        check_vocabulary(recipe_of(dataset=f"{tmp_path}/{folder}", config="hindi"), None)


def test_a_source_without_any_text_is_refused_before_anything_is_asked(tmp_path):
    for name, content in (("a.txt", "\n \n"), ("a.jsonl", '{"text": ""}\n'), ("b.jsonl", "")):
        (tmp_path / name).write_text(content)
        recipe = recipe_of(file=str(tmp_path / name))
        with pytest.raises(DataError, match=rf"{name}: .*no text"):
            require_text(recipe, recipe.student.vocabulary.texts[0])
    (tmp_path / "c.jsonl").write_text('{"words": "Habari"}\n')
    with pytest.raises(DataError, match=r"no column 'text'.*there are words"):
        check_vocabulary(recipe_of(file=str(tmp_path / "c.jsonl")), None)
