"""The section `student`: a method has what it needs, and nothing that it has no use for."""

from recipe_helpers import problem


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
    assert "a new one is dense: remove it" in problem("student.num_experts=4")
    assert "set intermediate_size: 512 and remove ffn_width" in problem("student.ffn_width=512")


def test_a_width_that_k_quants_cannot_hold_is_refused_with_those_that_they_can():
    base = "student={method: base, model: ./x, ffn_width: 1000}"
    assert "ffn_width 1000 is not a multiple of 256" in problem(base)
    assert "set 768 or 1024" in problem(base)
