"""The figures of one model, from what it made of an EvalSet."""

from collections.abc import Sequence
from typing import Any

from distill import chat, tasks
from distill.core.intervals import paired_bootstrap, repeated_difference, wilson
from distill.core.results import Difference
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.filters.refusals import refusal
from distill.text.text import Text

Example = dict[str, Any]


def figures_of(eval_set: EvalSet, made: ModelAnswers) -> dict[str, Any]:
    """Return the figures of one model, and a row an example."""
    grade = tasks.grader(eval_set.recipe.generate)
    examples = [_example(eval_set, made, i, grade) for i in range(len(eval_set.prompts))]
    return figures_of_examples(
        examples,
        runtime=made.runtime,
        unscored=made.unscored or eval_set.unscored,
        num_tokens=sum(len(ids) for ids, _ in made.answers),
        seconds=made.seconds,
        languages=None if grade is None else eval_set.recipe.languages,
    )


def figures_of_examples(
    examples: list[Example],
    *,
    runtime: str,
    unscored: str | None,
    num_tokens: int,
    seconds: float,
    languages: list[str] | None,
) -> dict[str, Any]:
    """Return the figures of these examples, and the rows; `languages` is None where no task checks."""
    figures: dict[str, Any] = {
        "runtime": runtime,
        "nll": _nll_over(examples, "num_tokens", decimals=5),
        "nll_per_byte": _nll_over(examples, "num_bytes", decimals=6),
        "unscored": unscored,
        "refused": sum(refusal(Text(e["answer"]), e["language"]) is not None for e in examples),
        "cut_answers": sum(e["finish_reason"] == "length" for e in examples),
        "generated_tokens": num_tokens,
        "tokens_per_second": round(num_tokens / max(seconds, 1e-9), 1),
        "examples": examples,
    }
    if languages is not None:
        figures |= _exact_match(examples, languages)
    return figures


def _example(
    eval_set: EvalSet, made: ModelAnswers, number: int, grade: tasks.Grade | None
) -> Example:
    prompt, (ids, reason) = eval_set.prompts[number], made.answers[number]
    text = chat.split_thinking(
        chat.text_of(eval_set.tokenizer, ids),
        opened=chat.opens_thinking(eval_set.tokenizer, eval_set.prompt_ids[number]),
        marks=eval_set.marks,
    )[1]
    right = None
    if grade is not None and prompt.verify:
        right = grade(text, {"reference": prompt.reference, "language": prompt.language})
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "language": prompt.language,
        "reference": prompt.reference,
        "answer": text,
        "right": right,
        "finish_reason": reason,
        "nll": made.nll.get(number),
        "num_tokens": len(eval_set.teacher_ids[number] or []),
        "num_bytes": eval_set.num_bytes[number],
    }


def _nll_over(examples: list[Example], size: str, *, decimals: int) -> float | None:
    """Return the nats of all scored answers over their `size`, num_tokens or num_bytes."""
    scored = [e for e in examples if e["nll"] is not None]
    total = sum(e[size] for e in scored)
    return round(sum(e["nll"] for e in scored) / total, decimals) if total else None


def _exact_match(examples: list[Example], languages: list[str]) -> dict[str, Any]:
    """Return the share of right answers, in all and by language, with Wilson's 95 % interval.

    It is over those that are checked; nothing where none is.
    """
    checked = [e for e in examples if e["right"] is not None]
    if not checked:
        return {}
    num_right = sum(bool(e["right"]) for e in checked)
    by_language = {}
    for language in languages:
        rights = [bool(e["right"]) for e in checked if e["language"] == language]
        if rights:
            by_language[language] = sum(rights) / len(rights)
    return {
        "exact_match": num_right / len(checked),
        "interval": wilson(num_right, len(checked)),
        "by_language": by_language,
        "unchecked": len(examples) - len(checked),
    }


def against(
    students: Sequence[dict[str, Any]],
    controls: Sequence[dict[str, Any]],
    seed: int,
    *,
    by_byte: bool = False,
) -> dict[str, Difference]:
    """Return student minus control with 95 % intervals, from the figures of each, one a repeat.

    Exact match (positive is better), where a task checks, and NLL (negative is better): a token and,
    `by_byte`, a byte, where the student was evaluated by a version that counts them.
    """
    pairs = [
        list(zip(student["examples"], control["examples"], strict=True))
        for student, control in zip(students, controls, strict=True)
    ]
    result = {}
    if "exact_match" in students[0]:
        differences = [
            [float(s["right"]) - float(c["right"]) for s, c in row if s["right"] is not None]
            for row in pairs
        ]
        result["exact_match"] = _difference(differences, [1.0] * len(differences[0]), seed)
    scored = [[(s, c) for s, c in row if s["nll"] is not None] for row in pairs]
    differences = [[s["nll"] - c["nll"] for s, c in row] for row in scored]
    sizes = {"nll": "num_tokens"}
    if by_byte and students[0].get("nll_per_byte") is not None:
        sizes["nll_per_byte"] = "num_bytes"
    for measure, size in sizes.items():
        result[measure] = _difference(differences, [float(s[size]) for s, _ in scored[0]], seed)
    return result


def _difference(rows: list[list[float]], weights: list[float], seed: int) -> Difference:
    """Return the mean of paired differences, a row a repeat, a number an example of that weight."""
    if len(rows) == 1:
        found = paired_bootstrap(list(zip(rows[0], weights, strict=True)), seed=seed)
        return Difference(found["difference"], found["low"], found["high"])
    found = repeated_difference(rows, weights, seed=seed)
    by_repeat = [sum(row) / sum(weights) for row in rows]
    return Difference(found["difference"], found["low"], found["high"], by_repeat)
