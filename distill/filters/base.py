"""What a filter is: a function that returns None, or the detail of why an answer or a prompt is dropped.

The reason is then `name: detail`; the name is stable and is what gets counted. Filters read the decoded
text only, so a retuned filter costs no teacher call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill.data.samples import Prompt
from distill.filters.contamination import EvalIndex
from distill.recipe.sections import Generate
from distill.tasks import Grade
from distill.text.text import Text


@dataclass(frozen=True)
class Answer:
    """An answer to be filtered, with what is needed to judge it.

    `is_given`: it was in the prompt's row (`answers: given`), the teacher did not write it.
    """

    prompt: str
    prompt_id: str
    answer_text: str
    reasoning: str | None
    finish_reason: str
    language: str
    reference: str | float | None = None
    is_translation: bool = False
    num_reasoning_tokens: int = 0
    verify: bool = True
    refusals: str = "drop"
    is_given: bool = False

    @cached_property
    def text(self) -> Text:
        """Return the answer, for filters that need its words or sentences."""
        return Text(self.answer_text)

    @cached_property
    def reasoning_text(self) -> Text:
        """Return the reasoning, likewise; an empty text where there is none."""
        return Text(self.reasoning or "")

    @property
    def row(self) -> dict[str, Any]:
        """Return what a task's `grade(answer, row)` may look at."""
        return {"prompt": self.prompt, "language": self.language, "reference": self.reference}


FindMark = Callable[[Sequence[Mapping[str, str]]], str | None]


@dataclass(frozen=True)
class FilterContext:
    """What filters may look at beside the answer or the prompt.

    `options`: the recipe's `generate`. `languages`: the recipe's. `grade`: the task's verifier.
    `eval_index`: the prompts that are held out. `find_mark`: returns what of a conversation would be
    read as a control token of a model or a mark of its template, or None. `teachers`: what the
    teachers may call themselves, where there are several.
    """

    options: Generate
    languages: Sequence[str]
    grade: Grade | None = None
    eval_index: EvalIndex | None = None
    find_mark: FindMark | None = None
    teachers: tuple[str, ...] = ()


AnswerCheck = Callable[[Answer, FilterContext], str | None]


@dataclass(frozen=True)
class AnswerFilter:
    """A filter of answers: `check` returns the detail of why one is dropped, or None."""

    name: str
    check: AnswerCheck

    def __call__(self, answer: Answer, context: FilterContext) -> str | None:
        """Return the reason, `name: detail`, or None."""
        return named(self.name, self.check(answer, context))


# (all prompts, indices of those that no filter has dropped yet, context) -> (index, detail) of each
# of these that is dropped
PromptsCheck = Callable[[Sequence[Prompt], Sequence[int], FilterContext], Iterable[tuple[int, str]]]


@dataclass(frozen=True)
class PromptFilter:
    """A filter of prompts: `check` sees them all, for some repeat each other; see `each`."""

    name: str
    check: PromptsCheck


def each(check: Callable[[Prompt, FilterContext], str | None]) -> PromptsCheck:
    """Make a check of all prompts from one that looks at a single prompt."""

    def check_each(
        prompts: Sequence[Prompt], left: Sequence[int], context: FilterContext
    ) -> Iterator[tuple[int, str]]:
        for index in left:
            detail = check(prompts[index], context)
            if detail is not None:
                yield index, detail

    return check_each


def named(name: str, detail: str | None) -> str | None:
    """Return the reason `name: detail`, or None where there is no detail."""
    return None if detail is None else f"{name}: {detail}"


def name_of(reason: str) -> str:
    """Return the name of a reason, which is what gets counted."""
    return reason.partition(":")[0]
