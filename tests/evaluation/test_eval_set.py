"""What the models of a run are evaluated on is the teacher's answers to these prompts, whole, or an error that names the file.

Models of different tokenizers are scored on the same texts.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from families import BY_NAME, FAMILIES, Family, tokenizer_of
from format_helpers import RECIPES, TEACHER

from distill import chat
from distill.chat.tokenizers import Tokenizers
from distill.core.progress import Progress
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.evaluation.eval_set import EvalSet, eval_sets
from distill.evaluation.figures import figures_of
from distill.evaluation.models import evaluate_transformers
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


OWN = [
    f"student={{method: base, model: {TEACHER}}}",
    "capture.signal=none",
    "train.soft_weight=0",
    "train.hard_weight=1",
    "evaluate.max_new_tokens=4",
]


def answer_ids(tokenizer: Any, text: str) -> list[int]:
    end = chat.end_of_turn(tokenizer, chat.stop_ids(tokenizer, None))
    return [*tokenizer(text, add_special_tokens=False).input_ids, end]


def sets_of(
    path: Path, teacher: Any, student: Any, said: list[str], *more: str
) -> tuple[EvalSet, EvalSet]:
    """Return (the students', the teacher's) where the teacher said these texts."""
    stop_ids = chat.stop_ids(teacher, None)
    answers = [
        row | {"token_ids": answer_ids(teacher, text), "stop_ids": stop_ids}
        for row, text in zip(rows(), said, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in answers))
    recipe = load_recipe(RECIPES / "quickstart.yaml", [*OWN, *more])
    pair = Tokenizers(teacher, student, None if student is teacher else "they differ")
    return eval_sets(recipe, PROMPTS, pair, path, TEACHER)


def texts_of(eval_set: EvalSet, *, with_reasoning: bool) -> list[str]:
    """Return what the scored ids say, as whoever reads the answers reads it."""
    texts = []
    for prompt, ids in zip(eval_set.prompt_ids, eval_set.teacher_ids, strict=True):
        assert ids is not None
        reasoning, answer, is_whole = chat.split_thinking(
            chat.text_of(eval_set.tokenizer, ids),
            opened=chat.opens_thinking(eval_set.tokenizer, prompt),
            marks=eval_set.marks,
        )
        assert is_whole
        texts.append((reasoning or "") + answer if with_reasoning else answer)
    return texts


@pytest.mark.parametrize("reasoning", ["keep", "drop"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_teacher_and_student_are_scored_on_the_same_text(
    family: Family, reasoning: str, tmp_path: Path
) -> None:
    teacher, student = tokenizer_of(family), load.load_tokenizer(str(TEACHER))
    said = [family.said, family.said.replace("7", "saba, 七"), family.said.replace("7", "सात\n\n7")]
    students, own = sets_of(
        tmp_path / "a.jsonl", teacher, student, said, f"generate.reasoning={reasoning}"
    )
    kept = family.reasoning if reasoning == "keep" and family.reasoning else ""
    expected = [kept + answer for answer in ("7", "saba, 七", "सात\n\n7")]
    assert texts_of(students, with_reasoning=reasoning == "keep") == expected
    assert students.num_bytes == [len(text.encode()) for text in expected]
    opens = chat.opens_thinking(teacher, own.prompt_ids[0])
    if own.unscored is None:
        assert texts_of(own, with_reasoning=reasoning == "keep") == expected
        assert own.num_bytes == students.num_bytes and not (opens and reasoning == "drop")
    else:
        assert reasoning == "drop" and own.scored() == [] and own.num_bytes == [0, 0, 0]
        assert opens and "opens the reasoning" in own.unscored


def test_a_teacher_is_scored_on_all_that_its_students_are_or_on_nothing(tmp_path: Path) -> None:
    """Its template writes another prompt before an answer, so one without its reasoning cannot be told from it."""
    teacher, student = tokenizer_of(BY_NAME["qwen3"]), load.load_tokenizer(str(TEACHER))
    teacher.chat_template = teacher.chat_template.replace("<|im_start|>assistant", "<|im_start|>ai")
    said, drop = ["7", "<think>\n3 + 4\n</think>\n\n7", "7"], "generate.reasoning=drop"
    students, own = sets_of(tmp_path / "a.jsonl", teacher, student, said, drop)
    assert students.scored() == [0, 1, 2] and students.num_bytes == [1, 1, 1]
    assert own.scored() == [] and own.num_bytes == [0, 0, 0]
    assert own.unscored is not None and "writes another prompt before an answer" in own.unscored
    own = sets_of(tmp_path / "a.jsonl", teacher, student, ["7"] * 3, drop)[1]
    assert own.scored() == [0, 1, 2] and own.unscored is None


def test_a_text_without_end_is_scored_for_nobody(tmp_path: Path) -> None:
    teacher, student = load.load_tokenizer(str(TEACHER)), tokenizer_of(BY_NAME["qwen3"])
    path = tmp_path / "a.jsonl"
    sets_of(path, teacher, student, ["a", "b", "c"])
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    answers[0]["finish_reason"] = "length"
    answers[1]["token_ids"] = answers[1]["token_ids"][-1:]  # the end alone
    path.write_text("".join(json.dumps(row) + "\n" for row in answers))
    recipe = load_recipe(RECIPES / "quickstart.yaml", OWN)
    pair = Tokenizers(teacher, student, "they differ")
    for eval_set in eval_sets(recipe, PROMPTS, pair, path, TEACHER):
        assert eval_set.scored() == [2] and eval_set.num_bytes == [0, 0, 1]


def with_fewer_merges(tokenizer: Any, share: float) -> Any:
    """Return the tokenizer with that share of its merges: the same ids, of which text needs more."""
    fewer = load.load_tokenizer(str(TEACHER))
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = merges[: int(share * len(merges))]
    fewer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(parts))
    return fewer


def test_one_model_through_a_tokenizer_and_a_part_of_it(tmp_path: Path) -> None:
    """The model knows the whole one's tokens: fewer merges make more tokens, and never a better figure a byte."""
    whole = load.load_tokenizer(str(TEACHER))
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    said = ["12 + 30 = 42 shillings", "She has 7 goats left.", "Jumla ni shilingi 350."]
    found = []
    for share in (0.9, 0.5, 0.0):
        part = with_fewer_merges(whole, share)
        sets = sets_of(tmp_path / "a.jsonl", whole, part, said)
        with Progress("evaluate", 6, "answers", shown=False) as bar:
            found.append([figures_of(s, evaluate_transformers(s, model, bar)) for s in sets])
    teachers = {figures["nll_per_byte"] for _, figures in found}
    assert len(teachers) == 1, "the teacher's own figure does not depend on the student's tokenizer"
    tokens = [sum(e["num_tokens"] for e in figures["examples"]) for figures, _ in found]
    num_bytes = sum(len(text.encode()) for text in said)
    assert tokens == sorted(tokens) and tokens[-1] == num_bytes + 3, "at last a token a byte"
    a_byte = [teachers.pop(), *(figures["nll_per_byte"] for figures, _ in found)]
    assert a_byte == sorted(a_byte) and 0 < a_byte[0] < a_byte[-1] < 20
    for figures, tokens_here in zip((f for f, _ in found), tokens, strict=True):
        assert figures["nll_per_byte"] * num_bytes == pytest.approx(
            figures["nll"] * tokens_here, rel=1e-3
        )


def test_a_tokenizer_with_tokens_that_no_text_needs_changes_no_figure(tmp_path: Path) -> None:
    whole, more = (load.load_tokenizer(str(TEACHER)) for _ in range(2))
    more.add_tokens(["zzqq-never", "qqzz-never"])
    assert len(more) == len(whole) + 2
    said = ["12 + 30 = 42", "7 goats", "Jumla ni 350."]
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    with Progress("evaluate", 6, "answers", shown=False) as bar:
        student, teacher = (
            figures_of(eval_set, evaluate_transformers(eval_set, model, bar))
            for eval_set in sets_of(tmp_path / "a.jsonl", whole, more, said)
        )
    assert student["nll_per_byte"] == pytest.approx(teacher["nll_per_byte"], rel=1e-4)
    assert student["nll"] == pytest.approx(teacher["nll"], rel=1e-4)
