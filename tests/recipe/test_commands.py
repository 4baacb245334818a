"""What an error advises is the command that its reader has to type, whatever is in the recipe."""

import ast
import re
import shlex

import pytest
from run_helpers import QUICKSTART, ROOT

from distill.errors import MissingError
from distill.recipe import Recipe, advising, in_full, load_recipe, sealed_yaml
from distill.recipe.commands import advised_instead

ADVICE = "a: gone; run `distill capture RECIPE`, or `distill run RECIPE --redo generate`: b"


def commands_in(text):
    return [shlex.split(part) for part in text.split("`")[1::2]]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["run_folder=/data/a run", "train.epochs=2"],
        ["generate.prompts=[{file: it's.csv, columns: {prompt: \"the $Q; 'x'\"}}]", "name=x"],
    ],
)
def test_every_override_is_in_it_as_a_shell_takes_it(overrides):
    recipe = load_recipe(QUICKSTART, overrides)
    assert commands_in(in_full(ADVICE, recipe)) == [
        ["distill", "capture", str(QUICKSTART), *overrides],
        ["distill", "run", str(QUICKSTART), *overrides, "--redo", "generate"],
    ]


def test_an_error_says_it_and_stays_what_it_is():
    recipe = load_recipe(QUICKSTART, ["run_folder=/r"])
    with (
        pytest.raises(MissingError, match=r"`distill capture /.*yaml run_folder=/r`"),
        advising(recipe),
    ):
        raise MissingError(ADVICE)
    with pytest.raises(ValueError, match=r"of RECIPE$"), advising(recipe):
        raise ValueError("a fault of RECIPE")


def test_a_recipe_made_in_python_has_a_call_and_no_command():
    recipe = Recipe.model_validate(load_recipe(QUICKSTART).model_dump())
    assert in_full(ADVICE, recipe).split("`")[1::2] == [
        "distill.run(recipe, stages=['capture'])",
        "distill.run(recipe, redo='generate')",
    ]


def test_the_recipe_of_a_run_folder_names_the_same_files(tmp_path):
    """Its paths stay as they were written: another spelling would be another recipe."""
    recipe = load_recipe(QUICKSTART, [f"run_folder={tmp_path}"])
    path = tmp_path / "recipe.yaml"
    for _ in range(2):  # a run of it writes it again
        path.write_text(sealed_yaml(recipe), encoding="utf-8")
        recipe = load_recipe(path)
        assert recipe.source == path
        assert recipe.path("./quickstart/teacher") == QUICKSTART.parent / "quickstart" / "teacher"
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text("# resolved from /a/b.yaml\n" + QUICKSTART.read_text(), encoding="utf-8")
    assert load_recipe(elsewhere).path("x") == tmp_path / "x", "this one is no run folder's"


# what is named and not advised, or has no recipe
NAMED = r"distill (plan|compare( A B)?|inspect|teachers( NAME)?|explain .+|.*--help)"
WHOLE = r"distill (\w+|\{.+?\}) RECIPE( [\w.]+=\S+| \{base\})*( --redo (\w+|\{.+?\}))?"


def texts_of(path):
    """Yield the texts of a source file but its docstrings; f-strings with {...} in them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in docstrings:
            yield ast.unparse(node)


def test_every_command_that_an_error_advises_can_be_written_in_full():
    for path in sorted((ROOT / "distill").rglob("*.py")):
        for text in texts_of(path):
            for command in re.findall(r"`(distill [^`(]*)`", text):
                is_known = re.fullmatch(f"{WHOLE}|{NAMED}", command)
                assert is_known, f"{path}: `{command}`"


def test_values_that_are_for_the_advised_command_alone_come_last():
    advice = "run `distill fetch RECIPE student.model=a/b student.revision=null`"
    recipe = load_recipe(QUICKSTART, ["student.model=a/c", "student.method=base"])
    (command,) = commands_in(in_full(advice, recipe))
    assert command[3:] == [*recipe.typed[1:], "student.model=a/b", "student.revision=null"]
    assert load_recipe(command[2], command[3:]).student.model == "a/b"
    made = Recipe.model_validate(load_recipe(QUICKSTART).model_dump())
    said = "`distill.pilot.fetch.run(recipe)` with `student.model=a/b student.revision=null`"
    assert in_full(advice, made) == f"run {said}"
    assert advised_instead(advice, "shape") == advice


def test_what_a_stage_advises_can_be_said_of_another_command():
    advice = "run `distill trim RECIPE`, or `distill run RECIPE --redo capture`"
    said = "run `distill shape RECIPE`, or `distill shape RECIPE` with --redo"
    assert advised_instead(advice, "shape") == said
