"""What a recipe says in vain, or says nothing about: told by the plan."""

import pytest
from run_helpers import QUICKSTART, ROOT

from distill.data.prompts import split_prompts
from distill.errors import DataError
from distill.planning.overlooked import fields_of_other_methods, without_prompts_told
from distill.planning.vocabulary import planned_vocabulary
from distill.recipe import load_recipe
from distill.teachers.routes import students_tokenizers

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
CUT = "method: layers, model: ./teacher"


@pytest.mark.parametrize(
    ("student", "told"),
    [
        (f"{{{CUT}, num_layers: 12}}", ["num_layers 12 ", "layer_share says how many"]),
        ("{method: base, model: ./t, layer_share: 0.3}", ["layer_share 0.3 ", "to method layers"]),
        ("{method: base, model: ./t, head_dim: 64}", ["head_dim 64 ", "to method random"]),
        ("{method: base, model: ./t, layer_share: 0.5}", []),  # the default
        (f"{{{CUT}, layer_share: 0.3, layers_by: nll}}", []),
        ("{method: random, num_layers: 3, hidden_size: 128}", []),
    ],
)
def test_a_field_of_another_method_is_told(student, told):
    found = fields_of_other_methods(load_recipe(QUICKSTART, [f"student={student}"]))
    assert len(found) == bool(told)
    for text in told:
        assert text in found[0] and found[0].startswith("student.")


@pytest.fixture
def english(tmp_path):
    (tmp_path / "p.txt").write_text("How much do 3 tomatoes cost?\nWhat is the total?\n")
    (tmp_path / "sw.txt").write_text("Nyanya tatu ni bei gani?\n")
    return tmp_path


def recipe_of(english, *more):
    prompts = f"generate.prompts={{file: {english / 'p.txt'}, language: en}}"
    words = ["languages=[en, sw]", prompts, "generate.task=null", "evaluate.prompts=null", *more]
    return load_recipe(QUICKSTART, words)


def test_a_language_in_which_nothing_is_asked_is_told(english):
    recipe = recipe_of(english)
    (told,) = without_prompts_told(recipe, split_prompts(recipe))
    assert "no prompt is in sw" in told and "take it out" in told
    recipe = recipe_of(english, "languages=[en]")
    assert without_prompts_told(recipe, split_prompts(recipe)) == []
    source = f"{{file: {english / 'p.txt'}, language: en}}, {{expand: magpie, num: 5}}"
    recipe = recipe_of(english, f"generate.prompts=[{source}]")
    assert without_prompts_told(recipe, split_prompts(recipe)) == [], "the teacher may write some"


@pytest.mark.parametrize("code", ["sw", "swh"])
def test_a_trimmed_language_without_text_is_refused_before_the_teacher_is_paid(english, code):
    trims = "student.vocabulary={size: 512, max_fertility_loss: null%s}"
    recipe = recipe_of(english, trims % "")
    with pytest.raises(DataError, match=r"no text in sw to count .*language: sw"):
        planned_vocabulary(recipe, students_tokenizers(recipe), split_prompts(recipe))
    texts = f", texts: [{{file: {english / 'sw.txt'}, language: {code}}}]"
    recipe = recipe_of(english, trims % texts)
    planned = planned_vocabulary(recipe, students_tokenizers(recipe), split_prompts(recipe))
    assert planned is not None and planned.text.startswith("vocabulary: about 512 of 1,024 tokens")
