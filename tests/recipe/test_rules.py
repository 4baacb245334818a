"""What does not go together across the sections is refused with the way out."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe

TEXT_ONLY = ["teacher.server=http://h:1", "teacher.server_gives=text"]
TEXT_ALONE = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]
WITH_SERVER = ["teacher.server=http://h:1", "capture.from_server=true", "capture.signal=top_k"]
MAGPIE = "expand: magpie, num: 3"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.divergence=reverse_kl"],
            "train.divergence reverse_kl needs more than draws: set capture.draw_log_probs to true, "
            "capture.signal to top_k or dense, or train.divergence to forward_kl",
        ),
        (
            ["capture.signal=top_k", "capture.draw_log_probs=true"],
            "draw_log_probs with signal top_k: they are those of draws; remove it, or set signal to",
        ),
        (
            ["train.hidden_weight=0.5"],
            "train.hidden_weight 0.5 needs the teacher's hidden states: "
            "set capture.hidden_states to int8",
        ),
        (
            [*TEXT_ALONE, "capture.hidden_states=int8"],
            "capture.signal none asks for nothing, capture.hidden_states int8 for something",
        ),
        (["capture.signal=none"], "leaves nothing for train.soft_weight 1.0: set soft_weight to 0"),
        (
            ["teacher.gguf=t.gguf", "teacher.device=auto", "capture.hidden_states=int8"],
            "capture.hidden_states int8: llama.cpp gives logits only",
        ),
    ],
)
def test_what_the_student_learns_is_captured(overrides, message):
    assert message in problem(*overrides)


@pytest.mark.parametrize("divergence", ["skew_kl", "reverse_kl", "jsd", "adaptive_kl"])
def test_each_way_out_of_draws_that_say_too_little_is_one(divergence):
    chosen = f"train.divergence={divergence}"
    for way_out in ("capture.draw_log_probs=true", "capture.signal=top_k", "capture.signal=dense"):
        assert load_recipe(QUICKSTART, [chosen, way_out]).train.divergence == divergence


def test_whether_log_probs_of_draws_are_stored_is_told_apart_only_where_they_are():
    assert "draw_log_probs" not in load_recipe(QUICKSTART).capture.identity()
    scored = load_recipe(QUICKSTART, ["capture.draw_log_probs=true"])
    assert scored.capture.identity()["draw_log_probs"] is True


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["capture.from_server=true"], "capture.from_server without teacher.server"),
        ([*WITH_SERVER, "capture.signal=sampled"], "servers give the likeliest tokens"),
        ([*WITH_SERVER, "capture.hidden_states=int8"], "servers give none"),
        ([*WITH_SERVER, "generate.reasoning=drop"], "set reasoning to keep or short"),
        (TEXT_ONLY, "teacher.server_gives text with capture.signal sampled"),
        ([*TEXT_ONLY, *TEXT_ALONE], "teacher.server_gives text with student.method random"),
        (
            [
                *TEXT_ONLY,
                *TEXT_ALONE,
                "student={method: base, model: ./x}",
                f"generate.prompts=[{{{MAGPIE}, verify: false}}]",
            ],
            "expand: magpie, which goes on from the middle of the teacher's template",
        ),
    ],
)
def test_a_server_is_asked_for_what_it_can_give(overrides, message):
    assert message in problem(*overrides)


TRIMMED = "student.vocabulary={size: 60}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (WITH_SERVER, "set from_server to false (the teacher's weights are then needed here"),
        (
            ["capture.signal=top_k", "capture.top_k=60"],
            "capture.top_k 60: the trimmed vocabulary has 60 ids: take fewer, capture.signal dense",
        ),
        (
            ["capture.num_draws=61"],
            "capture.num_draws 61: the trimmed vocabulary has 60 ids: take fewer, capture.signal",
        ),
    ],
)
def test_a_trimmed_vocabulary_can_have_the_signal(overrides, message):
    assert message in problem(*overrides, TRIMMED)


@pytest.mark.parametrize(
    "overrides",
    [
        ["capture.num_draws=60"],
        ["capture.signal=top_k", "capture.top_k=59"],
        ["capture.signal=dense", "capture.top_k=64", "capture.num_draws=100"],
        ["capture.hidden_states=int8", "train.hidden_weight=0.5"],
        ["teacher.gguf=t.gguf", "teacher.device=auto"],
        [*TEXT_ONLY, *TEXT_ALONE, "student={method: base, model: ./x}"],
    ],
)
def test_what_a_trimmed_vocabulary_goes_with_is_read(overrides):
    assert load_recipe(QUICKSTART, [*overrides, TRIMMED]).student.vocabulary is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["languages=[]"], "languages is empty: name at least one, e.g. [en]"),
        (
            ["languages=[en, zh]", "generate.shares={en: 1.0}"],
            "generate.shares names en, languages en, zh: name the same",
        ),
        (
            ["languages=[en, zh]", "generate.shares={en: 0.5, zh: 0.4}"],
            "generate.shares add up to 0.9, not to 1",
        ),
        (
            [f"generate.prompts=[{{{MAGPIE}, verify: false, language: fr}}]"],
            "expand: language fr is not in the recipe's languages",
        ),
        (
            [f"generate.prompts=[{{{MAGPIE}, verify: false, system_prompts: {{fr: Bonjour}}}}]"],
            "expand: language fr is not in the recipe's languages",
        ),
    ],
)
def test_languages_are_the_recipes(overrides, message):
    assert message in problem(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluate.prompts={dataset: d, translate: {en: a, zh: b}}"],
            "the task cannot grade translations",
        ),
        (
            ["evaluate.prompts={file: e.jsonl, refusals: keep}"],
            "refusals says what is worth learning from",
        ),
        ([f"evaluate.prompts=[{{{MAGPIE}}}]"], "the teacher does not set its own exam"),
        (
            [f"generate.prompts=[{{{MAGPIE}}}]"],
            "generate.task market checks every answer against a reference",
        ),
        (
            [f"generate.prompts=[{{{MAGPIE}, verify: false}}]", "evaluate.prompts=null"],
            "name prompts that people wrote to evaluate on",
        ),
    ],
)
def test_the_evaluation_asks_what_people_wrote(overrides, message):
    assert message in problem(*overrides)


def test_what_goes_together_is_read():
    load_recipe(QUICKSTART, TEXT_ALONE)
    load_recipe(QUICKSTART, WITH_SERVER)
    load_recipe(QUICKSTART, [*TEXT_ONLY, *TEXT_ALONE, "student={method: base, model: ./x}"])
    load_recipe(QUICKSTART, [f"generate.prompts=[{{{MAGPIE}, verify: false}}]"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (TEXT_ALONE, "rounds with capture.signal none"),
        (["train.soft_weight=0", "train.hard_weight=1"], "rounds with train.soft_weight 0"),
        ([*WITH_SERVER, "privacy=redact"], "the server scores the student's very tokens"),
        (["rounds.divergence=jsd"], "rounds.divergence jsd needs more than draws"),
        (
            ["capture.signal=top_k", "rounds.divergence=jsd", "train.beta=0.01"],
            "rounds.divergence jsd: train.beta 0.01 with jsd learns ~100 times slower",
        ),
        (["rounds.mix.current=0.9"], "current, earlier and teacher add up to 1.4, not to 1"),
        (
            ["rounds.sampling_temperature=0", "rounds.answers_per_prompt=2"],
            "they would all be the same",
        ),
    ],
)
def test_rounds_need_a_teacher_that_scores_the_students_own_tokens(overrides, message):
    assert message in problem("rounds.num_rounds=1", *overrides)


@pytest.mark.parametrize("name", ["min_kept_refusals", "max_over_refusal", "min_same_outcome"])
def test_gates_on_answers_need_somebody_who_is_asked(name):
    gates = f"evaluate.gates={{max_kl: 0.1, {name}: 0.5}}"
    assert f"evaluate.gates.{name} judges what files answer" in problem(gates)
    for way_out in ("evaluate.safety={}", f"evaluate.gates.{name}=null"):
        assert load_recipe(QUICKSTART, [gates, way_out]).evaluate.gates is not None
