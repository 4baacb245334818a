"""What a plan says of two teachers, and what it refuses before either has cost anything."""

import shutil

import pytest
from conftest import tiny_qwen3
from several_helpers import TEACHER, entry, like_the_teacher, with_other_tokens, words

from distill import generate, safety
from distill.core.processes import ALONE
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.data.routes import routed
from distill.errors import DataError, MismatchError, RecipeError
from distill.pipeline import PLANNED
from distill.plan import make_plan
from distill.planning.costs import Workload
from distill.planning.machine import GB, Machine
from distill.recipe import load_recipe
from distill.teachers.routes import routes_of, students_tokenizers

MACHINE = Machine(2, 8 * GB, 50 * GB, None, 0, 1e11, 1e10)
HIDDEN = ("capture.hidden_states=int8", "train.hidden_weight=0.5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("teachers")
    return {
        "other": with_other_tokens(place / "other"),
        "alike": like_the_teacher(place / "alike"),
        "narrow": narrow(place / "narrow"),
        "template": with_another_template(place / "template"),
    }


def narrow(folder):
    """A smaller teacher with the same tokenizer: its hidden states are narrower."""
    shutil.copytree(TEACHER, folder)
    tiny_qwen3(hidden=64, vocabulary=1024).save_pretrained(folder)
    return folder


def with_another_template(folder):
    shutil.copytree(TEACHER, folder)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "{# another #}")
    return folder


def recipe_of(run_folder, second, *more, **fields):
    teachers = [
        entry("east", TEACHER, languages="[en, zh]"),
        entry("south", second, **fields),
    ]
    source, *overrides = map(str, words(run_folder, *teachers, more=more))
    return load_recipe(source, overrides)


def planned(recipe, folder):
    return make_plan(recipe, RunFolder(folder), PLANNED)


def test_the_plan_counts_each_teacher_and_says_who_gives_text_alone(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["other"])
    plan = planned(recipe, tmp_path)
    east, south = plan.teachers
    learn, held_out = split_prompts(recipe)
    for figures in (east, south):
        assert figures["num_answers"] == len(routed(recipe, learn)[figures["name"]])
        assert figures["num_held_out"] == len(routed(recipe, held_out)[figures["name"]])
    assert east["num_answers"] + south["num_answers"] == plan.work["num_answers"]
    assert east["gives_signal"] and not south["gives_signal"]
    assert "has id 300" in south["why_text"]
    assert f"its text alone is learnt, by cross-entropy: {south['why_text']}" in plan.text
    assert "2 teachers, one after the other" in plan.text


def test_a_teacher_that_is_not_on_this_machine_is_planned_beside_one_that_is(tmp_path):
    recipe = recipe_of(tmp_path, "Qwen/Qwen3-0.6B")
    plan = planned(recipe, tmp_path)
    here, away = plan.teachers
    assert here["parameters"] < 10_000_000 < 500_000_000 < away["parameters"]
    assert "if it has not the student's tokenizer, which is not here yet" in plan.text


def test_memory_is_the_largest_ones_and_time_and_disk_are_the_sum(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["narrow"])
    views = [route.recipe for route in routes_of(recipe)]
    work = Workload.of(recipe, MACHINE, views=views)
    for stage in PLANNED:
        if stage.name not in ("generate", "capture"):
            continue
        whole, parts = stage.cost(work), [stage.cost(part) for part in work.parts]
        assert whole.memory == max(part.memory for part in parts)
        assert whole.disk == pytest.approx(sum(part.disk for part in parts))
        assert max(part.seconds for part in parts) < whole.seconds
    assert work.parts[0].asking_bytes > work.parts[1].asking_bytes


def test_teachers_of_one_tokenizer_both_give_a_signal(folders, tmp_path):
    assert [
        f["gives_signal"] for f in planned(recipe_of(tmp_path, folders["alike"]), tmp_path).teachers
    ] == [
        True,
        True,
    ]


def test_another_template_of_the_same_tokens_is_learnt_as_text(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["template"])
    east, south = routes_of(recipe)
    assert east.why_text is None and south.why_text == "another chat template"
    template = students_tokenizers(recipe).student.chat_template
    assert (
        template == south.tokenizers.student.chat_template == east.tokenizers.teacher.chat_template
    )


def test_whoever_shares_the_students_tokens_leads_wherever_it_stands(folders, tmp_path):
    """A student that is a model has a tokenizer already: the second teacher's."""
    student = f"student={{method: base, model: {TEACHER}}}"
    teachers = [
        entry("south", folders["other"], languages="[sw, id, hi]"),
        entry("rest", TEACHER),
    ]
    source, *overrides = map(str, words(tmp_path, *teachers, more=(student,)))
    south, rest = routes_of(load_recipe(source, overrides))
    assert rest.gives_signal and not south.gives_signal
    assert south.tokenizers.student is rest.tokenizers.teacher


def test_a_signal_and_no_teacher_with_the_students_tokens_is_refused(folders, tmp_path):
    student = f"student={{method: base, model: {folders['other']}}}"
    text = ("capture.signal=none", "train.soft_weight=0", "train.hard_weight=1")
    with pytest.raises(MismatchError, match=r"different tokenizers .*capture\.signal=none"):
        planned(recipe_of(tmp_path, folders["alike"], student), tmp_path)
    planned(recipe_of(tmp_path, folders["alike"], student, *text), tmp_path)


def test_hidden_states_of_two_widths_are_refused_with_a_way_out(folders, tmp_path):
    with pytest.raises(MismatchError, match=r"different widths \(east 192, south 64\)"):
        planned(recipe_of(tmp_path, folders["narrow"], *HIDDEN), tmp_path)
    planned(recipe_of(tmp_path, folders["narrow"], *HIDDEN, gives="text"), tmp_path)
    planned(recipe_of(tmp_path, folders["alike"], *HIDDEN), tmp_path)


def test_prompts_that_no_teacher_takes_are_told_before_anything_is_asked(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["alike"], languages="[sw, id]")
    with pytest.raises(DataError, match=r"no teacher takes .* in hi \(task market, of "):
        planned(recipe, tmp_path)


def test_a_teacher_that_no_prompt_comes_to_is_told_of(folders, tmp_path):
    teachers = [
        entry("east", TEACHER, languages="[en, zh]"),
        entry("idle", folders["alike"], languages="[en]", sources="[./quickstart/eval.jsonl]"),
        entry("rest", folders["other"]),
    ]
    source, *overrides = map(str, words(tmp_path, *teachers))
    warnings = planned(load_recipe(source, overrides), tmp_path).warnings
    (told,) = [text for text in warnings if "no prompt comes to it" in text]
    assert told.startswith("teachers: idle: ")


NAMES = ("./quickstart/prompts.jsonl", "./quickstart/eval.jsonl")
SAFETY = "evaluate.safety={num_requests: 2, judge: true}"


def test_requests_of_safety_are_counted_for_the_teacher_that_is_asked_them(folders, tmp_path):
    plan = planned(recipe_of(tmp_path, folders["alike"], SAFETY), tmp_path)
    in_a_language = 2 * 3 + 2 * 2  # two of each set, and both sides of two pairs
    assert [f["num_requests"] for f in plan.teachers] == [2 * in_a_language, 3 * in_a_language]
    assert "20 requests of evaluate.safety" in plan.text
    assert "30 requests of evaluate.safety" in plan.text
    served = recipe_of(tmp_path, folders["alike"], SAFETY, server="http://127.0.0.1:1")
    of_south = routed(served, [p for part in split_prompts(served) for p in part])["south"]
    line = (
        "every prompt of south's, and the 30 requests of evaluate.safety "
        f"({len(of_south) + 30:,} conversations"
    )
    assert line in planned(served, tmp_path).text


def test_a_plan_of_safety_asks_each_teacher_its_own_and_the_first_as_judge(folders, tmp_path):
    def seconds(*more, **fields):
        recipe = recipe_of(tmp_path, folders["alike"], *more, **fields)
        return safety.cost(Workload.of(recipe, MACHINE)).seconds

    of_one = "evaluate.safety={num_requests: 2}"
    assert seconds(SAFETY) > seconds(of_one)
    slow = {"server": "http://127.0.0.1:1", "concurrency": 1}
    assert seconds(of_one, **slow) > seconds(of_one, server="http://127.0.0.1:1")
    judge = ("generate.judge_server=http://127.0.0.2:1", "generate.judge_model=m")
    judged = (SAFETY, "generate.judge_min_score=4", *judge)
    one_at_once = seconds(*judged, "generate.concurrency=1")
    assert one_at_once > seconds(*judged, "generate.concurrency=10")


def generated(recipe, folder):
    generate.run(recipe, RunFolder(folder), ALONE)


@pytest.mark.parametrize("stage", [planned, generated])
def test_requests_that_teachers_chosen_by_source_do_not_take_are_refused(stage, tmp_path):
    """Before anything is paid for, and the way out that is told is one."""

    def recipe_with(*sources):
        teacher = entry("east", TEACHER, sources=f"[{', '.join(sources)}]")
        source, *overrides = map(str, words(tmp_path, teacher, more=(SAFETY,)))
        return load_recipe(source, overrides)

    told = (
        r"no teacher takes 50 of the requests of evaluate\.safety: .* of 'distill'\).*: add those"
    )
    with pytest.raises(DataError, match=told):
        stage(recipe_with(*NAMES), tmp_path)
    plan = planned(recipe_with(*NAMES, "distill"), tmp_path)
    assert [figures["num_requests"] for figures in plan.teachers] == [50]


def test_our_sets_are_no_source_where_none_is_asked(folders, tmp_path):
    with pytest.raises(RecipeError, match="sources: 'distill': there is no such source"):
        recipe_of(tmp_path, folders["alike"], sources="[distill]")


def test_a_teacher_whose_template_has_no_switch_is_asked_without(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["alike"], "generate.enable_thinking=false")
    assert [route.recipe.generate.enable_thinking for route in routes_of(recipe)] == [None, None]
    assert recipe.generate.enable_thinking is False


def test_what_leaves_this_machine_is_what_goes_to_servers(folders, tmp_path):
    recipe = recipe_of(tmp_path, folders["alike"], server="http://127.0.0.1:1")
    of_south = routed(recipe, [p for part in split_prompts(recipe) for p in part])["south"]
    line = f"leaves this machine: every prompt of south's ({len(of_south):,} conversations"
    assert line in planned(recipe, tmp_path).text


def test_rounds_want_one_teacher(folders, tmp_path):
    with pytest.raises(
        RecipeError, match=r"rounds with teachers: .*set rounds to null, or name one"
    ):
        recipe_of(tmp_path, folders["alike"], "rounds={num_rounds: 1}")
