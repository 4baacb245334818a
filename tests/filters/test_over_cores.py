"""Checks of many texts in several processes: the same as in one."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distill.errors import DataError, MissingError
from distill.filters import over_cores
from distill.filters.answer_filters import filter_answers, first_reason
from distill.filters.base import Answer, FilterContext
from distill.filters.contamination import EvalIndex
from distill.filters.over_cores import checked
from distill.recipe.sections import Generate
from distill.tasks import grader

OPTIONS = Generate.model_validate({"prompts": "p.jsonl", "task": "final_number"})
EVAL_ITEM = "A farmer in the valley keeps 31 goats and 14 sheep, and every spring half have young."
CONTEXT = FilterContext(
    OPTIONS, ["en"], grader(OPTIONS), EvalIndex([EVAL_ITEM]), find_mark=lambda messages: None
)
TEXTS = [
    "She has {} mangoes in all.",
    "",
    "她一共有 {} 个芒果，每个袋子里都有十二个。",
    EVAL_ITEM + " {}",
]


@pytest.fixture
def on_three_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the checks of this file
    monkeypatch.setattr(over_cores, "LEAST", 10)
    monkeypatch.setattr(over_cores, "AT_ONCE", 7)


def answers(num: int) -> list[Answer]:
    return [
        Answer("How many?", str(n // 2), TEXTS[n % 4].format(n), None, "stop", "en", str(n - n % 3))
        for n in range(num)
    ]


def goes_wrong(number: int, context: FilterContext) -> str | None:
    if number == 25:
        raise MissingError("math-verify is not installed")
    return None


def ends(number: int, context: FilterContext) -> str | None:
    os._exit(9)


def slowly(number: int, context: FilterContext) -> str | None:
    """Return the number and the process: the first ones come last."""
    time.sleep(0.2 if number == 0 else 0.0)
    return f"{number} {os.getpid()}"


def test_answers_are_filtered_over_the_cores_as_in_one_process(on_three_cores, monkeypatch):
    found = filter_answers(answers(100), CONTEXT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found == filter_answers(answers(100), CONTEXT)
    assert {reason and reason.partition(":")[0] for reason in found} >= {
        None,
        "empty",
        "wrong_language",
        "wrong_answer",
    }


def test_results_keep_the_order_of_the_items(on_three_cores):
    told = [result.split() for result in checked(slowly, range(50), CONTEXT)]
    assert [int(number) for number, _ in told] == list(range(50))
    assert 2 <= len({process for _, process in told}) <= 3
    assert str(os.getpid()) not in {process for _, process in told}


def test_few_items_are_checked_in_this_process():
    told = checked(slowly, range(9), CONTEXT)
    assert {result.split()[1] for result in told} == {str(os.getpid())}


def test_what_a_person_can_mend_is_told_as_from_one_process(on_three_cores):
    with pytest.raises(MissingError, match="math-verify is not installed"):
        checked(goes_wrong, range(50), CONTEXT)


def test_a_process_that_ends_is_told_with_the_way_out(on_three_cores, monkeypatch):
    with pytest.raises(DataError, match=r"has ended: .* OMP_NUM_THREADS=1"):
        checked(ends, range(50), CONTEXT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert checked(first_reason, answers(50), CONTEXT)[1] == "empty: no answer"


@pytest.mark.parametrize("task", ["python_tests", "math_answer"])
def test_verifiers_with_limits_by_the_clock_run_one_at_a_time(task, on_three_cores, monkeypatch):
    monkeypatch.setattr(over_cores, "_start", lambda _: pytest.fail("a process was started"))
    timed = replace(CONTEXT, options=OPTIONS.model_copy(update={"task": task}))
    assert filter_answers(answers(50), timed)[1] == "empty: no answer"


def test_what_takes_long_is_shown_and_what_does_not_is_not(on_three_cores, monkeypatch, capsys):
    checked(slowly, range(70), CONTEXT)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("distill.core.progress.LINE_SECONDS", 0.0)
    for cores in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        checked(slowly, range(70), CONTEXT)
        lines = capsys.readouterr().err.splitlines()
        assert "  filters: 7/70 texts, " in lines[0] and "  filters: 70 texts in " in lines[-1]
