"""What trimming tells of the texts that it was counted by, and of new ones."""

import pytest
from run_helpers import QUICKSTART
from shaping_helpers import made

from distill.recipe import load_recipe
from distill.shaping.corpus import Corpus
from distill.shaping.coverage import table_lines
from distill.shaping.trimming import trim

COMMON = "How much do 3 tomatoes cost?"
RARE = "The teacher buys oranges, pencils and notebooks at the market in the morning."


def trimmed(limits, texts):
    recipe = load_recipe(QUICKSTART, ["languages=[en]", f"student.vocabulary={limits}"])
    return trim(recipe, made("quickstart"), Corpus(recipe, {"en": texts}), shown=False)


@pytest.fixture(scope="module")
def alike():
    """Each tenth text has words of its own."""
    return [RARE if number % 10 == 9 else COMMON for number in range(200)]


def test_new_text_of_other_words_is_longer_than_the_counted_and_that_is_told(alike):
    found = trimmed("{max_fertility_loss: 0.01}", alike)
    (row,) = found.coverage
    assert row.loss <= 0.01 and row.new_text_loss is not None and row.new_text_loss > 0.2
    assert table_lines(found.coverage)[-1].endswith(f"  {row.new_text_loss:.2%}")
    (note,) = (note for note in found.notes if "new text" in note)
    assert (
        "max_fertility_loss 0.01: the counted texts keep it, new text of the same kind would be "
        in (note)
    )
    assert f"(en {row.new_text_loss:.1%})" in note and "student.vocabulary.texts" in note


def test_new_text_of_the_same_words_is_no_longer_and_nothing_is_told():
    found = trimmed("{max_fertility_loss: 0.01}", [COMMON] * 200)
    (row,) = found.coverage
    assert row.new_text_loss == pytest.approx(row.loss, abs=1e-3)
    assert not [note for note in found.notes if "new text" in note]


def test_without_a_limit_nothing_is_told_and_of_few_texts_nothing_known(alike):
    found = trimmed("{size: 384, max_fertility_loss: null}", alike)
    assert found.coverage[0].new_text_loss is not None
    assert not [note for note in found.notes if "new text" in note]
    (row,) = trimmed("{size: 384, max_fertility_loss: null}", alike[:9]).coverage
    assert row.new_text_loss is None and table_lines([row])[-1].endswith("–")
