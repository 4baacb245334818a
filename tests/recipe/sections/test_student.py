"""The section `student`: a method has what it needs, and nothing that it has no use for."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe
from distill.recipe.sections import Student


def test_a_method_that_lacks_its_model_is_refused():
    assert "needs student.model" in problem("student.method=base")
    assert "remove student.model" in problem("student.model=./x")
    assert "num_heads 8 is not a multiple of num_kv_heads 3" in problem(
        "student.num_heads=8", "student.num_kv_heads=3"
    )


def test_a_cut_belongs_to_a_method():
    assert "layers_by: nll belongs to method: layers, and method is random" in problem(
        "student.layers_by=nll"
    )
    for unused in ("even", "block_influence"):  # what runs and candidates have written out
        assert load_recipe(QUICKSTART, [f"student.layers_by={unused}"])
    assert "a new one is dense: remove it" in problem("student.num_experts=4")
    assert "set intermediate_size: 512 and remove ffn_width" in problem("student.ffn_width=512")


@pytest.mark.parametrize("method", ["base", "layers", "random"])
def test_a_run_that_was_made_before_layers_were_chosen_stays_what_it_is(method):
    """It kept them evenly, wrote nothing of that into its manifest, and may have it in its recipe."""
    values = {"method": method} | ({} if method == "random" else {"model": "./x"})
    assert "layers_by" not in Student(**values, layers_by="even").identity()
    named = {"layers_by": "block_influence"} if method == "layers" else {}
    today = Student(**values).identity()
    assert {n: v for n, v in today.items() if n == "layers_by"} == named


def test_a_width_that_k_quants_cannot_hold_is_refused_with_those_that_they_can():
    base = "student={method: base, model: ./x, ffn_width: 1000}"
    assert "ffn_width 1000 is not a multiple of 256" in problem(base)
    assert "set 768 or 1024" in problem(base)
