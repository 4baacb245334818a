"""teacher.tensor_parallel in a recipe: what it goes with."""

import pytest
from run_helpers import QUICKSTART, ROOT

from distill.errors import RecipeError
from distill.models.load import Placement
from distill.on_policy.student_answers import Student, recipe_of_student
from distill.recipe import load_recipe

TWO = "teacher.tensor_parallel=2"


@pytest.mark.parametrize(
    ("fields", "message", "way_out"),
    [
        (
            ["teacher.device=auto", "teacher.device_map=auto"],
            "device_map auto",
            ["teacher.device_map=null"],
        ),
        (["teacher.quantization=nf4"], "quantization nf4", ["teacher.quantization=none"]),
        (["teacher.gguf=t.gguf"], r"gguf .*t\.gguf", ["teacher.gguf=null"]),
        (["num_processes=3"], "set num_processes to 4, or", ["num_processes=4"]),
        (["num_processes=1"], "set num_processes to 2, or", ["teacher.tensor_parallel=null"]),
        (["teacher.tensor_parallel=0"], "tensor_parallel", ["teacher.tensor_parallel=2"]),
    ],
)
def test_what_does_not_go_with_a_teacher_in_parts_is_refused(fields, message, way_out):
    given = [TWO, *fields]
    with pytest.raises(RecipeError, match=message):
        load_recipe(QUICKSTART, given)
    load_recipe(QUICKSTART, [*given, *way_out])


def test_it_is_the_machines_affair_and_not_the_students(tmp_path):
    plain, parts = (
        load_recipe(QUICKSTART, ["rounds={}"]),
        load_recipe(QUICKSTART, ["rounds={}", TWO]),
    )
    assert plain.teacher.identity() == parts.teacher.identity()
    student = Student(tmp_path, "d", Placement("cpu", "float32"))
    assert recipe_of_student(parts, student).team_size == 1


def test_of_several_teachers_all_that_are_in_parts_have_the_same_number():
    several = ROOT / "recipes/two_teachers.yaml"
    names = [t.name for t in load_recipe(several).teachers or ()]
    given = [
        f"teachers.{name}.tensor_parallel={num}" for name, num in zip(names, (2, 4), strict=False)
    ]
    with pytest.raises(RecipeError, match="are divided in one way: give all of them the same"):
        load_recipe(several, given)
    assert load_recipe(several, [given[0], f"teachers.{names[1]}.tensor_parallel=2"]).team_size == 2
    assert load_recipe(several, given[:1]).team_size == 2
