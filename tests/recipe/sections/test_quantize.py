"""The section `quantize`: formats, budgets, recovery."""

from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe


def test_only_what_rounding_took_can_be_recovered():
    assert "recover: f16: there is nothing to win back" in problem(
        "quantize.formats=[f16]", "quantize.recover=[f16]"
    )
    assert "recover: q2_k is not among formats" in problem(
        "quantize.formats=[f16]", "quantize.recover=[q2_k]"
    )


def test_mixed_types_and_their_budget_belong_together():
    for overrides in (
        ["quantize.formats=[mixed]"],
        ["quantize.budget_mb=3", "quantize.formats=[q8_0]"],
    ):
        assert "formats: mixed and budget_mb belong together" in problem(*overrides)
    assert (
        load_recipe(
            QUICKSTART, ["quantize.formats=[mixed]", "quantize.budget_mb=3"]
        ).quantize.budget_mb
        == 3
    )
