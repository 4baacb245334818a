"""All questions of a recipe: what results could not tell apart is refused."""

import pytest
from benchmark_helpers import FRUIT, FRUIT_ROWS, SUMS, SUMS_ROWS, with_benchmarks, write

from distill.benchmarks.reading import all_places, read_all
from distill.data.hub_sets import hub_sets
from distill.errors import RecipeError


def test_questions_come_by_benchmark_and_language_in_the_recipes_order(tmp_path):
    uses = [
        write(tmp_path, SUMS, SUMS_ROWS, "en"),
        write(tmp_path, FRUIT, FRUIT_ROWS, "sw", "en"),
    ]
    found = [(each.benchmark.name, each.language) for each in read_all(with_benchmarks(*uses))]
    assert found == [("sums", "en"), ("fruit", "sw"), ("fruit", "en")]


def test_data_sets_of_a_hub_are_among_those_that_are_fetched(tmp_path):
    local = write(tmp_path, FRUIT, FRUIT_ROWS, "en")
    few = {"name": "afrimmlu", "few_shot": 2, "languages": ["sw"]}
    recipe = with_benchmarks(local, few, "mgsm", more=("languages=[en, sw]",))
    found = [
        (name, source.dataset, source.config, source.split)
        for name, source in hub_sets(recipe, all_places(recipe))
    ]
    field = "evaluate.benchmarks"
    assert found == [
        (field, "masakhane/afrimmlu", "swa", "test"),
        (field, "masakhane/afrimmlu", "swa", "dev"),
        (field, "juletxara/mgsm", "en", "test"),
        (field, "juletxara/mgsm", "sw", "test"),
    ]


def test_one_name_is_one_benchmark_asked_in_one_way(tmp_path):
    use = write(tmp_path, FRUIT, FRUIT_ROWS, "en", "sw")
    english, swahili = ({**use, "languages": [language]} for language in ("en", "sw"))
    assert len(read_all(with_benchmarks(english, swahili))) == 2
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", FRUIT, FRUIT_ROWS, "sw")
    (tmp_path / "other" / "fruit.yaml").write_text(FRUIT.replace("Fruit", "Fruits"))
    shots = {"few_shot": 1, "shots": use["files"]}
    for uses, problem in (
        ([use, english], "fruit, en is there twice"),
        ([english, other], "fruit is the name of two benchmarks"),
        ([english, swahili | shots], "fruit has few_shot 0 and 1"),
    ):
        with pytest.raises(RecipeError, match=problem):
            read_all(with_benchmarks(*uses))
    use = write(tmp_path, SUMS, SUMS_ROWS, "en", "sw")
    english, swahili = ({**use, "languages": [language]} for language in ("en", "sw"))
    with pytest.raises(RecipeError, match="sums has max_new_tokens 24 and 99"):
        read_all(with_benchmarks(english, swahili | {"max_new_tokens": 99}))
