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
