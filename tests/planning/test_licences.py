"""The licences of several teachers: the strictest counts, and it is told whose that is."""

import itertools

from run_helpers import QUICKSTART

from distill.catalog.catalog import LEVELS
from distill.planning.licences import licence_verdict
from distill.recipe import load_recipe

KEYS = ("apache-2.0", "kimi-modified-mit", "gemma-2025", "llama3")


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
