"""The section `teacher`: where the model runs, and what it is called there."""

from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe
from distill.recipe.sections import Teacher


def test_a_teacher_runs_in_one_place():
    assert "needs a pinned revision" in problem("teacher.trust_remote_code=true")
    assert "remove one of them, or set capture.from_server to scores" in problem(
        "teacher.gguf=t.gguf", "teacher.server=http://h", "teacher.device=auto"
    )
    assert "server_gives text without server" in problem("teacher.server_gives=text")


def test_a_name_on_a_server_is_noted_where_it_may_be_another_model():
    served = ["teacher.model=a/b", "teacher.server=http://h"]
    for overrides, name in (([], None), (["teacher.server_model=c"], "c")):
        assert load_recipe(QUICKSTART, [*served, *overrides]).teacher.served_name == name
    same = Teacher(model="c", server="http://h", server_model="c")
    assert same.served_name is None
