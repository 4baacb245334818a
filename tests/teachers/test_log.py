"""Which row of a log counts, and what is asked again."""

from run_helpers import QUICKSTART

from distill.recipe import load_recipe
from distill.teachers.log import best_rows, final_rows


def row(reason, most=100, key="k", text=""):
    return {
        "key": key,
        "finish_reason": reason,
        "max_new_tokens": most,
        "text": text,
        "token_ids": [1],
    }


def test_a_finished_answer_is_the_best_then_the_longest_cut_then_an_error():
    order = [row("stop", text="a"), row("length", 200), row("length", 100), row("error", 300)]
    for n, best in enumerate(order):
        for other in order[n + 1 :]:
            assert best_rows([best, other]) == best_rows([other, best]) == {"k": best}
    assert best_rows([row("stop", text="a"), row("stop", text="b")])["k"]["text"] == "a", (
        "the first written"
    )
    assert (
        best_rows([row("error"), row("content_filter")])["k"]["finish_reason"] == "content_filter"
    )


def test_an_error_that_was_asked_again_is_over():
    """`retry_errors` pays once for each; and a longer answer that was refused is not asked for in every run."""
    recipe, again = (
        load_recipe(QUICKSTART, ["generate.max_new_tokens=200", f"generate.retry_errors={v}"])
        for v in ("false", "true")
    )
    assert final_rows([row("error"), row("stop")], again)["k"]["finish_reason"] == "stop"
    assert final_rows([row("error", 200)], again) == {} and "k" in final_rows(
        [row("error", 200)], recipe
    )
    assert (
        final_rows([row("length", 100), row("error", 200)], recipe)["k"]["finish_reason"]
        == "length"
    )
    assert final_rows([row("error", 100), row("length", 100)], recipe) == {}, (
        "that was refused at another length"
    )
    assert final_rows([row("length", 100), row("error", 200)], again) == {}
