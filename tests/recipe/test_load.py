"""A recipe is read from YAML, and written as YAML that reads back as itself."""

import subprocess
import sys

import pytest
from run_helpers import QUICKSTART, ROOT

from distill.errors import MissingError, RecipeError
from distill.recipe import load_recipe, sealed_yaml, to_yaml

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_loads_and_its_files_are_there(path):
    recipe = load_recipe(path)
    by_licence = {"llama_to_1b": "Llama-1b-assistant"}  # which asks for such a name
    assert recipe.name == by_licence.get(path.stem, path.stem)
    for source in [*recipe.generate.prompts, *(recipe.evaluate.prompts or [])]:
        recipe.existing_file("prompts", source.file)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_teaches_by_its_comments(path):
    """Beside its fields, or above them where the recipe is short."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    bare = [line for line in lines if "#" not in line]
    assert len(bare) <= 0.6 * len(lines), f"lines without a comment: {bare}"


def test_reading_a_recipe_needs_no_torch():
    code = "import sys, distill.recipe; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=QUICKSTART.parent.parent, check=False
        ).returncode
        == 0
    )


def test_broken_yaml_and_double_keys_name_the_line(tmp_path):
    path = tmp_path / "r.yaml"
    for text, said in (
        ("name: a\nteacher: [\n", r"r\.yaml, line \d: not YAML"),
        ("name: a\nseed: 1\nname: b\n", r"line 3: not YAML: key 'name' is given twice"),
        ("[1]: {a: 1}\n", r"line 1: not YAML: \[.*\] cannot be a key"),
        ("name: a\0\n", r"r\.yaml: not YAML: .*special characters"),
        ("name: a\ntrain:\n\tepochs: 2\n", r"line 3: not YAML: a tab .*: use spaces"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=said):
            load_recipe(path)
    with pytest.raises(MissingError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_recipe_in_utf16_is_named_as_such(tmp_path, encoding):
    path = tmp_path / "r.yaml"
    path.write_bytes(QUICKSTART.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(RecipeError, match=r"r\.yaml: UTF-16, not UTF-8; save it as UTF-8"):
        load_recipe(path)


def test_python_objects_in_yaml_are_not_built(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(path)


def test_the_resolved_recipe_is_itself_a_recipe(tmp_path):
    recipe = load_recipe(QUICKSTART)
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    assert load_recipe(path).model_dump() == recipe.model_dump()


def test_the_recipe_of_a_run_folder_is_what_the_run_wrote_or_says_that_it_was_edited(tmp_path):
    recipe = load_recipe(QUICKSTART)
    path = tmp_path / "recipe.yaml"
    whole = sealed_yaml(recipe)
    path.write_text(whole)
    assert load_recipe(path).model_dump() == recipe.model_dump()
    edited = whole.replace("max_new_tokens: 96", "max_new_tokens: 97")
    assert edited != whole
    path.write_text(edited)
    with pytest.raises(
        RecipeError, match=r"take out the line '# sha256 of the lines below: \.\.\.'"
    ):
        load_recipe(path)
    lines = edited.splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("# sha256 of the")))
    assert load_recipe(path).evaluate.max_new_tokens == 97, "what was advised"
