"""A template that does not take a kind of conversation is found before any answer is paid for."""

import json
from dataclasses import replace

import pytest
from chat_helpers import CHATML, build
from families import BY_NAME, save
from run_helpers import QUICKSTART

from distill import generate, plan
from distill.chat.tokenizers import Tokenizers
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.errors import DataError, MismatchError
from distill.pilot.pilot_sample import PilotSample
from distill.pipeline import PLANNED
from distill.planning.conversations import check_conversations, kinds_of
from distill.recipe import load_recipe

TEXT = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
)
ONE_QUESTION = "{% if messages|length > 2 %}{{ raise_exception('One question only') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}"
)
# DeepSeek V3.1's: before an answer of before it writes another prompt than before its question
OTHER_BEFORE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant!{% endif %}"
)


def prompts_of(*kinds: str) -> list[Prompt]:
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [
        Prompt(tuple({"role": names[k], "content": "Hi"} for k in kind), "en") for kind in kinds
    ]


def pair(teacher: str = CHATML, student: str = CHATML) -> Tokenizers:
    return Tokenizers(build(template=teacher), build(template=student), "they differ")


@pytest.mark.parametrize(
    ("refusing", "kinds", "named"),
    [
        (
            NO_SYSTEM,
            ["u", "su", "su"],
            "2 of the prompts are conversations of system, user: .*No system",
        ),
        (
            ONE_QUESTION,
            ["u", "uau"],
            "1 of the prompts .*user, assistant, user: .*One question only",
        ),
        (ALTERNATING, ["u", "suau"], "system, user, assistant, user: .*Roles must alternate"),
    ],
)
def test_what_teacher_or_student_refuse_is_told(refusing, kinds, named):
    recipe, prompts = load_recipe(QUICKSTART), prompts_of(*kinds)
    check_conversations(recipe, pair(), prompts)
    for tokenizers in (pair(teacher=refusing + CHATML), pair(student=refusing + CHATML)):
        with pytest.raises(MismatchError, match=named):
            check_conversations(recipe, tokenizers, prompts)
    check_conversations(recipe, pair(student=refusing + CHATML), prompts[:1])


def test_a_system_prompt_of_the_recipe_is_part_of_every_conversation():
    recipe = load_recipe(QUICKSTART, ["generate.system_prompt=Be brief."])
    with pytest.raises(MismatchError, match=r"1 of the prompts .* user: .*No system role"):
        check_conversations(recipe, pair(student=NO_SYSTEM + CHATML), prompts_of("u"))
    with pytest.raises(DataError, match=r"system message of its own"):
        check_conversations(recipe, pair(), prompts_of("su"))
    forging = load_recipe(QUICKSTART, ["generate.system_prompt=Be brief.<|im_end|>"])
    with pytest.raises(DataError, match=r"generate\.system_prompt: '<\|im_end\|>' in it"):
        check_conversations(forging, pair(), prompts_of("u"))


def test_an_answer_with_reasoning_is_tried_where_the_teacher_thinks():
    drop = ["generate.reasoning=drop", "teacher.model=Qwen/Qwen3-8B"]
    recipe = load_recipe(QUICKSTART, drop)
    same = build(template=OTHER_BEFORE)
    with pytest.raises(
        MismatchError, match=r"another prompt before an answer .*generate\.reasoning"
    ):
        check_conversations(recipe, Tokenizers(same, same), prompts_of("u"))
    plain = load_recipe(QUICKSTART, [*drop[:1], "teacher.model=Qwen/Qwen3-4B-Instruct-2507"])
    check_conversations(plain, Tokenizers(same, same), prompts_of("u"))


def test_our_own_requests_are_tried(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "Hi", "language": "en"}))
    recipe = load_recipe(QUICKSTART, ["generate.judge_min_score=4"])
    refusing = build(template=ONE_QUESTION + CHATML)
    with pytest.raises(MismatchError, match="user, assistant, user: One question only"):
        check_conversations(recipe, Tokenizers(refusing, refusing), prompts_of("u"))
    check_conversations(recipe, Tokenizers(None, refusing, "not known"), prompts_of("u"))


def test_a_template_that_leaves_the_question_out_is_refused():
    deaf = "{% for m in messages[:2] %}{{ m.content }}{% endfor %}?"
    recipe = load_recipe(QUICKSTART)
    check_conversations(recipe, pair(student=deaf), prompts_of("u"))
    with pytest.raises(MismatchError, match="the student's chat template does not write what the"):
        check_conversations(recipe, pair(student=deaf), prompts_of("uau"))


def test_kinds_are_few_however_long_a_conversation_is():
    assert kinds_of(prompts_of("u", "uau", "ua" * 3 + "u", "ua" * 90 + "u", "u")) == {
        ("user",): 2,
        ("user", "assistant", "user"): 1,
        ("user", "assistant") * 3 + ("user",): 2,
    }


def test_plan_generate_and_the_pilots_say_it_before_anything_is_asked(tmp_path):
    llama = BY_NAME["llama"]
    save(replace(llama, template=NO_SYSTEM + llama.template), tmp_path / "student")
    recipe = load_recipe(
        QUICKSTART,
        [
            *TEXT,
            f"student={{method: base, model: {tmp_path / 'student'}}}",
            "generate.system_prompt=Be brief.",
            "quantize.formats=[]",
            "student.licence=apache-2.0",
            f"run_folder={tmp_path / 'run'}",
        ],
    )
    folder = RunFolder.of(recipe)
    for action in (
        lambda: plan.make_plan(recipe, folder, PLANNED),
        lambda: generate.run(recipe, folder, Processes()),
        lambda: PilotSample.of(recipe, folder, Processes()),
    ):
        with pytest.raises(MismatchError, match="No system role"):
            action()
    assert not list((tmp_path / "run").rglob("raw/*.jsonl"))
