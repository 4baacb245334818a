"""Which row of a log counts, and what is asked again."""

from run_helpers import QUICKSTART

from distill.core.jsonl import RowLog
from distill.recipe import load_recipe
from distill.teachers.log import (
    FIELDS,
    AnswerLog,
    best_rows,
    final_rows,
    read_answers,
    read_log,
    read_rows_of,
)
from distill.teachers.logged_rows import LOG_PROBS, RAW
from distill.teachers.server.budget import Prices


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


def log_of(folder, *rows, num_ids=100):
    with RowLog(folder / "raw") as made:
        for made_row in rows:
            made.append(made_row)
    return AnswerLog(folder, "raw", "answers", Prices(), lambda: num_ids)


def test_of_a_log_only_the_rows_that_are_asked_for_are_read(tmp_path):
    log = log_of(tmp_path, *({**row("stop", key=k, text=k), "seed": 1} for k in "abc"))
    found = read_rows_of(log, ["c", "missing", "a"])
    assert {key: answer["text"] for key, answer in found.items()} == {"c": "c", "a": "a"}


def test_rows_that_are_none_are_set_aside_with_a_line_each(tmp_path):
    """Earlier versions took from a server what it sent; a row may also be another program's."""
    good = {**row("stop"), "seed": 1, LOG_PROBS: "AAAA", RAW: "x", "more": [1]}
    bad = [
        [good],
        "x",
        {},
        *({name: value for name, value in good.items() if name != field} for field in FIELDS),
        *(good | {field: {"a": 1}} for field in FIELDS),
        *(
            good | {"token_ids": ids}
            for ids in ([-1], [1.0], ["1"], [None], [[1]], [True], [10**30])
        ),
        good | {"token_ids": [5, 100]},
    ]
    log = log_of(
        tmp_path, good, *bad, good | {"key": "b", "token_ids": [99]}, good | {"token_ids": []}
    )
    found = read_log(log)
    slim = {name: value for name, value in good.items() if name not in (LOG_PROBS, RAW)}
    assert found.rows == [slim, slim | {"key": "b", "token_ids": [99]}, slim | {"token_ids": []}]
    assert len(found.torn) == 2, "what is no object is no line of ours"
    assert len(found.bad) == len(bad) - 2 and all(len(note) < 200 for note in found.bad)
    assert "token id 100, and the tokenizer has 100 ids" in found.bad[-1]
    assert read_answers(log) == (found.rows, found.torn + found.bad)
    other = AnswerLog(tmp_path, "raw", "answers", Prices(), lambda: None)
    assert len(read_log(other).rows) == 4, "text alone: any id that there is"
