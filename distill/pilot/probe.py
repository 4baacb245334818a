"""probe: before the nights and the money, ask the teacher a few prompts in each language: is it fit to teach it?

generate/probe.json     the verdicts, beside which prompts were asked (first_answers.py)
"""

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from distill import generate, tasks
from distill.core.intervals import percent, wilson
from distill.core.processes import Processes
from distill.data.samples import Prompt
from distill.filters.answer_filters import wrong_answer, wrong_language
from distill.filters.base import Answer, FilterContext
from distill.filters.long_reasoning import long_reasoning_ahead
from distill.pilot import pilot_sample
from distill.pilot.pilot_sample import FirstAnswers
from distill.recipe import Recipe
from distill.teachers.log import best_rows, read_answers

NUM_PROMPTS = 200  # a share near one half is then known to 7 points
# Our judgement: below half, more is thrown away than kept; one answer in ten in another language teaches to mix them.
LEAST_KEPT, LEAST_IN_LANGUAGE = 0.5, 0.9
MANY_CUT = 0.2


@dataclass(frozen=True)
class Verdict:
    """What became of the answers in one language. Counts, of `num` answers; `in_language` is of the `num_ended` that have
    an end and a text; `verified` is None where nothing verifies them."""

    language: str
    num: int
    num_kept: int
    num_cut: int
    num_ended: int
    num_in_language: int
    num_verified: int | None
    reasons: dict[str, int]

    @property
    def word(self) -> str:
        """fit, unfit, or unsure: where an interval holds its threshold, more prompts must tell."""
        kept, language = (
            wilson(self.num_kept, self.num),
            wilson(self.num_in_language, self.num_ended),
        )
        if kept[1] < LEAST_KEPT or language[1] < LEAST_IN_LANGUAGE:
            return "unfit"
        return "fit" if kept[0] >= LEAST_KEPT and language[0] >= LEAST_IN_LANGUAGE else "unsure"

    def sentence(self, recipe: Recipe) -> str:
        if not self.num:
            return "unsure: there is no prompt in this language to ask"
        found = []
        if wilson(self.num_kept, self.num)[0] < LEAST_KEPT:
            found.append(
                f"{percent(self.num_kept, self.num)} of the answers are kept, {LEAST_KEPT:.0%} are needed"
            )
        if wilson(self.num_in_language, self.num_ended)[0] < LEAST_IN_LANGUAGE:
            found.append(
                f"{percent(self.num_in_language, self.num_ended)} are in the language, {LEAST_IN_LANGUAGE:.0%} are needed"
            )
        if self.num_cut > MANY_CUT * self.num:
            found.append(
                f"{self.num_cut / self.num:.0%} were cut: raise generate.max_new_tokens (now {recipe.generate.max_new_tokens})"
            )
        if self.word == "unfit":
            found.append("take another teacher for this language, or look at the dropped answers")
        elif self.word == "unsure":
            found.append("ask more prompts (--num) to be sure")
        return f"{self.word}: {'; '.join(found)}" if found else self.word


def run(recipe: Recipe, *, num: int = NUM_PROMPTS) -> list[Verdict]:
    """Ask up to `num` prompts of each language and judge the answers; empty on all processes but the first."""
    with pilot_sample.working(recipe) as (stage, team):
        return _probe(recipe, stage, num, team)


def _probe(recipe: Recipe, stage: Path, num: int, team: Processes) -> list[Verdict]:
    first = FirstAnswers.of(recipe, stage, team)
    requests = first.ask(choose(first.prompts, num))
    if not team.is_main:
        return []
    rows = best_rows(read_answers(stage / "raw")[0])
    candidates, reasons = generate.judge_answers(
        recipe, requests, rows, first.held_out, first.tokenizers
    )
    verdicts = [
        judge(
            recipe,
            language,
            [
                (c, why)
                for c, why in zip(candidates, reasons, strict=True)
                if c.language == language
            ],
        )
        for language in recipe.languages
    ]
    num_wanted = len(first.prompts) * recipe.generate.samples_per_prompt
    if warning := long_reasoning_ahead(
        candidates, reasons, num_wanted, recipe.generate.max_reasoning_tokens
    ):
        print(f"probe: warning: {warning}", file=sys.stderr)
    said = {v.language: {**asdict(v), "verdict": v.sentence(recipe)} for v in verdicts}
    pilot_sample.write(stage, pilot_sample.read(stage) | {"verdicts": said})
    return verdicts


def choose(prompts: list[Prompt], num: int) -> list[Prompt]:
    """At most `num` of each language: any ones, but always the same; in the order in which they are given."""
    ids = {p.id for mine in pilot_sample.by_lot(prompts).values() for p in mine[:num]}
    return [p for p in prompts if p.id in ids]


def judge(recipe: Recipe, language: str, answers: list[tuple[Answer, str | None]]) -> Verdict:
    """The verdict on the answers in one language, each with the reason why it is dropped."""
    grade = tasks.grader(recipe.generate)
    context = FilterContext(recipe.generate, recipe.languages, grade)
    checkable = grade is not None or any(c.is_translation for c, _ in answers)
    ended = [c for c, _ in answers if c.finish_reason == "stop" and c.answer_text.strip()]
    return Verdict(
        language=language,
        num=len(answers),
        num_kept=sum(why is None for _, why in answers),
        num_cut=sum(c.finish_reason == "length" for c, _ in answers),
        num_ended=len(ended),
        num_in_language=sum(wrong_language(c, context) is None for c in ended),
        num_verified=sum(wrong_answer(c, context) is None for c in ended) if checkable else None,
        reasons=dict(
            Counter(why.partition(":")[0] for _, why in answers if why is not None).most_common()
        ),
    )


def text(recipe: Recipe, verdicts: list[Verdict]) -> str:
    """What `distill probe` prints: a line of figures and a verdict for each language."""
    lines = [f"teacher {recipe.teacher.model}; shares with 95 % intervals (Wilson)", ""]
    for v in verdicts:
        verified = (
            "not verified"
            if v.num_verified is None
            else f"{percent(v.num_verified, v.num)} verified"
        )
        dropped = ", ".join(f"{name} {count}" for name, count in v.reasons.items()) or "none"
        lines += [
            f"{v.language}: {v.num} answers: {percent(v.num_kept, v.num)} kept, {percent(v.num_in_language, v.num_ended)} in the language, "
            f"{verified}, {percent(v.num_cut, v.num)} cut",
            f"    dropped: {dropped}",
            f"    {v.sentence(recipe)}",
        ]
    return "\n".join(lines)
