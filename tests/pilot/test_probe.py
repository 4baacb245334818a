"""probe: a few prompts in each language are asked first, once; what the verdicts say."""

from dataclasses import replace

from generate_helpers import HOT, generate_hot, logged_answers
from run_helpers import QUICKSTART

from distill.core.processes import ALONE, Processes
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.filters.base import Answer
from distill.pilot import probe
from distill.recipe import load_recipe
from distill.tasks import market
from distill.teachers import connect
from distill.teachers.answers import blocks_of
from distill.teachers.requests import Request, RequestOptions


def test_a_probe_judges_each_language_and_generate_asks_none_of_it_again(tmp_path):
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={tmp_path}"])
    for num, expected in ((2, 10), (3, 15)):  # the second probe asks one more a language
        verdicts = probe.probe(recipe, RunFolder.of(recipe), num, Processes())
        assert [(v.language, v.num) for v in verdicts] == [
            (language, num) for language in recipe.languages
        ]
        assert (
            len(logged_answers(tmp_path))
            == expected
            == len({row["key"] for row in logged_answers(tmp_path)})
        )
    for v in verdicts:
        assert (
            v.num == v.num_kept + sum(v.reasons.values())
            and v.num_kept <= v.num_verified <= v.num_verifiable == v.num
        )
    result, _ = generate_hot(tmp_path)
    rows = logged_answers(tmp_path)
    assert result.num_asked == len(rows) == len({row["key"] for row in rows}) == 30
    requests = [Request("", p, [1] * 5, n, 0) for n, p in enumerate(split_prompts(recipe)[0])]
    blocks = blocks_for(connect(recipe), requests, ALONE)
    assert (
        sorted(r.sample_index for b in blocks for r in b.requests) == list(range(30))
        and len(blocks) == 3
    ), "two probes and the rest"


def blocks_for(teacher, requests, processes):
    options = RequestOptions.of(teacher.recipe)
    return blocks_of(teacher, requests, options, teacher.logs.answers, processes)


def verdict(kept, in_language, num=200, cut=0):
    return probe.Verdict(
        "sw", num, kept, cut, num - cut, in_language, 0, 0, {"wrong_language": num - kept}
    )


def test_what_nothing_checks_does_not_count_as_verified():
    recipe = load_recipe(QUICKSTART)
    right = Answer("3 + 4?", "p1", f"{market.WORDING['en'].final}7", None, "stop", "en", "7")
    wrong = replace(right, reference="8")
    free = replace(right, reference=None, verify=False)
    pairs = [(right, None), (wrong, "wrong_answer"), (free, None)]
    verdict = probe.verdict_on(recipe, "en", pairs)
    assert (verdict.num, verdict.num_verifiable, verdict.num_verified) == (3, 2, 1)
    assert "50 % [9, 91] of 2 verified" in probe.text(recipe, [verdict])
    nothing = probe.verdict_on(recipe, "en", pairs[2:])
    assert "not verified" in probe.text(recipe, [nothing])


def test_a_verdict_is_plain_and_says_when_it_cannot_tell():
    recipe = load_recipe(QUICKSTART)
    assert verdict(190, 199).word == "fit" and verdict(190, 199).sentence(recipe) == "fit"
    assert verdict(20, 30).word == "unfit" and "10 % [7, 15] of the answers are kept" in verdict(
        20, 30
    ).sentence(recipe)
    assert verdict(190, 160).word == "unfit"  # kept, but too often in another language
    assert verdict(101, 199).word == "unsure" and "--num" in verdict(101, 199).sentence(recipe)
    assert "raise generate.max_new_tokens (now 96)" in verdict(100, 100, cut=100).sentence(recipe)
    assert (
        probe.Verdict("sw", 0, 0, 0, 0, 0, 0, 0, {})
        .sentence(recipe)
        .startswith("unsure: there is no prompt")
    )
