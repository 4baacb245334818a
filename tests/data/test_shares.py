"""Shares of languages and sources, and groups that take turns."""

from collections import Counter

import pytest
from run_helpers import ROOT

from distill.core.jsonl import write_jsonl
from distill.data.prompts import read_prompts, split_prompts
from distill.data.shares import by_shares, mixed, take_turns
from distill.errors import DataError, RecipeError
from distill.filters import prompt_filters
from distill.recipe import load_recipe


def read(recipe):
    prompts = recipe.generate.prompts
    return read_prompts(recipe, "generate.prompts", prompts, needs_reference=False)


def test_shares_hold_and_the_scarcest_language_sets_the_number(recipe, tmp_path):
    write_jsonl(
        tmp_path / "p.jsonl",
        [{"prompt": f"{n}", "language": "sw" if n % 4 == 0 else "en"} for n in range(400)],
    )
    prompts = read(recipe("./p.jsonl"))
    for num, expected in ((None, {"sw": 100, "en": 66}), (50, {"sw": 30, "en": 20})):
        chosen = by_shares(prompts, {"sw": 0.6, "en": 0.4}, num)
        assert Counter(p.language for p in chosen) == expected
    more = by_shares(prompts + prompts[:4], {"sw": 0.6, "en": 0.4}, 50)
    assert {p.id for p in more} == {p.id for p in chosen}, "an appended prompt displaces none"
    with pytest.raises(DataError, match="no usable prompt"):
        by_shares(prompts[1:4], {"sw": 0.5, "en": 0.5}, None)


def test_sources_have_their_shares_after_the_filters(recipe, tmp_path):
    numbers = {"sw.jsonl": 90, "en.jsonl": 200, "safety.jsonl": 30}
    for number, (name, num) in enumerate(numbers.items()):
        write_jsonl(
            tmp_path / name, [{"prompt": f"{number} {n}", "language": "en"} for n in range(num)]
        )
    loaded = recipe(
        "[{file: sw.jsonl, share: 0.6}, {file: en.jsonl, share: 0.3}, {file: safety.jsonl, share: 0.1}]"
    )
    prompts = read(loaded)
    assert Counter(p.source for p in mixed(loaded.generate, prompts)) == {
        "sw.jsonl": 90,
        "en.jsonl": 45,
        "safety.jsonl": 15,
    }
    few = recipe(loaded.generate.model_dump(mode="json")["prompts"], "generate.num_prompts=50")
    assert Counter(p.source for p in mixed(few.generate, prompts)) == {
        "sw.jsonl": 30,
        "en.jsonl": 15,
        "safety.jsonl": 5,
    }
    asked, refused = prompt_filters.select_prompts(few, prompts, [])
    assert len(asked) == 50 and {why for _, why in refused} == {
        "beyond_share: its source has enough prompts"
    }
    assert len(split_prompts(few)[0]) > 250, "num_prompts is taken after the filters"
    with pytest.raises(DataError, match=r"share: safety.jsonl: no usable prompt in that source"):
        mixed(loaded.generate, prompts[:200])


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("[{file: p.jsonl, share: 0.5}, {file: q.jsonl}]", "q.jsonl has no share"),
        ("[{file: p.jsonl, share: 0.5}, {file: q.jsonl, share: 0.4}]", "add up to 0.9"),
        ("[{file: p.jsonl, share: 0.5}, {file: p.jsonl, share: 0.5}]", "the same file"),
        ("[{file: p.jsonl, share: 1}], shares: {en: 0.5, sw: 0.5}", "exclude each other"),
    ],
)
def test_shares_that_cannot_hold_are_refused(recipe, prompts, words):
    with pytest.raises(RecipeError, match=words):
        recipe(prompts)


def test_the_mix_of_the_recipe_for_1b_can_be_had():
    options = load_recipe(ROOT / "recipes" / "qwen_to_1b.yaml").generate
    kind, shares = options.mix or ("", {})
    assert kind == "source" and list(shares.values()) == [0.014, 0.614, 0.32, 0.002, 0.05]
    wanted = {name: share * (options.num_prompts or 0) for name, share in shares.items()}
    there = {source.name: source.num for source in options.prompts}
    for name, num in there.items():
        if num is None:
            num = len((ROOT / "recipes" / name).read_text().splitlines())
        assert num > 1.2 * wanted[name], f"{name}: a fifth may be dropped before it is the scarcest"


def test_groups_take_turns_as_they_come_or_in_a_given_order():
    items = ["a1", "a2", "b1", "a3", "c1", "b2"]
    assert take_turns(items, lambda item: item[0]) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    ordered = take_turns(items, lambda item: item[0], ["c", "b", "a"])
    assert ordered == ["c1", "b1", "a1", "b2", "a2", "a3"]
    assert take_turns(items, lambda item: item[0], ["b"])[:3] == ["b1", "a1", "c1"], (
        "a, c: not named"
    )
    assert take_turns([], lambda item: item) == []
