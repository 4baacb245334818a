"""What a plan makes of student.vocabulary before there is an answer: a trial, and all that is reckoned by it."""

import pytest
from run_helpers import QUICKSTART

from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.pipeline import PLANNED
from distill.plan import make_plan
from distill.planning.vocabulary import planned_vocabulary
from distill.recipe import load_recipe
from distill.teachers import connect

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
BY_FERTILITY = "student.vocabulary={max_fertility_loss: 0.05}"


def recipe_of(*more):
    student = f"student={{method: base, model: {TEACHER}}}"
    return load_recipe(QUICKSTART, [student, "generate.num_prompts=40", BY_FERTILITY, *more])


def plan_of(tmp_path, *more):
    return make_plan(recipe_of(*more), RunFolder(tmp_path / "run"), PLANNED)


def test_every_estimate_is_of_the_tokens_that_the_trial_kept(tmp_path):
    """No size is given: only the trial can tell. Of the signal it is to the byte, else by the rows."""
    dense = ["capture.signal=dense", "quantize.formats=[]"]
    whole = plan_of(tmp_path, "student.vocabulary=null", *dense)
    trimmed = plan_of(tmp_path, *dense)
    num = trimmed.student["vocabulary"]
    assert f"about {num:,} of 1,024 tokens stay" in trimmed.text
    table = trimmed.text.partition("tokens/word")[2].splitlines()[1:]
    assert [line.split()[0] for line in table[:5]] == ["en", "zh", "sw", "id", "hi"]
    assert all(line.endswith("%") for line in table[:5])
    assert num % 64 == 0 and num < 900 and whole.student["vocabulary"] == 1024
    removed = (1024 - num) * trimmed.student["hidden"]  # the head is tied
    assert whole.student["parameters"] - trimmed.student["parameters"] == removed
    disk = {name: cost.disk for name, cost in trimmed.stages.items()}
    of_all = {name: cost.disk for name, cost in whole.stages.items()}
    assert disk["capture"] / of_all["capture"] == pytest.approx(num / 1024)
    assert of_all["initialize"] - disk["initialize"] == 4 * removed
    assert disk["train"] < of_all["train"] and disk["quantize"] < of_all["quantize"]


def test_a_signal_of_more_ids_than_the_trial_kept_is_told(tmp_path):
    """The recipe's own check knows a size alone."""
    told = "capture would stop: capture.top_k 900: the trimmed vocabulary has"
    assert told in plan_of(tmp_path, "capture.signal=top_k", "capture.top_k=900").text
    assert told not in plan_of(tmp_path, "capture.signal=top_k", "capture.top_k=50").text


def test_it_says_when_fertility_keeps_more_than_the_size():
    recipe = recipe_of("student.vocabulary.size=320")
    planned = planned_vocabulary(recipe, connect(recipe).tokenizers, split_prompts(recipe))
    assert planned.size > 320
    assert "more than student.vocabulary.size 320: with fewer the texts of a" in planned.text
    alone = recipe_of("student.vocabulary={size: 320, max_fertility_loss: null}")
    planned = planned_vocabulary(alone, connect(alone).tokenizers, split_prompts(alone))
    assert planned.size == 320 and "more than" not in planned.text


@pytest.mark.parametrize("size", [320, 896])
def test_texts_that_become_much_longer_are_told(size):
    recipe = recipe_of(f"student.vocabulary={{size: {size}, max_fertility_loss: null}}")
    planned = planned_vocabulary(recipe, connect(recipe).tokenizers, split_prompts(recipe))
    is_told = "longer in tokens: samples of as many more" in planned.text
    assert is_told == (size == 320)


def test_what_cannot_be_tried_yet_is_reckoned_by_the_size_or_as_the_whole():
    recipe = recipe_of()
    prompts = split_prompts(recipe)
    untried = planned_vocabulary(recipe, None, prompts)
    assert untried.size is None and "reckoned as if all did" in untried.text
    sized = recipe_of("student.vocabulary.size=700")
    assert planned_vocabulary(sized, None, prompts).size == 640, "a multiple of 64"
    english = tuple([p for p in part if p.language == "en"] for part in prompts)
    written = "generate.prompts=[{file: p.jsonl}, {expand: magpie, num: 9, verify: false}]"
    sized = recipe_of("student.vocabulary.size=700", written)
    untried = planned_vocabulary(sized, connect(sized).tokenizers, english)
    assert untried.size == 640 and "a language has no text" in untried.text
