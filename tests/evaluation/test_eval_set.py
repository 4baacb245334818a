"""What the models of a run are evaluated on is the teacher's answers to these prompts, whole, or an error that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from format_helpers import RECIPES, TEACHER

from distill.chat.tokenizers import Tokenizers
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.evaluation.eval_set import eval_sets
from distill.models import load
from distill.recipe import load_recipe

PROMPTS = [Prompt(({"role": "user", "content": text},), "en") for text in ("a", "b", "c")]


def rows() -> list[dict[str, Any]]:
    return [
        {"prompt_id": p.id, "token_ids": [5, 0], "finish_reason": "stop", "stop_ids": [0]}
        for p in PROMPTS
    ]


def read(path: Path, answers: list[dict[str, Any]]) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in answers))
    tokenizer = load.load_tokenizer(str(TEACHER))
    recipe = load_recipe(RECIPES / "quickstart.yaml", [])
    return eval_sets(recipe, PROMPTS, Tokenizers(tokenizer, tokenizer), path, TEACHER)


def test_whole_answers_are_taken(tmp_path: Path) -> None:
    assert len(read(tmp_path / "teacher_answers.jsonl", rows())[0].prompt_ids) == 3


@pytest.mark.parametrize(
    "answers",
    [
        [],
        rows()[:2],
        rows() * 2,
        rows()[::-1],
        [{("token_idz" if key == "token_ids" else key): row[key] for key in row} for row in rows()],
    ],
    ids=["none", "cut", "doubled", "in another order", "a key renamed"],
)
def test_other_answers_are_refused_by_name(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    with pytest.raises(
        DataError, match=r"teacher_answers\.jsonl: .* delete it and run `distill eval"
    ):
        read(tmp_path / "teacher_answers.jsonl", answers)
