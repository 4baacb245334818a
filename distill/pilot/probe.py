"""probe: ask the teacher a few prompts in each language before all others: is it fit to teach it?

    generate/probe.json     the verdicts, beside which prompts were asked (pilot_sample.py)

That is known before the nights and the money are spent.
"""

import sys
from collections import Counter
from dataclasses import asdict, dataclass

from distill import tasks
from distill.core.intervals import percent, wilson
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.filters.answer_filters import is_verifiable, wrong_answer, wrong_language
from distill.filters.base import Answer, FilterContext
from distill.filters.long_reasoning import long_reasoning_ahead
from distill.pilot import pilot_sample
from distill.pilot.pilot_sample import PilotSample
from distill.recipe import Recipe

NUM_PROMPTS = 200  # a share near one half is then known to 7 points
# Our judgement: below half, more is thrown away than kept; one answer in ten in another language
# teaches to mix them.
LEAST_KEPT, LEAST_IN_LANGUAGE = 0.5, 0.9
MANY_CUT = 0.2


@dataclass(frozen=True)
class Verdict:
    """What became of the answers in one language.

    Counts, of `num` answers; `num_in_language` is of the `num_ended` that have an end and a text,
    `num_verified` of the `num_verifiable` that a task or their translation checks.
    """

    language: str
    num: int
    num_kept: int
    num_cut: int
    num_ended: int
    num_in_language: int
    num_verifiable: int
    num_verified: int
    reasons: dict[str, int]

    @property
    def word(self) -> str:
        """Return fit, unfit, or unsure: an interval holds its threshold, more prompts must tell."""
        kept = wilson(self.num_kept, self.num)
        language = wilson(self.num_in_language, self.num_ended)
        if kept[1] < LEAST_KEPT or language[1] < LEAST_IN_LANGUAGE:
            return "unfit"
        if kept[0] >= LEAST_KEPT and language[0] >= LEAST_IN_LANGUAGE:
            return "fit"
        return "unsure"

    def sentence(self, recipe: Recipe) -> str:
        """Return the word, what speaks against `fit`, and what to do."""
        if not self.num:
            return "unsure: there is no prompt in this language to ask"
        notes = []
        if wilson(self.num_kept, self.num)[0] < LEAST_KEPT:
            share = percent(self.num_kept, self.num)
            notes.append(f"{share} of the answers are kept, {LEAST_KEPT:.0%} are needed")
        if wilson(self.num_in_language, self.num_ended)[0] < LEAST_IN_LANGUAGE:
            share = percent(self.num_in_language, self.num_ended)
            notes.append(f"{share} are in the language, {LEAST_IN_LANGUAGE:.0%} are needed")
        if self.num_cut > MANY_CUT * self.num:
            notes.append(
                f"{self.num_cut / self.num:.0%} were cut: raise generate.max_new_tokens "
                f"(now {recipe.generate.max_new_tokens})"
            )
        if self.word == "unfit":
            notes.append("take another teacher for this language, or look at the dropped answers")
        elif self.word == "unsure":
            notes.append("ask more prompts (--num) to be sure")
        return f"{self.word}: {'; '.join(notes)}" if notes else self.word


def run(recipe: Recipe, *, num: int = NUM_PROMPTS) -> list[Verdict]:
    """Ask up to `num` prompts of each language and tell what became of the answers.

    Returns nothing on all processes but the first.
    """
    with pilot_sample.working(recipe) as (folder, processes):
        return probe(recipe, folder, num, processes)


def probe(recipe: Recipe, folder: RunFolder, num: int, processes: Processes) -> list[Verdict]:
    """Do the same where the run folder is ours."""
    samples = PilotSample.of(recipe, folder, processes)
    requests = [sample.ask(choose(sample.prompts, num)) for sample in samples]
    if not processes.is_main:
        return []
    filtered = [sample.filter(own) for sample, own in zip(samples, requests, strict=True)]
    answers = [answer for own in filtered for answer in own.answers]
    reasons = [reason for own in filtered for reason in own.reasons]
    pairs = list(zip(answers, reasons, strict=True))
    verdicts = [
        verdict_on(recipe, language, [pair for pair in pairs if pair[0].language == language])
        for language in recipe.languages
    ]
    num_prompts = sum(len(sample.prompts) for sample in samples)
    num_wanted = num_prompts * recipe.generate.samples_per_prompt
    warning = long_reasoning_ahead(
        answers, reasons, num_wanted, recipe.generate.max_reasoning_tokens
    )
    if warning:
        print(f"probe: warning: {warning}", file=sys.stderr)
    rows = {v.language: {**asdict(v), "verdict": v.sentence(recipe)} for v in verdicts}
    stage = samples[0].stage
    pilot_sample.write(stage, pilot_sample.read(stage) | {"verdicts": rows})
    return verdicts


def choose(prompts: list[Prompt], num: int) -> list[Prompt]:
    """Return at most `num` of each language: any ones, but always the same; in the given order."""
    by_language = pilot_sample.in_random_order(prompts)
    ids = {prompt.id for of_language in by_language.values() for prompt in of_language[:num]}
    return [prompt for prompt in prompts if prompt.id in ids]


def verdict_on(recipe: Recipe, language: str, answers: list[tuple[Answer, str | None]]) -> Verdict:
    """Return the verdict on the answers in one language, each with the reason why it is dropped."""
    context = FilterContext(recipe.generate, recipe.languages, tasks.grader(recipe.generate))
    ended = [c for c, _ in answers if c.finish_reason == "stop" and c.answer_text.strip()]
    return Verdict(
        language=language,
        num=len(answers),
        num_kept=sum(why is None for _, why in answers),
        num_cut=sum(c.finish_reason == "length" for c, _ in answers),
        num_ended=len(ended),
        num_in_language=sum(wrong_language(c, context) is None for c in ended),
        num_verifiable=sum(is_verifiable(c, context) for c, _ in answers),
        num_verified=sum(
            is_verifiable(c, context) and wrong_answer(c, context) is None for c in ended
        ),
        reasons=dict(
            Counter(why.partition(":")[0] for _, why in answers if why is not None).most_common()
        ),
    )


def text(recipe: Recipe, verdicts: list[Verdict]) -> str:
    """Return what `distill probe` prints: a line of figures and a verdict for each language."""
    lines = [f"teacher {recipe.teachers_named}; shares with 95 % intervals (Wilson)", ""]
    for v in verdicts:
        verified = "not verified"
        if v.num_verifiable:
            of = "" if v.num_verifiable == v.num else f" of {v.num_verifiable}"
            verified = f"{percent(v.num_verified, v.num_verifiable)}{of} verified"
        dropped = ", ".join(f"{name} {count}" for name, count in v.reasons.items()) or "none"
        lines += [
            f"{v.language}: {v.num} answers: {percent(v.num_kept, v.num)} kept, "
            f"{percent(v.num_in_language, v.num_ended)} in the language, {verified}, "
            f"{percent(v.num_cut, v.num)} cut",
            f"    dropped: {dropped}",
            f"    {v.sentence(recipe)}",
        ]
    return "\n".join(lines)
