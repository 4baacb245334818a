"""What generate does with one teacher: what it takes, what was asked, and what is kept of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
from distill.teachers.kept import Filtered, dropped_rows, sample_row
from distill.teachers.keys import num_of_other_seeds
from distill.teachers.log import AnswerLogs, best_rows, read_answers
from distill.teachers.logged_rows import ChosenRows
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
    """What a teacher was asked, and what became of its answers, and of those that were given."""

    generation: Generation
    requests: list[Request]
    filtered: Filtered

    @property
    def asked(self) -> list[Request]:
        """Return the requests that were not answered already (`answers: given`)."""
        return [request for request in self.requests if not request.prompt.is_given]


@dataclass
class SortedOut:
    """What is kept and dropped of a teacher's answers.

    The texts stay in the log: `kept` and `dropped` read them one by one. `reasons`: why each answer
    is dropped, None for those that are kept. `num_answer_tokens` and `num_long_reasoning` of what is
    kept are counted by `kept`.
    """

    answered: Answered
    reasons: Sequence[str | None]
    rows: ChosenRows
    pass_rates: dict[str, float]
    num_of_other_seeds: int
    num_broken_log_lines: int
    num_answer_tokens: int = 0
    num_long_reasoning: int = 0

    def kept(self) -> Iterator[Row]:
        """Yield the samples, as the student learns them."""
        generation, most = self.answered.generation, self._most_reasoning_tokens
        self.num_answer_tokens = self.num_long_reasoning = 0
        answers = self.answered.filtered.answers
        for number, request in enumerate(self.answered.requests):
            if self.reasons[number] is not None:
                continue
            answer, row = answers[number], self.rows[request.key]
            made = sample_row(generation.recipe, generation.tokenizers, request, answer, row)
            self.num_answer_tokens += len(made["answer_ids"])
            self.num_long_reasoning += answer.num_reasoning_tokens > most
            yield made

    def dropped(self) -> Iterator[Row]:
        """Yield the other answers, with their reasons."""
        return dropped_rows(self.answered.requests, self.reasons, self.rows)

    @property
    def kept_requests(self) -> Iterator[Request]:
        """Yield what was asked for each sample."""
        for request, reason in zip(self.answered.requests, self.reasons, strict=True):
            if reason is None:
                yield request

    @property
    def told(self) -> Iterator[Row]:
        """Yield language and reason of each answer that is dropped."""
        for request, reason in zip(self.answered.requests, self.reasons, strict=True):
            if reason is not None:
                yield {"language": request.prompt.language, "reason": reason}

    @property
    def _most_reasoning_tokens(self) -> int:
        return self.answered.generation.recipe.generate.max_reasoning_tokens

    def share(self) -> TeacherShare:
        generation, asked = self.answered.generation, self.answered.asked
        num_kept = sum(reason is None for reason in self.reasons)
        num_given_kept = sum(request.prompt.is_given for request in self.kept_requests)
        return TeacherShare(
            name=generation.name,
            model=generation.recipe.teacher.model,
            num_prompts=len({request.prompt.id for request in asked}),
            num_asked=len(asked),
            num_kept=num_kept - num_given_kept,
            num_answer_tokens=self.num_answer_tokens,
            retokenized=generation.tokenizers.difference,
            num_given=len(self.answered.requests) - len(asked),
            num_given_kept=num_given_kept,
        )


def sorted_out(answered: Answered) -> SortedOut:
    from distill.filters import answer_filters

    generation, requests = answered.generation, answered.requests
    recipe, answers = generation.recipe, answered.filtered.answers
    all_rows, torn = read_answers(generation.logs.answers)
    rows = best_rows(all_rows)
    reasons = answer_filters.choose_shortest(*answered.filtered, recipe.generate.keep_per_prompt)
    return SortedOut(
        answered,
        reasons,
        rows,
        answer_filters.pass_rates(answers, reasons) if recipe.generate.task else {},
        num_of_other_seeds(requests, rows),
        len(torn),
    )


def told_of(written: Sequence[SortedOut], refused: Sequence[tuple[Prompt, str]]) -> list[Row]:
    """Return language and reason of all that is dropped: prompts first, then answers."""
    of_prompts = [{"language": p.language, "reason": reason} for p, reason in refused]
    return [*of_prompts, *(row for one in written for row in one.told)]


def prompt_rows(requests: list[Request], written: Sequence[SortedOut]) -> Iterator[Row]:
    """Yield the prompts that were asked, with the share of their draws that were verified."""
    rates = {name: rate for one in written for name, rate in one.pass_rates.items()}
    prompts = {request.prompt.id: request.prompt for request in requests}
    for prompt_id, prompt in prompts.items():
        rate = {"pass_rate": rates[prompt_id]} if prompt_id in rates else {}
        yield prompt.row() | rate


def all_dropped_rows(
    refused: list[tuple[Prompt, str]], written: Sequence[SortedOut]
) -> Iterator[Row]:
    """Yield what is dropped: prompts that were not asked, then answers."""
    for prompt, reason in refused:
        yield {"prompt": prompt.text, "language": prompt.language, "reason": reason}
    for one in written:
        yield from one.dropped()


def num_by_reason(dropped: Iterable[Row]) -> Counter[str]:
    """Count what is dropped by the names of the reasons."""
    return Counter(row["reason"].partition(":")[0] for row in dropped)


def result_of(
    recipe: Recipe,
    written: Sequence[SortedOut],
    refused: Sequence[tuple[Prompt, str]],
    left: Left,
) -> GenerateResult:
    """Return what was asked, kept and dropped, after all of it was written.

    `refused`: prompts that were not asked, with their reasons.
    """
    first = written[0].answered.generation
    tokenizers, most = first.tokenizers, recipe.generate.max_reasoning_tokens
    requests = [request for one in written for request in one.answered.requests]
    asked = [request for one in written for request in one.answered.asked]
    prompts = {r.prompt.id: r.prompt for r in requests}
    tries = Counter(r.prompt.id for r in asked)
    kept = [request.prompt for one in written for request in one.kept_requests]
    dropped = told_of(written, refused)
    num_long = sum(one.num_long_reasoning for one in written)
    return GenerateResult(
        num_prompts=len(prompts) + len(refused),
        num_asked=len(asked),
        num_given=len(requests) - len(asked),
        num_given_kept=sum(prompt.is_given for prompt in kept),
        num_kept=len(kept),
        num_dropped=len(dropped),
        dropped_by_reason=dict(num_by_reason(dropped)),
        kept_by_language=dict(Counter(prompt.language for prompt in kept)),
        num_held_out=len(first.held_out),
        num_answer_tokens=sum(one.num_answer_tokens for one in written),
        num_broken_log_lines=max(one.num_broken_log_lines for one in written),
        vocab_size=len(tokenizers.student),
        format=chat.fingerprint_of_format(tokenizers.student),
        retokenized=_retokenized(one.answered.generation for one in written),
        num_skipped=dict(left.by_reason),
        prompts_by_language=dict(Counter(p.language for p in prompts.values())),
        by_language=count_by_language(({"language": p.language} for p in kept), dropped),
        prompts_by_tries=dict(sorted(Counter(tries.values()).items())),
        num_prompts_without_answer=len(prompts.keys() - {prompt.id for prompt in kept}),
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
