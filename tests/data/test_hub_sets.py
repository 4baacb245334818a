"""Which data sets of a hub a recipe needs."""

from distill.data.hub_sets import hub_sets


def test_each_field_that_has_sources_is_among_them_and_a_data_set_once(recipe):
    made = recipe(
        "[{dataset: us/prompts}, {dataset: ./here}]",
        "evaluate.prompts=[{dataset: us/exam, split: test}]",
        "evaluate.safety={prompts: [{dataset: us/delicate}, {dataset: us/exam, split: test}]}",
        "student.vocabulary={texts: [{dataset: us/texts, language: sw}]}",
    )
    assert [(name, source.dataset) for name, source in hub_sets(made)] == [
        ("generate.prompts", "us/prompts"),
        ("evaluate.prompts", "us/exam"),
        ("evaluate.safety.prompts", "us/delicate"),
        ("student.vocabulary.texts", "us/texts"),
    ]


def test_without_safety_there_are_none_of_it(recipe):
    assert hub_sets(recipe("p.txt")) == []
