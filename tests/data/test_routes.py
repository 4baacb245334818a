"""Which of several teachers answers a prompt: the first that takes it, for thousands of random recipes."""

import random
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
from run_helpers import QUICKSTART

from distill.data.prompts import split_prompts
from distill.data.routes import check_of, route_of_written, routed
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.planning.demands import demand_of, demands_of, num_written_by
from distill.recipe import load_recipe
from distill.recipe.sections import RoutedTeacher

KIND = "routes"
LANGUAGES = ("en", "zh", "sw", "id", "hi")
CHECKS = ("market", "translation", "none")
SOURCES = ("a.jsonl", "b.jsonl")
NUM = 400


@pytest.fixture(scope="module")
def recipe():
    sources = "[{file: a.jsonl}, {file: b.jsonl, verify: false}]"
    return load_recipe(QUICKSTART, [f"generate.prompts={sources}"])


def some(chance, values):
    """A selector: some of the values, or none at all."""
    chosen = chance.sample(values, chance.randint(1, len(values)))
    return chance.choice([None, chosen, chosen])


def random_teachers(chance):
    return [
        RoutedTeacher(
            name=f"t{number}",
            model="./t",
            languages=some(chance, LANGUAGES),
            sources=some(chance, SOURCES),
            tasks=some(chance, CHECKS),
        )
        for number in range(chance.randint(1, 4))
    ]


def random_prompts(chance):
    return [
        Prompt(
            ({"role": "user", "content": f"{number}"},),
            chance.choice(LANGUAGES),
            source=chance.choice(SOURCES),
            is_translation=chance.random() < 0.3,
            verify=chance.random() < 0.5,
        )
        for number in range(chance.randint(1, 12))
    ]


def of_several(recipe, teachers):
    return recipe.model_copy(update={"teachers": teachers})


def taken_by(teacher, prompt, recipe):
    """The rule once more, in other words: no selector may exclude it."""
    kind = {
        "languages": prompt.language,
        "sources": prompt.source,
        "tasks": "translation" if prompt.is_translation else "market" if prompt.verify else "none",
    }
    return not any((s := getattr(teacher, n)) is not None and v not in s for n, v in kind.items())


def test_every_prompt_goes_to_the_first_that_takes_it_or_is_refused_by_name(recipe, tally):
    for seed in range(NUM):
        chance = random.Random(seed)
        teachers, prompts = random_teachers(chance), random_prompts(chance)
        several = of_several(recipe, teachers)
        expected = {t.name: [] for t in teachers}
        untaken = []
        for prompt in prompts:
            takers = [t.name for t in teachers if taken_by(t, prompt, several)]
            (expected[takers[0]] if takers else untaken).append(prompt)
        if untaken:
            told = tally.must_refuse(str(seed), partial(routed, several, prompts))
            commonest = Counter((p.language, check_of(several, p)) for p in untaken)
            assert f"no teacher takes {len(untaken)} of the prompts" in told
            assert any(f"in {code} (task {check}" in told for code, check in commonest)
            assert "without selectors last" in told
        else:
            tally.must_accept(str(seed), partial(routed, several, prompts), expected)


def test_a_last_teacher_without_selectors_takes_the_rest(recipe):
    for seed in range(100):
        chance = random.Random(seed)
        teachers = [*random_teachers(chance), RoutedTeacher(name="rest", model="./t")]
        prompts = random_prompts(chance)
        parts = routed(of_several(recipe, teachers), prompts)
        assert sum(map(len, parts.values())) == len(prompts)
        for part in parts.values():
            places = [prompts.index(prompt) for prompt in part]
            assert all(a < b for a, b in pairwise(places)), "in the prompts' own order"


def test_one_teacher_takes_all(recipe):
    prompts = random_prompts(random.Random(0))
    assert routed(recipe, prompts) == {"": prompts}


def test_what_is_written_is_asked_of_whoever_answers_it(recipe):
    source = (
        "[{expand: magpie, num: 7, verify: false}, {expand: self_instruct, num: 11, verify: false}"
    )
    rest = RoutedTeacher(name="rest", model="./t")
    south = RoutedTeacher(name="south", model="./t", languages=["sw", "id", "hi"])
    written = load_recipe(
        QUICKSTART,
        [
            f"generate.prompts={source}, {{file: {QUICKSTART.parent}/quickstart/prompts.jsonl}}]",
            "generate.num_prompts=50",
        ],
    )
    magpie, like, _ = written.generate.prompts
    several = of_several(written, [south, rest])
    assert route_of_written(several, magpie, "") == "rest", "in whatever language it comes"
    assert route_of_written(several, like, "sw") == "south"
    with pytest.raises(DataError, match="none takes the prompts that are to be written in no lang"):
        route_of_written(of_several(written, [south]), magpie, "")

    prompts = split_prompts(written)
    parts, whole = demands_of(several, prompts), demand_of(several, prompts)
    assert parts["south"].num_written == 2 + 2 + 2, "three languages of five share 11"
    for name in ("num_written", "num_answers", "num_held_out"):
        assert sum(getattr(part, name) for part in parts.values()) == getattr(whole, name)
    assert num_written_by(written) == 7 + 11
    for view in several.views:
        assert num_written_by(view) == parts[view.route].num_written
