"""Embeddings and contexts that are too small are told before the teacher has cost anything."""

import json
import shutil
from pathlib import Path

import pytest
from run_helpers import QUICKSTART

from distill import evaluate, generate, plan
from distill.core.processes import ALONE
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.errors import MismatchError
from distill.models.load import load_tokenizer
from distill.pipeline import PLANNED
from distill.planning import lengths
from distill.recipe import load_recipe
from distill.teachers import connect

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"


@pytest.fixture
def model(tmp_path):
    """Return a copy of the quickstart's teacher that may be changed."""
    return Path(shutil.copytree(TEACHER, tmp_path / "model"))


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def recipe_of(model, *overrides):
    here = [
        f"teacher.model={model}",
        f"student.model={model}",
        f"run_folder={model.parent / 'run'}",
    ]
    return load_recipe(QUICKSTART, ["student={method: base}", *here, *overrides])


def check_in_plan(recipe):
    plan.make_plan(recipe, RunFolder.of(recipe), PLANNED)


def check_in_generate(recipe):
    generate.run(recipe, RunFolder.of(recipe), ALONE)


before_asking = pytest.mark.parametrize("check", [check_in_plan, check_in_generate])


@before_asking
def test_a_tokenizer_longer_than_the_embedding_is_refused(model, check):
    edit_config(model, vocab_size=len(load_tokenizer(str(model))) - 2)
    with pytest.raises(
        MismatchError, match=r"has 2 tokens beyond the \d+ rows .*resize_token_embeddings\((\d+)\)"
    ):
        check(recipe_of(model))


def test_its_way_out_works(model):
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(str(model))
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(model)
    num_ids = max(tokenizer.get_vocab().values()) + 1
    edit_config(model, vocab_size=num_ids - 1)
    with pytest.raises(MismatchError, match=rf"'<mine>'.*resize_token_embeddings\({num_ids}\)"):
        lengths.check_models(recipe_of(model))
    edit_config(model, vocab_size=json.loads((TEACHER / "config.json").read_text())["vocab_size"])
    larger = AutoModelForCausalLM.from_pretrained(model)
    larger.resize_token_embeddings(num_ids)
    larger.save_pretrained(model)
    lengths.check_models(recipe_of(model))


@before_asking
def test_an_answer_that_fills_the_whole_context_is_refused(model, check):
    edit_config(model, max_position_embeddings=256)
    with pytest.raises(MismatchError, match=r"generate\.max_new_tokens 256 .* context of 256"):
        check(recipe_of(model, "generate.max_new_tokens=256"))


@before_asking
def test_so_is_one_of_the_students_in_rounds_which_the_student_writes_and_the_teacher_reads(
    model, tmp_path, check
):
    small = Path(shutil.copytree(model, tmp_path / "small"))
    edit_config(small, max_position_embeddings=180)
    short = ["train.max_length=180", "generate.max_new_tokens=100", "evaluate.max_new_tokens=100"]
    rounds = [*short, "rounds.num_rounds=1", "rounds.max_new_tokens=180"]
    for role in ("student", "teacher"):
        told = (
            rf"rounds\.max_new_tokens 180 .* the {role}'s context of 180 .*max_new_tokens=90 or so"
        )
        with pytest.raises(MismatchError, match=told):
            check(recipe_of(model, *rounds, f"{role}.model={small}"))
    lengths.check_models(recipe_of(small, *rounds, "rounds.max_new_tokens=90"))


def test_a_new_model_has_room_for_as_much_as_its_context_will_hold(model):
    def recipe(most):
        new = f"student={load_recipe(QUICKSTART).student.model_dump(exclude_unset=True)}"
        more = ["train.max_length=500", "rounds.num_rounds=1", f"rounds.max_new_tokens={most}"]
        return recipe_of(model, new, *more)

    edit_config(model, max_position_embeddings=4096)
    with pytest.raises(MismatchError, match=r"the student's context of 2048"):
        lengths.check_models(recipe(2048))
    lengths.check_models(recipe(2047))


@before_asking
def test_training_rows_beyond_the_students_context_are_refused_with_the_way_out(
    model, tmp_path, check
):
    student = Path(shutil.copytree(model, tmp_path / "student"))
    edit_config(student, max_position_embeddings=180)
    change = f"student.model={student}"
    with pytest.raises(MismatchError, match=r"set train\.max_length=180$"):
        check(recipe_of(model, change))
    lengths.check_models(recipe_of(model, change, "train.max_length=180"))


def test_a_context_that_yarn_stretches_is_as_long_as_that():
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {"max_position_embeddings": 32768, "rope_scaling": rope}
    assert lengths.context_of(config) == 4 * 32768
    assert lengths.context_of({"max_position_embeddings": 2048}) == 2048
    assert lengths.context_of({}) is lengths.context_of({"max_position_embeddings": "x"}) is None


def test_a_prompt_that_leaves_no_room_for_an_answer_is_dropped_with_the_reason(model):
    edit_config(model, max_position_embeddings=200)
    recipe = recipe_of(model, "generate.max_new_tokens=64", "train.max_length=200")
    teacher = connect(recipe)
    questions = ["How many?", "one two three " * 30, "How many apples? " * 8]
    prompts = [Prompt(({"role": "user", "content": text},), "en") for text in questions]
    sizes = [len(teacher.tokenizers.prompt_ids(recipe, list(p.messages))) for p in prompts]
    assert sizes[2] <= 136 < sizes[1], "one is long and fits all the same"
    fitting, beyond = lengths.within_context(teacher, prompts)
    assert fitting == [prompts[0], prompts[2]]
    (prompt, reason), *others = beyond
    assert prompt is prompts[1] and not others
    assert reason.startswith(f"beyond_context: {sizes[1]} tokens") and "context of 200" in reason
    with pytest.raises(MismatchError, match=r"none of 1 prompts fits .*generate\.max_new_tokens"):
        lengths.within_context(teacher, [prompts[1]])


def recipe_with_long_prompts(model, tmp_path, *overrides):
    """Two held-out prompts and two to learn from, of which one is beyond a context of 200 each."""
    files = {}
    for name in ("learn", "held_out"):
        files[name] = tmp_path / f"{name}.jsonl"
        texts = [f"How many goats has {name}?", f"{name}: one two three " * 50]
        rows = [{"prompt": text, "language": "en", "reference": "3"} for text in texts]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [f"generate.prompts={files['learn']}", f"evaluate.prompts={files['held_out']}"]
    lengths_ = ["generate.max_new_tokens=64", "evaluate.max_new_tokens=64", "train.max_length=100"]
    return recipe_of(model, *prompts, *lengths_, "languages=[en]", *overrides)


def test_a_held_out_prompt_beyond_a_context_is_told_before_anything_is_asked(
    model, tmp_path, capsys
):
    """And it is left out when the time comes, whichever of the two models it is too long for."""
    student = Path(shutil.copytree(model, tmp_path / "student"))
    edit_config(student, max_position_embeddings=200)
    for recipe, reason in (
        (
            recipe_with_long_prompts(model, tmp_path, f"student.model={student}"),
            "tokens fill the student's context of 200",
        ),
        (
            recipe_with_long_prompts(student, tmp_path, f"student.model={model}"),
            "an answer of up to 64, are beyond the teacher's context of 200",
        ),
    ):
        told = "1 of 2 held-out prompts are left out: "
        planned = plan.make_plan(recipe, RunFolder.of(recipe), PLANNED)
        (warning,) = [text for text in planned.warnings if text.startswith(told)]
        assert warning.endswith(reason)
        (unlearnt,) = [text for text in planned.warnings if "train.max_length 100" in text]
        assert unlearnt.startswith("1 of 2 prompts fill")
        prompts, held_out = split_prompts(recipe)
        assert lengths.length_notes(connect(recipe), prompts, held_out) == [warning, unlearnt]
        capsys.readouterr()
        assert evaluate.askable(held_out, connect(recipe)) == held_out[:1]
        assert capsys.readouterr().err == f"evaluate: {warning}\n"
    with pytest.raises(MismatchError, match=r"evaluate\.prompts: none of 1 held-out prompts fits"):
        lengths.length_notes(connect(recipe), prompts, held_out[1:])
    assert lengths.length_notes(connect(recipe), prompts[:1], held_out[:1]) == []


def test_a_model_on_a_server_has_the_room_that_the_server_gives_it(model):
    edit_config(model, max_position_embeddings=100)
    fields = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]
    fields += ["generate.max_new_tokens=200", "train.control=false", "train.max_length=100"]
    with pytest.raises(MismatchError, match="leaves no room"):
        lengths.check_models(recipe_of(model, *fields))
    lengths.check_models(recipe_of(model, *fields, "teacher.server=http://127.0.0.1:9"))
