"""What is not worth learning: the filters of answers in order, and what follows from the reasons.

To add a filter, write a function `(answer, context) -> str | None` and add it to ANSWER_FILTERS.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from distill.data.translation import wrong_translation
from distill.filters import answer_form, long_reasoning, refusals
from distill.filters.base import Answer, AnswerCheck, AnswerFilter, FilterContext, name_of
from distill.filters.dedup import near_duplicates
from distill.filters.identity import identity
from distill.filters.over_cores import checked
from distill.filters.repetition import loop
from distill.text import language
from distill.text.text import Text


def wrong_language(answer: Answer, context: FilterContext) -> str | None:
    """Return why the answer is not in the prompt's language, or None."""
    return language.wrong_language(answer.text, answer.language, context.languages, answer.prompt)


def wrong_reasoning_language(answer: Answer, context: FilterContext) -> str | None:
    """Return why the reasoning is in neither the prompt's language nor English, or None."""
    if not answer.reasoning:
        return None
    return language.wrong_reasoning_language(
        answer.reasoning_text, answer.language, context.languages, answer.prompt
    )


def is_verifiable(answer: Answer, context: FilterContext) -> bool:
    """Return whether a task, or of a translation its text, checks the answer."""
    return answer.is_translation or (context.grade is not None and answer.verify)


def wrong_answer(answer: Answer, context: FilterContext) -> str | None:
    """Return what the task's verifier says; of a translation, what chrF says.

    None where there is nothing to go by.
    """
    if not is_verifiable(answer, context):
        return None
    if answer.is_translation:
        return wrong_translation(answer.answer_text, str(answer.reference or ""))
    if context.grade is None or context.grade(answer.answer_text, answer.row):
        return None
    return f"not {answer.reference!r}: {answer.answer_text.strip()[-60:]!r}"


def contaminated(answer: Answer, context: FilterContext) -> str | None:
    """Return which held-out prompt the answer copies, or None."""
    return None if context.eval_index is None else context.eval_index.hit(answer.text)


def anywhere(check: Callable[[Text], str | None]) -> AnswerCheck:
    """Make a check of the answer, then of the reasoning, which the student learns too."""

    def check_both(answer: Answer, context: FilterContext) -> str | None:
        detail = check(answer.text)
        if detail is not None or not answer.reasoning:
            return detail
        detail = check(answer.reasoning_text)
        return None if detail is None else f"{detail} (in the reasoning)"

    return check_both


def speaks_of_itself(answer: Answer, context: FilterContext) -> str | None:
    """Return where a teacher, any of several, says who it is, or None."""
    return anywhere(lambda text: identity(text, context.teachers))(answer, context)


COMPARED_AT_ONCE = 2048  # answers
VERIFIER = "wrong_answer"
# Their verifiers have limits by the clock and of processes: many at once would fail right answers
TIMED_TASKS = ("python_tests", "math_answer")
# From cheap to dear; the first reason counts. Answers that get past the VERIFIER count as verified,
# whatever a later filter says.
ANSWER_FILTERS: tuple[AnswerFilter, ...] = (
    AnswerFilter("error", answer_form.refused_by_server),
    AnswerFilter("truncated", answer_form.truncated),
    AnswerFilter("empty", answer_form.empty),
    AnswerFilter("too_short", answer_form.too_short),
    AnswerFilter("too_long", answer_form.too_long),
    AnswerFilter("long_reasoning", long_reasoning.too_much_reasoning),
    AnswerFilter("loop", anywhere(loop)),
    AnswerFilter("wrong_language", wrong_language),
    AnswerFilter("wrong_reasoning_language", wrong_reasoning_language),
    AnswerFilter("refusal", refusals.unwanted_refusal),
    AnswerFilter("no_refusal", refusals.missing_refusal),
    AnswerFilter("identity", speaks_of_itself),
    AnswerFilter("format", answer_form.bad_format),
    AnswerFilter(VERIFIER, wrong_answer),
    AnswerFilter("contaminated", contaminated),
)


def first_reason(answer: Answer, context: FilterContext) -> str | None:
    """Return the first reason to drop the answer, or None.

    Duplicates need the other answers: see filter_answers.
    """
    # a copy, so that the words and sentences that the filters share are forgotten with it: those of
    # 100,000 answers take gigabytes
    answer = replace(answer)
    for answer_filter in ANSWER_FILTERS:
        reason = answer_filter(answer, context)
        if reason is not None:
            return reason
    return None


def filter_answers(
    answers: Sequence[Answer], context: FilterContext, prompt_ids: Sequence[str] | None = None
) -> list[str | None]:
    """Return for each answer the first reason to drop it, or None.

    Of answers to one prompt that repeat each other (Jaccard similarity from
    `generate.near_duplicate` on) the first stays. `prompt_ids`: the answers', where they are known
    without reading them.
    """
    if prompt_ids is None:
        prompt_ids = [answer.prompt_id for answer in answers]
    if context.options.task in TIMED_TASKS:
        reasons = [first_reason(answer, context) for answer in answers]
    else:
        reasons = checked(first_reason, answers, context)
    for compared in _several_to_a_prompt(prompt_ids, reasons):
        originals = near_duplicates(
            [answers[index].answer_text for index in compared],
            context.options.near_duplicate,
            [prompt_ids[index] for index in compared],
        )
        for index, original in zip(compared, originals, strict=True):
            if original is not None:
                reasons[index] = (
                    f"duplicate: repeats answer {compared[original]} to the same prompt"
                )
    return reasons


def _several_to_a_prompt(
    prompt_ids: Sequence[str], reasons: Sequence[str | None]
) -> Iterator[list[int]]:
    """Yield the indices of answers that passed, where others to their prompt did, too.

    All of a prompt's come together, and few prompts at once: only these texts are held.
    """
    of_prompt: dict[str, array[int]] = {}
    for index, reason in enumerate(reasons):
        if reason is None:
            of_prompt.setdefault(prompt_ids[index], array("i")).append(index)
    compared: list[int] = []
    for indices in of_prompt.values():
        if len(indices) > 1:
            compared += indices
        if len(compared) >= COMPARED_AT_ONCE:
            yield compared
            compared = []
    if compared:
        yield compared


def choose_shortest(
    answers: Sequence[Answer], reasons: Sequence[str | None], num_kept: int | None
) -> list[str | None]:
    """Return `reasons`, with one more for good answers beyond the `num_kept` shortest of a prompt.

    The reasoning counts towards the length. None keeps all.
    """
    if num_kept is None:
        return list(reasons)
    chosen = list(reasons)
    num_good: Counter[str] = Counter()
    for index in sorted(range(len(answers)), key=lambda index: _length(answers[index])):
        if chosen[index] is not None:
            continue
        num_good[answers[index].prompt_id] += 1
        if num_good[answers[index].prompt_id] > num_kept:
            chosen[index] = f"not_shortest: {num_kept} good answers to the prompt are shorter"
    return chosen


def _length(answer: Answer) -> int:
    return len(answer.answer_text) + len(answer.reasoning or "")


def pass_rates(answers: Sequence[Answer], reasons: Sequence[str | None]) -> dict[str, float]:
    """Return the share of the answers to each prompt that passed the verifier.

    What comes before the verifier must be passed, too; what comes after it does not count.
    """
    names = [answer_filter.name for answer_filter in ANSWER_FILTERS]
    until_verified = set(names[: names.index(VERIFIER) + 1])
    num_verifiable = Counter(answer.prompt_id for answer in answers if answer.verify)
    num_passed: Counter[str] = Counter()
    for answer, reason in zip(answers, reasons, strict=True):
        if reason is None or name_of(reason) not in until_verified:
            num_passed[answer.prompt_id] += 1
    return {
        prompt_id: round(num_passed[prompt_id] / num, 4)
        for prompt_id, num in num_verifiable.items()
    }
