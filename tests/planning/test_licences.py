"""The licences of all parts: the strictest counts, it is told whose that is, and what is forbidden stops."""

import itertools
import random
from functools import partial

import pytest
from run_helpers import QUICKSTART

from distill.catalog import facts
from distill.catalog.catalog import LEVELS
from distill.core.run_folder import RunFolder
from distill.errors import RecipeError
from distill.generate import run as generate
from distill.pilot.pilot_sample import PilotSample
from distill.plan import make_plan
from distill.planning.licences import licence_verdict, require_permission
from distill.recipe import load_recipe

KIND = "licences that a recipe declares"
KEYS = ("apache-2.0", "kimi-modified-mit", "gemma-2025", "llama3.2")


def recipe_of(*licences):
    last = len(licences) - 1
    entries = [
        f"{{name: t{i}, model: somebody/m{i}, licence: {key}"
        + ("" if i == last else f", languages: [{('en', 'zh', 'sw')[i]}]")
        + "}"
        for i, key in enumerate(licences)
    ]
    return load_recipe(QUICKSTART, ["teacher=null", f"teachers=[{', '.join(entries)}]"])


def alone(key):
    more = [f"teacher.licence={key}", "teacher.model=somebody/m"]
    return licence_verdict(load_recipe(QUICKSTART, more))


def test_the_strictest_counts_whatever_the_order():
    for keys in itertools.permutations(KEYS, 2):
        verdict, parts = licence_verdict(recipe_of(*keys)), [alone(key) for key in keys]
        for name in ("level", "commercial"):
            levels = [getattr(part, name) for part in parts]
            assert getattr(verdict, name) == max(levels, key=list(LEVELS).index)
        assert len(verdict.duties) == sum(len(part.duties) for part in parts)
        told = " ".join(verdict.sentences)
        for name, decided in (
            ("level", "training and publishing"),
            ("commercial", "commercial use"),
        ):
            levels = [getattr(part, name) for part in parts]
            sentence = next(s for s in verdict.sentences if s.startswith(f"of {decided}"))
            if levels[0] == levels[1]:
                assert f"all teachers (t0, t1) come to {levels[0]}" in sentence
            else:
                strict = max(range(2), key=lambda i: list(LEVELS).index(levels[i]))
                assert f"t{strict} decides, for it is the strictest: {levels[strict]}" in sentence
        assert "somebody/m0" in told and "somebody/m1" in told


def test_one_teacher_has_the_verdict_that_it_had():
    assert not any("decides" in sentence for sentence in alone("apache-2.0").sentences)


def test_whose_text_alone_is_learnt_is_judged_by_its_outputs():
    recipe = recipe_of("kimi-modified-mit", "apache-2.0")
    by_logits = licence_verdict(recipe)
    views = [recipe.view_of(view.teacher, text=True) for view in recipe.views]
    assert by_logits.level == "attribution" and licence_verdict(recipe, views).level == "allow"


DATA = "generate.prompts={{dataset: a/b, licence: {}}}"
QWEN = "student={method: base, model: Qwen/Qwen3-0.6B}"
JUDGE = ["generate.judge_min_score=4", "generate.judge_server=http://127.0.0.1:1"]
HUNYUAN = "teacher={model: tencent/Hunyuan-7B-Instruct}"


def verdict_of(*overrides):
    return licence_verdict(load_recipe(QUICKSTART, list(overrides)))


def test_base_data_and_judge_count_beside_the_teacher_and_who_decides_is_told():
    verdict = verdict_of(QWEN, DATA.format("cc-by-nc-4.0"))
    assert (verdict.level, verdict.commercial) == ("restricted", "forbid")
    assert (
        "of commercial use: the data a/b decides, for it is the strictest: forbid "
        "(the teacher: allow, the student's base: allow)"
    ) in verdict.sentences
    verdict = verdict_of("student={method: base, model: Qwen/Qwen2.5-3B}", DATA.format("own"))
    assert any("commercial use: the student's base decides" in s for s in verdict.sentences)
    verdict = verdict_of(*JUDGE, "generate.judge_model=meta-llama/Llama-3.3-70B-Instruct")
    assert verdict.level == "attribution" and verdict.name_prefix == "Llama"
    assert any("student: the judge decides" in s for s in verdict.sentences)
    declared = verdict_of(*JUDGE, "generate.judge_model=x", "generate.judge_licence=gemma-2025")
    assert declared.level == "restricted"


def test_what_is_not_declared_counts_as_such_and_the_field_is_named():
    verdict = verdict_of("generate.prompts=[{dataset: a/b}, {file: x.txt}]")
    assert verdict.level == "undeclared"
    assert any("the data a/b is not declared" in s for s in verdict.sentences)
    assert any("student: the data a/b decides" in s for s in verdict.sentences)
    assert verdict_of("generate.prompts=[{dataset: a/b, licence: mit}]").level == "allow"
    verdict = verdict_of(*JUDGE, "generate.judge_model=x")
    assert verdict.level == "undeclared"
    assert any("`generate.judge_licence: apache-2.0`" in s for s in verdict.sentences)
    verdict = licence_verdict(recipe_of("apache-2.0", "mit"))
    assert verdict.level == "allow", "a file of one's own is nobody else's"


def test_of_the_same_data_declared_twice_the_stricter_counts():
    for keys in (("own", "cc-by-nc-4.0"), ("cc-by-nc-4.0", "own")):
        twice = ", ".join(f"{{dataset: a/b, licence: {key}}}" for key in keys)
        verdict = verdict_of(f"generate.prompts=[{twice}]")
        assert (verdict.level, verdict.commercial) == ("restricted", "forbid")


def test_a_teacher_of_several_that_nobody_knows_is_told_with_its_field():
    made = load_recipe(
        QUICKSTART,
        [
            "teacher=null",
            "teachers=[{name: t0, model: somebody/m, languages: [en]}, "
            "{name: t1, model: Qwen/Qwen3-8B}]",
        ],
    )
    verdict = licence_verdict(made)
    assert verdict.level == "undeclared"
    assert any("`teachers.t0.licence: apache-2.0`" in s for s in verdict.sentences)
    assert any("student: t0 decides" in s for s in verdict.sentences)


def test_in_rounds_the_student_as_a_teacher_brings_no_licence_of_its_own():
    plain = verdict_of(QWEN)
    assert verdict_of(QWEN, "rounds={num_rounds: 2}").level == plain.level == "allow"
    with pytest.raises(RecipeError, match="the teacher: tencent"):
        require_permission(load_recipe(QUICKSTART, [HUNYUAN, "rounds={num_rounds: 2}"]))


def test_the_day_of_the_catalogue_is_told():
    assert verdict_of().sentences[-1] == f"as licences were known on {facts.licences_file().as_of}"


def test_a_misspelt_licence_of_data_or_judge_is_refused():
    with pytest.raises(RecipeError, match=r"yaml: generate\.prompts: a/b: .*mean cc-by-nc-4\.0"):
        verdict_of(DATA.format("cc-by-nc-40"))
    with pytest.raises(RecipeError, match=r"yaml: generate\.judge_licence: .*mean gemma-2025"):
        verdict_of(*JUDGE, "generate.judge_model=x", "generate.judge_licence=gemma2025")


def test_a_licence_declared_later_makes_no_answer_stale():
    plain = load_recipe(QUICKSTART, ["generate.prompts={dataset: a/b}"])
    declared = load_recipe(QUICKSTART, [DATA.format("own")])
    judged = load_recipe(
        QUICKSTART, [*JUDGE, "generate.judge_model=x", "generate.judge_licence=mit"]
    )
    assert plain.generate.identity() == declared.generate.identity()
    assert plain.identity() != declared.identity(), "the plan is made anew"
    assert "judge_licence" not in judged.generate.identity()


def test_what_a_licence_forbids_stops_before_anything_is_asked(tmp_path):
    recipe = load_recipe(QUICKSTART, [HUNYUAN, f"run_folder={tmp_path}"])
    folder = RunFolder(tmp_path)
    for action in (
        lambda: require_permission(recipe),
        lambda: make_plan(recipe, folder, []),
        lambda: generate(recipe, folder, None),  # type: ignore[arg-type]
        lambda: PilotSample.of(recipe, folder, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(RecipeError, match=r"the teacher: tencent/Hunyuan.*licence_accepted: "):
            action()


def test_a_reason_lets_it_go_on_and_the_same_family_needs_none():
    require_permission(load_recipe(QUICKSTART, [HUNYUAN, "licence_accepted=a contract of 3 May"]))
    require_permission(
        load_recipe(
            QUICKSTART, [HUNYUAN, "student={method: base, model: tencent/Hunyuan-0.5B-Pretrain}"]
        )
    )
    for blank in ("''", "'  '"):
        with pytest.raises(RecipeError, match="licence_accepted"):
            load_recipe(QUICKSTART, [HUNYUAN, f"licence_accepted={blank}"])


def test_of_several_teachers_one_that_forbids_it_stops_the_run():
    recipe = recipe_of("apache-2.0", "tongyi-2023")
    with pytest.raises(RecipeError, match=r": t1: somebody/m1 \(tongyi-2023\)"):
        require_permission(recipe)


def test_a_declared_licence_that_forbids_it_is_the_one_that_is_named():
    recipe = load_recipe(QUICKSTART, ["teacher={model: Qwen/Qwen3-8B, licence: hunyuan-community}"])
    with pytest.raises(RecipeError, match=r"Qwen3-8B \(hunyuan-community\).*is forbidden"):
        require_permission(recipe)


def test_a_judge_that_forbids_it_stops_the_run():
    judge = [*JUDGE, "generate.judge_model=tencent/Hunyuan-7B-Instruct"]
    with pytest.raises(RecipeError, match="the judge: tencent/Hunyuan"):
        require_permission(load_recipe(QUICKSTART, judge))


def test_the_plan_tells_the_name_that_a_licence_wants(tmp_path):
    llama = ["teacher.licence=llama3.2", "student.licence=apache-2.0", f"run_folder={tmp_path}"]
    told = "a licence wants it so: the card calls the student 'Llama quickstart', not 'quickstart'"
    for more, is_told in (([], True), (["report.title=Llama of Goats"], False)):
        recipe = load_recipe(QUICKSTART, [*llama, *more])
        plan = make_plan(recipe, RunFolder(tmp_path), [])
        assert (told in plan.text) == is_told


def test_a_recipe_without_the_new_fields_is_the_recipe_that_it_was():
    recipe = load_recipe(QUICKSTART)
    assert "licence_accepted" not in recipe.identity()
    assert recipe.generate.identity()["prompts"] == "./quickstart/prompts.jsonl"


def wrong_key(key: str, draw: random.Random) -> str:
    """A key as a person may write it wrongly: a letter too few, too many, changed, or in capitals."""
    at = draw.randrange(len(key))
    letter = draw.choice("abcxyz019.-_ ")
    ways = (
        key[:at] + key[at + 1 :],
        key[:at] + letter + key[at:],
        key[:at] + letter + key[at + 1 :],
    )
    return draw.choice((*ways, key.upper(), f"licence {key}", key * 40))


def declaring(recipe, part: str, key: str):
    """The recipe with this licence declared for one of its parts."""
    generate = recipe.generate
    if part == "teacher":
        teacher = recipe.teacher.model_copy(update={"licence": key, "model": "somebody/m"})
        return recipe.model_copy(update={"teacher": teacher})
    if part == "data":
        source = generate.prompts[0].model_copy(update={"licence": key})
        changed = generate.model_copy(update={"prompts": [source]})
    else:
        changed = generate.model_copy(update={"judge_licence": key})
    return recipe.model_copy(update={"generate": changed})


def test_no_key_that_is_not_in_the_catalogue_is_taken_for_one_that_is(tally):
    draw = random.Random(17)
    models, data = facts.licences(), facts.data_licences()
    recipe = load_recipe(QUICKSTART, [*JUDGE, "generate.judge_model=x"])
    for part, known in (("teacher", models), ("data", data), ("judge", models)):
        keys = {wrong_key(draw.choice(list(known)), draw) for _ in range(80)}
        for key in sorted(keys - known.keys()):
            declared = partial(licence_verdict, declaring(recipe, part, key))
            message = tally.must_refuse(f"{part}: {key}", declared)
            assert len(message) < 700 and "catalogue" in message
        for key in known:
            declared = partial(licence_verdict, declaring(recipe, part, key))
            tally.refuse_or(f"{part}: {key}", declared, lambda verdict: bool(verdict.sentences))
