"""What is learnt of the student's answers: each up to where it goes wrong.

An answer that was cut is learnt, but no end. One that loops is learnt up to where it first repeats
itself. A control token in the middle ends what is learnt: no text after it is an answer. An answer
without text is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill import chat
from distill.data.samples import Sample
from distill.filters.repetition import first_repetition
from distill.on_policy.student_answers import Drawn
from distill.recipe import Recipe
from distill.text.invisible import is_invisible
from distill.text.language import wrong_language
from distill.text.text import Text


@dataclass(frozen=True)
class OwnAnswer:
    """An answer of the student, and what is learnt of it: `sample`, None where that is nothing."""

    drawn: Drawn
    sample: Sample | None
    is_cut: bool
    loops: bool
    is_empty: bool
    other_language: bool

    @property
    def ends(self) -> bool:
        """Return whether the end that the student gave it is learnt, too."""
        return self.sample is not None and self.sample.answer_ids == self.drawn.answer_ids


def own_answers(recipe: Recipe, tokenizer: Any, drawn: Sequence[Drawn]) -> list[OwnAnswer]:
    """Return what is learnt of each answer; `tokenizer`: the student's."""
    marks = chat.answer_marks(tokenizer)
    control = set(chat.dropped_tokens(tokenizer))
    return [_own_answer(recipe, tokenizer, marks, control, answer) for answer in drawn]


def _own_answer(
    recipe: Recipe, tokenizer: Any, marks: tuple[chat.Marks, ...], control: set[int], drawn: Drawn
) -> OwnAnswer:
    is_cut = drawn.finish_reason == "length"
    ids = _before_control(drawn.answer_ids, control, ends=not is_cut)
    written = Text(chat.text_of(tokenizer, ids))
    repeated = first_repetition(written)
    if repeated is not None:
        ids = ids[: num_tokens_before(tokenizer, ids, repeated)]
    opened = chat.opens_thinking(tokenizer, drawn.prompt_ids)
    answer = chat.split_thinking(written.raw, opened=opened, marks=marks)[1]
    is_empty = is_invisible(written.raw)
    prompt = drawn.prompt
    other = None
    if prompt.check_language and not is_empty:
        other = wrong_language(Text(answer), prompt.language, recipe.languages, prompt.text)
    sample = None
    if ids and not is_empty:
        sample = Sample(
            drawn.key,
            prompt.id,
            prompt.text,
            prompt.language,
            prompt.reference,
            answer,
            drawn.prompt_ids,
            ids,
        )
    return OwnAnswer(drawn, sample, is_cut, repeated is not None, is_empty, other is not None)


def _before_control(ids: list[int], control: set[int], *, ends: bool) -> list[int]:
    """Return the ids up to the first control token that is not the answer's end; with that one.

    What the teacher says there is that it does not belong there.
    """
    last = len(ids) - 1 if ends else len(ids)
    for number, token in enumerate(ids[:last]):
        if token in control:
            return ids[: number + 1]
    return ids


def num_tokens_before(tokenizer: Any, ids: Sequence[int], num_characters: int) -> int:
    """Return how many tokens of an answer are whole in the first `num_characters` of its text."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(chat.text_of(tokenizer, ids[:middle])) <= num_characters:
            low = middle
        else:
            high = middle - 1
    return low
