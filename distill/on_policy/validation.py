"""How good the student of a round is: on the prompts that `train` validates on.

They are not those that `evaluate` holds out, so that the choice of a round leaves that exam clean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import chat, tasks
from distill.core.progress import Progress
from distill.core.results import RoundValidation
from distill.data.samples import Prompt, Sample
from distill.data.shares import take_turns
from distill.evaluation.eval_set import EvalSet
from distill.evaluation.figures import figures_of
from distill.evaluation.models import evaluate_transformers
from distill.filters.repetition import loop
from distill.models import find
from distill.recipe import Recipe
from distill.text.text import Text


@dataclass(frozen=True)
class ValidationSet:
    """Prompts with the teacher's answers, in the student's tokens; `graded`: numbers of those that
    the task can check."""

    eval_set: EvalSet
    graded: list[int]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        samples: Sequence[Sample],
        prompts: dict[str, Prompt],
        tokenizer: Any,
        student: Path,
    ) -> "ValidationSet":
        """Return the set of these samples, one of each prompt, evenly over the languages.

        `prompts`: by id. `student`: a folder of it, which says what ends its answers.
        """
        assert recipe.rounds is not None
        one_each = list({sample.prompt_id: sample for sample in samples}.values())
        chosen = take_turns(one_each, lambda s: s.language, recipe.languages)
        chosen = chosen[: recipe.rounds.num_validated]
        answers = [chat.text_of(tokenizer, sample.answer_ids) for sample in chosen]
        without_task = recipe.generate.model_copy(update={"task": None})
        eval_set = EvalSet(
            recipe.model_copy(update={"generate": without_task}),
            [prompts[sample.prompt_id] for sample in chosen],
            [sample.prompt_ids for sample in chosen],
            [sample.answer_ids for sample in chosen],
            [len(text.encode("utf-8", "surrogatepass")) for text in answers],
            tokenizer,
            chat.stop_ids(tokenizer, find.stop_ids_of_files(str(student))),
            chat.answer_marks(tokenizer),
        )
        graded = []
        if recipe.generate.task is not None:
            graded = [i for i, p in enumerate(eval_set.prompts) if _can_be_graded(p)]
        return cls(eval_set, graded)


def _can_be_graded(prompt: Prompt) -> bool:
    return prompt.verify and not prompt.is_translation and prompt.reference is not None


def validate(recipe: Recipe, made: ValidationSet, model: Any, label: str) -> RoundValidation:
    """Return what the student in `model` makes of the set; `label`: what is shown meanwhile."""
    eval_set = made.eval_set
    with Progress(label, len(eval_set.prompts), "answers") as bar:
        answers = evaluate_transformers(eval_set, model, bar)
    figures = figures_of(eval_set, answers)
    examples = figures["examples"]
    grade = tasks.grader(recipe.generate)
    exact_match = None
    if grade is not None and made.graded:
        rights = [
            grade(e["answer"], {"reference": e["reference"], "language": e["language"]})
            for e in (examples[i] for i in made.graded)
        ]
        exact_match = sum(map(bool, rights)) / len(rights)
    num_loops = sum(loop(Text(e["answer"])) is not None for e in examples)
    return RoundValidation(
        num_prompts=len(examples),
        exact_match=exact_match,
        nll_per_byte=figures["nll_per_byte"],
        cut=figures["cut_answers"] / len(examples),
        loops=num_loops / len(examples),
    )
