"""Answers that stay in the log while they are filtered and written."""

import tracemalloc

import pytest
from run_helpers import QUICKSTART

from distill.core.jsonl import RowLog
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.kept import Candidates, candidate, dropped_rows, sample_row
from distill.teachers.keys import num_of_other_seeds
from distill.teachers.log import read_best_rows
from distill.teachers.requests import Request

NUM = 300


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(recipe, tokenizers, requests, rows of the log): answers of 4,000 characters."""
    folder = tmp_path_factory.mktemp("answered")
    recipe = load_recipe(QUICKSTART, [f"run_folder={folder}"])
    teacher = connect(recipe, RunFolder.of(recipe))
    requests = []
    with RowLog(teacher.logs.answers.folder) as log:
        for n in range(NUM):
            prompt = Prompt(({"role": "user", "content": f"What is {n}?"},), "en")
            requests.append(Request(f"{n:032}", prompt, [1, 2, n], 0, n))
            row = {
                "key": f"{n:032}",
                "seed": n % 7,
                "finish_reason": "stop",
                "max_new_tokens": 100,
                "text": f"It is {n}. " * 400,
                "token_ids": [5, n],
            }
            log.append(row)
    return recipe, teacher.tokenizers, requests, read_best_rows(teacher.logs.answers)


def test_an_answer_is_the_same_whenever_it_is_read(answered):
    recipe, tokenizers, requests, rows = answered
    made = [candidate(recipe, request, rows[request.key], tokenizers) for request in requests]
    candidates = Candidates(recipe, requests, rows, tokenizers)
    assert list(candidates) == made and len(candidates) == NUM
    assert list(candidates[7:20:3]) == made[7:20:3] and candidates[-1] == made[-1]
    with pytest.raises(IndexError):
        candidates[NUM]


def test_texts_are_not_held_while_they_are_looked_at_and_written(answered):
    recipe, tokenizers, requests, rows = answered
    candidates = Candidates(recipe, requests, rows, tokenizers)
    reasons = ["loop: again" if n % 2 else None for n in range(NUM)]

    def look() -> int:
        num = sum(len(answer.answer_text) for answer in candidates)
        num += sum(len(row["answer"]) for row in dropped_rows(requests, reasons, rows))
        for number in range(0, NUM, 2):
            request, answer = requests[number], candidates[number]
            num += len(sample_row(recipe, tokenizers, request, answer, rows[request.key])["answer"])
        return num

    look()  # what is made once is there
    tracemalloc.start()
    assert look() > NUM * 8_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200_000, "of 1.2 megabytes"


def test_seeds_are_counted_without_reading_the_answers(answered):
    _, _, requests, rows = answered
    assert num_of_other_seeds(requests, rows) == NUM - 7
    assert rows.head(requests[9].key)["seed"] == 2
