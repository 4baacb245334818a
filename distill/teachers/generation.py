"""What generate does with one teacher: what it takes, what was asked, and what is kept of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill import chat
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row
from distill.core.processes import Processes
from distill.core.results import GenerateResult, TeacherShare
from distill.data.bad_rows import Left
from distill.data.samples import Prompt, count_by_language
from distill.filters.long_reasoning import long_reasoning_warning
from distill.recipe import Recipe
from distill.teachers.base import Teacher
from distill.teachers.kept import Filtered, kept_and_dropped
from distill.teachers.keys import num_of_other_seeds
from distill.teachers.log import AnswerLogs, best_rows, read_answers
from distill.teachers.requests import Request


@dataclass(frozen=True)
class Generation:
    """What every step of generate needs, for one teacher.

    `recipe`: where there are several, its view of it. `held_out`: the prompts that are evaluated on.
    """

    recipe: Recipe
    teacher: Teacher
    processes: Processes
    stage: Path
    held_out: list[Prompt]

    @property
    def tokenizers(self) -> Tokenizers:
        return self.teacher.tokenizers

    @property
    def logs(self) -> AnswerLogs:
        return self.teacher.logs

    @property
    def name(self) -> str:
        """Return the teacher's name; "" where it is the only one."""
        return self.recipe.route


@dataclass(frozen=True)
class Answered:
    """What a teacher was asked, and what became of its answers."""

    generation: Generation
    requests: list[Request]
    filtered: Filtered


@dataclass(frozen=True)
class SortedOut:
    """What is kept and dropped of a teacher's answers."""

    answered: Answered
    filtered: Filtered
    kept: list[Row]
    dropped: list[Row]
    pass_rates: dict[str, float]
    num_of_other_seeds: int
    num_broken_log_lines: int

    @property
    def num_long_reasoning(self) -> int:
        most = self.answered.generation.recipe.generate.max_reasoning_tokens
        return sum(
            answer.num_reasoning_tokens > most
            for answer, reason in zip(*self.filtered, strict=True)
            if reason is None
        )

    def share(self) -> TeacherShare:
        generation = self.answered.generation
        return TeacherShare(
            name=generation.name,
            model=generation.recipe.teacher.model,
            num_prompts=len({r.prompt.id for r in self.answered.requests}),
            num_asked=len(self.answered.requests),
            num_kept=len(self.kept),
            num_answer_tokens=sum(len(row["answer_ids"]) for row in self.kept),
            retokenized=generation.tokenizers.difference,
        )


def sorted_out(answered: Answered) -> SortedOut:
    from distill.filters import answer_filters

    generation, requests = answered.generation, answered.requests
    recipe, filtered = generation.recipe, answered.filtered
    all_rows, torn = read_answers(generation.logs.answers)
    rows = best_rows(all_rows)
    reasons = answer_filters.choose_shortest(*filtered, recipe.generate.keep_per_prompt)
    filtered = filtered._replace(reasons=reasons)
    kept, dropped = kept_and_dropped(recipe, generation.tokenizers, requests, filtered, rows)
    return SortedOut(
        answered,
        filtered,
        kept,
        dropped,
        answer_filters.pass_rates(*filtered) if recipe.generate.task else {},
        num_of_other_seeds(requests, rows),
        len(torn),
    )


def num_by_reason(dropped: list[Row]) -> Counter[str]:
    return Counter(row["reason"].partition(":")[0] for row in dropped)


def result_of(
    recipe: Recipe,
    written: Sequence[SortedOut],
    kept: list[Row],
    dropped: list[Row],
    left: Left,
) -> GenerateResult:
    """Return what was asked, kept and dropped."""
    first = written[0].answered.generation
    tokenizers, most = first.tokenizers, recipe.generate.max_reasoning_tokens
    requests = [request for one in written for request in one.answered.requests]
    prompts = {r.prompt.id: r.prompt for r in requests}
    tries = Counter(r.prompt.id for r in requests)
    num_refused = sum("key" not in row for row in dropped)
    num_long = sum(one.num_long_reasoning for one in written)
    return GenerateResult(
        num_prompts=len(prompts) + num_refused,
        num_asked=len(requests),
        num_kept=len(kept),
        num_dropped=len(dropped),
        dropped_by_reason=dict(num_by_reason(dropped)),
        kept_by_language=dict(Counter(row["language"] for row in kept)),
        num_held_out=len(first.held_out),
        num_answer_tokens=sum(len(row["answer_ids"]) for row in kept),
        num_broken_log_lines=max(one.num_broken_log_lines for one in written),
        vocab_size=len(tokenizers.student),
        format=chat.fingerprint_of_format(tokenizers.student),
        retokenized=_retokenized(one.answered.generation for one in written),
        num_skipped=dict(left.by_reason),
        prompts_by_language=dict(Counter(p.language for p in prompts.values())),
        by_language=count_by_language(kept, dropped),
        prompts_by_tries=dict(sorted(Counter(tries.values()).items())),
        num_prompts_without_answer=len(prompts.keys() - {row["prompt_id"] for row in kept}),
        prompts_by_source=dict(Counter(p.source for p in prompts.values())),
        num_long_reasoning=num_long,
        seed=recipe.seed,
        warning=long_reasoning_warning(num_long, len(kept), most),
        reading_notes=left.notes,
        precision=_precision(one.answered.generation for one in written),
        teachers=[one.share() for one in written] if first.name else [],
    )


def _precision(generations: Iterable[Generation]) -> str | None:
    """Return how the types of the teachers' weights were chosen, where the machine did."""
    told = [(g.name, g.teacher.type_told) for g in generations if g.teacher.type_told is not None]
    return "; ".join(f"{name}: {text}" if name else text for name, text in told) or None


def _retokenized(generations: Iterable[Generation]) -> str | None:
    """Return why the samples are not in the tokens of their teachers, None where they are."""
    differences = [
        f"{g.name}: {g.tokenizers.difference}" if g.name else g.tokenizers.difference
        for g in generations
        if g.tokenizers.difference is not None
    ]
    return "; ".join(filter(None, differences)) or None
