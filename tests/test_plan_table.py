"""The table of plans in both READMEs says what the plan says: `python scripts/plan_table.py --write` mends it."""

import pytest
from run_helpers import ROOT, script

plan_table = script("plan_table")


@pytest.fixture(scope="module")
def table():
    return plan_table["table"]()


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readmes_say_what_the_plan_says(page, table):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert plan_table["in_text"](text) == table


def test_a_page_without_the_table_is_refused():
    with pytest.raises(ValueError, match="no table that begins with"):
        plan_table["in_text"]("# Nothing\n")


def test_every_recipe_for_a_gpu_has_a_row_and_fits_somewhere(table):
    rows = [line for line in table.splitlines()[2:] if "student of 8 B" not in line]
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert len(rows) == len(recipes - set(plan_table["SMALL"]))
    assert all(" h" in row for row in rows)
    (qwen,) = [row for row in rows if "[qwen_to_1b]" in row]
    assert "needs" not in qwen, "its first lines say how it fits each size"
