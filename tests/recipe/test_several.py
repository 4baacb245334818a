"""`teachers`: what a list of them must be, and the recipe as each of them sees it."""

import pytest

from distill.errors import RecipeError
from distill.recipe import explain, load_recipe, to_yaml

BASE = """name: r
languages: [en, zh, sw]
teachers:
  - {name: qwen, model: ./t, languages: [en, zh]}
  - {name: other, model: ./u, server: "http://h:1", max_cost: 3, price_answer: 2}
student: {method: random}
generate: {prompts: p.jsonl, price_answer: 1}
"""


@pytest.fixture
def loaded(tmp_path):
    path = tmp_path / "r.yaml"

    def load(*overrides, text=BASE):
        path.write_text(text)
        return load_recipe(path, overrides)

    return load


REFUSED = {
    "teacher.model=x": "teacher and teachers: give one of them",
    "teachers.bob.model=x": "no 'bob' among them; there are qwen, other",
    "teachers.qwen=3": "write teachers.NAME.field=value",
    "teachers.other.name=Qwen": "two are called Qwen: give one another name",
    "teachers.qwen.languages=[fr]": "language fr is not in the recipe's languages",
    "teachers.qwen.languages=[]": "takes nothing",
    "teachers.qwen.languages=null": "other comes after qwen, which has no selector",
    "teachers.qwen.sources=[q.jsonl]": "there is no such source of prompts; there are 'p.jsonl'",
    "teachers.qwen.tasks=[market]": "generate.task is null: take that, translation, or none",
    "teachers.qwen.max_cost=1": "max_cost 1 without server limits nothing: remove it",
    "teachers.qwen.modell=1": "unknown key; did you mean model?",
    "teachers.qwen.name=a/b": "teachers.0.name",
    "teachers=[]": "at least 1 item",
    "teachers.other.price_answer=0": "max_cost 3 without prices stops nothing",
    "capture.from_server=true": "teachers: qwen: capture.from_server without teacher.server",
    "capture.signal=chunks": "chunks are of one teacher: set capture.signal to sampled",
    "teachers.qwen.server_gives=text": "server_gives text without server",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_is_refused_with_the_way_out(loaded, override):
    with pytest.raises(RecipeError) as caught:
        loaded(override)
    assert REFUSED[override] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_one_model_on_two_servers_is_one_teacher(loaded):
    more = [
        "teachers.qwen.server=http://g:1",
        "teachers.qwen.model=m/u",
        "teachers.other.model=m/u",
    ]
    with pytest.raises(RecipeError, match="are the same model on a server: make one"):
        loaded(*more)
    loaded(*more, "teachers.qwen.server_model=small")


def test_a_signal_that_nobody_gives_is_refused(loaded):
    text = ["teachers.qwen.gives=text", "teachers.other.gives=text"]
    with pytest.raises(RecipeError, match="every one of the teachers gives text alone"):
        loaded(*text)
    loaded(*text, "capture.signal=none", "train.soft_weight=0", "train.hard_weight=1")


def test_each_teacher_sees_the_recipe_as_if_it_were_alone(loaded):
    recipe = loaded("teachers.other.gives=text", "generate.concurrency=7")
    qwen, other = recipe.views
    assert (qwen.route, other.route) == ("qwen", "other") and recipe.route == ""
    assert qwen.teachers is None and qwen.whole is recipe and recipe.whole is recipe
    assert (qwen.capture.signal, other.capture.signal) == ("sampled", "none")
    assert (qwen.learns, other.learns) == ("logits", "outputs")
    assert (qwen.generate.price_answer, other.generate.price_answer) == (1, 2)
    assert other.generate.concurrency == 7
    assert qwen.languages == recipe.languages


def test_a_new_student_takes_the_tokens_of_the_first_that_gives_more_than_text(loaded):
    assert loaded().teacher.model == "./t"
    assert loaded("teachers.qwen.gives=text").teacher.model == "./u"


def test_the_resolved_recipe_is_a_recipe_and_the_same_one(loaded):
    recipe = loaded()
    assert loaded(text=to_yaml(recipe)).model_dump() == recipe.model_dump()
    assert "teacher" not in recipe.model_dump() and "teacher" not in recipe.identity()


def test_a_recipe_of_one_teacher_has_the_identity_that_it_had(loaded):
    one = BASE.replace(
        BASE[BASE.index("teachers:") : BASE.index("student")], "teacher: {model: ./t}\n"
    )
    recipe = loaded(text=one)
    assert "teachers" not in recipe.identity()
    assert set(recipe.teacher.identity()) == {
        "model",
        "revision",
        "licence",
        "dtype",
        "quantization",
        "gguf",
        "batch_tokens",
        "server_gives",
        "trust_remote_code",
        "device",
    } - {"device"}


def test_every_field_is_explained():
    told = explain("teachers")
    for name in ("name", "languages", "sources", "tasks", "gives", "max_cost", "model", "gguf"):
        assert f"teachers.{name} (" in told
