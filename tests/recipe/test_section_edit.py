"""One section of a recipe's text is changed, and nothing else of it."""

from pathlib import Path

import pytest

from distill.recipe.section_edit import NotEdited, edit_section
from distill.recipe.sections import Student
from distill.recipe.sections.student import Vocabulary
from distill.recipe.strict_yaml import parse

DEFAULTS = {"layer_share": 0.5, "layers_by": "even", "vocabulary": None, "revision": None}
RECIPE = """\
# of shops
name: a  # this run

student:
  # the model
  method: base                         # as it is
  model: ./teacher                     # a folder
  revision: abc
  budget_mb: 500                       # megabytes

# what the teacher is asked
generate: {prompts: ./p.jsonl}
"""
CUT = {
    "method": "layers",
    "model": "./teacher",
    "revision": "abc",
    "layer_share": 0.75,
    "vocabulary": None,
}


def edited(text, values):
    after = edit_section(text, "student", values, DEFAULTS)
    before, read = parse(text.removeprefix("\ufeff")), parse(after.removeprefix("\ufeff"))
    assert {**read, "student": None} == {**before, "student": None}
    return after, read["student"]


def test_values_change_and_comments_stay():
    after, section = edited(RECIPE, CUT)
    assert section == {
        "method": "layers",
        "model": "./teacher",
        "revision": "abc",
        "budget_mb": 500,
        "layer_share": 0.75,
    }
    expected = RECIPE.replace("method: base  ", "method: layers").replace(
        "# megabytes\n", "# megabytes\n  layer_share: 0.75\n"
    )
    assert after == expected


def test_what_is_a_default_again_becomes_a_comment():
    text = RECIPE.replace(
        "  revision: abc\n",
        "  layer_share: 0.3  # a third\n  vocabulary:\n    size: 500\n    # more\n    texts: []\n",
    )
    after, section = edited(text, {**CUT, "method": "base", "layer_share": 0.5, "revision": None})
    assert section == {"method": "base", "model": "./teacher", "budget_mb": 500}
    assert "  # layer_share: 0.3  # a third\n  # vocabulary:\n" in after
    assert "  #   size: 500\n  #   # more\n  #   texts: []\n" in after


def test_a_section_that_says_less_of_the_same_stays_as_it_is():
    vocabulary = {"size": 500, "max_fertility_loss": 0.01, "texts": []}
    text = RECIPE.replace("  revision: abc\n", "  vocabulary:\n    size: 500  # ids\n")
    after, _ = edited(text, {"method": "base", "model": "./teacher", "vocabulary": vocabulary})
    assert after == text


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_and_a_byte_order_mark_stay(newline, mark):
    text = mark + RECIPE.replace("\n", newline)
    after, _ = edited(text, CUT)
    assert after.startswith(mark) and after.count(newline) == RECIPE.count("\n") + 1
    if newline == "\r\n":
        assert after.replace("\r\n", "").count("\n") == 0


def test_a_section_on_one_line_stays_on_one_line():
    text = "name: a\nstudent: {method: base, model: ./teacher}  # small\nlanguages: [en]\n"
    after, section = edited(text, {"method": "base", "model": "./teacher", "layer_share": 0.7})
    assert section["layer_share"] == 0.7 and after.count("\n") == 3 and "}  # small\n" in after


@pytest.mark.parametrize(
    "text",
    [
        "name: a\n",
        "student: &s\n  method: base\nother: *s\n",
        "student:\n  <<: {method: base}\n",
        "student:\n  method: >-\n    base\n",
        'student:\n  "method": base\n',
        "student:\n  ? method\n  : base\n",
        'student:\n  method: "base" # or "layers" # or none\n',
        "student: {method: base,\n  model: ./teacher}\n",
        "{name: a, student: {method: base}}\n",
        "student: base\n",
        "student:\n",
        "student: [\n",
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text):
    with pytest.raises(NotEdited):
        edit_section(text, "student", CUT, DEFAULTS)


def test_a_quoted_value_without_comment_is_replaced():
    after, section = edited(
        'student:\n  method: "base"\n  model: ./teacher\n', CUT | {"revision": None}
    )
    assert section["method"] == "layers" and "model: ./teacher\n" in after


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
FIELDS = Student.model_fields
OURS = {name: info.default for name, info in FIELDS.items() if not info.is_required()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_can_be_written_into(path):
    text = path.read_text(encoding="utf-8")
    vocabulary = Vocabulary(size=4096).model_dump(mode="json")
    whole = {"method": "base", "model": "./other", "revision": None, "licence": None}
    for cut in (
        {"layer_share": 0.5, "vocabulary": None},
        {"method": "layers", "layer_share": 0.7, "vocabulary": vocabulary},
        {"layer_share": 0.5, "vocabulary": vocabulary},
    ):
        values = whole | cut
        after = edit_section(text, "student", values, OURS)
        student = Student.model_validate(parse(after)["student"])
        assert {name: student.model_dump(mode="json")[name] for name in values} == values
        assert edit_section(after, "student", values, OURS) == after, "written once"
        changed = [line for line in text.splitlines() if line not in after.splitlines()]
        assert all(line.startswith(("  ", "student:")) for line in changed)
        for line in changed:  # what a comment teaches stays
            assert line.partition("#")[2] in after
