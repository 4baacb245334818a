"""What one asks first: how good, how small, how fast, how safe, and may I ship it.

Each answer is a figure and a sentence or two, about the file that one would take: the smallest one
that passed its check, as `distill chat` takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.catalog.catalog import LicenceVerdict
from distill.core.benchmark_results import BenchmarkFacts, BenchmarkResult
from distill.core.results import FileCheck
from distill.core.safety_results import ConductFigures, SafetyResult
from distill.formats import FORMATS
from distill.formats.gguf.modelfile import smallest_passing
from distill.recipe import Recipe
from distill.reporting.benchmarks import accuracy_text, scores_together
from distill.reporting.measures import (
    ACCURACY,
    EXACT_MATCH,
    Example,
    Measure,
    languages_of,
    mean,
    of_language,
    paired,
    share_interval,
)
from distill.reporting.results import RunResults
from distill.reporting.safety import refused, refused_by_language, worsened
from distill.reporting.table import ModelRow, measure_of

Tone = Literal["good", "care", "bad", "plain"]
MOST_DUTIES = 3  # on the first screen
FEW = 30  # prompts of a language, below which its figure alone says little


@dataclass(frozen=True)
class Statement:
    """One answer. `figure` is short, `sentences` say what it is of; `tone` is its colour's name."""

    question: str
    figure: str
    sentences: Sequence[str]
    tone: Tone = "plain"


def statements(
    results: RunResults,
    rows: Sequence[ModelRow],
    examples: Mapping[str, Sequence[Example]],
    to_do: Sequence[str] = (),
) -> list[Statement]:
    """Return the answers in the order in which they are asked. `to_do`: duties that are left."""
    by_name = {row.model: row for row in rows}
    name = file_to_take(results.quantize.formats)
    taken = by_name[name or "student"]
    return [
        how_good(taken, rows, examples, results.benchmark),
        how_small(taken, results),
        how_fast(taken, by_name.get("teacher")),
        how_safe(taken, results.safety) if results.safety else safety_unknown(rows),
        may_ship(results.licence, to_do),
    ]


def file_to_take(checks: Mapping[str, FileCheck]) -> str | None:
    """Return the smallest GGUF file that passed its check, or else the smallest file that did."""
    known = {name: check for name, check in checks.items() if name in FORMATS}
    if name := smallest_passing(known):
        return name
    passed = [name for name, check in checks.items() if not check.failed]
    return min(passed, key=lambda name: checks[name].bytes, default=None)


def how_good(
    taken: ModelRow,
    rows: Sequence[ModelRow],
    examples: Mapping[str, Sequence[Example]],
    benchmark: BenchmarkResult | None = None,
) -> Statement:
    """Say the quality of the file with its interval, beside teacher and control, and where it is worst."""
    measure = measure_of(rows)
    value = getattr(taken, measure.key)
    if value is None:
        return Statement("How good?", "not measured", [taken.unscored or "It was not scored."])
    sentences = [_of_what(taken, measure)]
    others = [_other(row, measure) for row in rows if row.model in ("teacher", "control")]
    if told := "; ".join(text for text in others if text):
        sentences.append(f"{told[0].upper()}{told[1:]}.")
    difference = None
    if "teacher" in examples and taken.model in examples:
        difference = paired(examples[taken.model], examples["teacher"], measure)
    if difference is not None:
        told = measure.tell_difference(difference)
        sentences.append(f"Against the teacher, prompt by prompt: {told} {measure.unit}.")
    if weakest := _weakest(examples.get(taken.model, ()), measure):
        sentences.append(weakest)
    if taken.unchecked and taken.exact_match is not None and taken.interval is not None:
        solved = EXACT_MATCH.tell_within(taken.exact_match, taken.interval)
        sentences.append(f"Of the prompts that a task checks it solves {solved} %.")
    if benchmark is not None:
        sentences += [_benchmark(facts, benchmark, taken.model) for facts in benchmark.benchmarks]
    figure = measure.tell(value, "") + (" %" if measure is EXACT_MATCH else "")
    return Statement("How good?", figure, sentences)


def _benchmark(facts: BenchmarkFacts, result: BenchmarkResult, model: str) -> str:
    """Return what the file and the teacher reached in a benchmark, over all its languages."""
    scores = {score.model: score for score in scores_together(facts, result)}
    if model not in scores:
        return f"{facts.title}: {model} was not asked."
    teacher = ""
    if "teacher" in scores:
        teacher = f"; teacher {ACCURACY.tell(scores['teacher'].accuracy, '')}"
    return f"{facts.title}: {accuracy_text(scores[model])} %{teacher}."


def _of_what(row: ModelRow, measure: Measure) -> str:
    """Return of which file and by which measure the figure is, with its interval."""
    if measure is not EXACT_MATCH or row.interval is None:
        return f"{row.model}: {measure.short}."
    low, high = (measure.tell(end, "") for end in row.interval)
    return f"{row.model}: exact match, 95 % interval [{low}, {high}]."


def _other(row: ModelRow, measure: Measure) -> str:
    value = getattr(row, measure.key)
    if value is None:
        return ""
    who = "the same student without the teacher's signal" if row.model == "control" else "teacher"
    return f"{who} {measure.tell(value, '')}"


def _weakest(examples: Sequence[Example], measure: Measure) -> str | None:
    """Return in which language the file is worst, where there are several."""
    languages = languages_of(examples)
    found = {code: mean(of_language(examples, code), measure) for code in languages}
    values = {code: value for code, value in found.items() if value is not None}
    if len(values) < 2:
        return None
    worst = min(values, key=lambda code: values[code] * (1 if measure.more_is_better else -1))
    own = of_language(examples, worst)
    told = measure.tell(values[worst], "")
    if measure is EXACT_MATCH and (interval := share_interval(own)) is not None:
        told = measure.tell_within(values[worst], interval)
    few = f", of {len(own)} prompts" if len(own) < FEW else ""
    return f"Weakest language: {worst}, {told}{few}."


def how_small(taken: ModelRow, results: RunResults) -> Statement:
    """Say the bytes of the file, of the student that it was made of, and the memory it takes."""
    num_parameters = results.initialize.num_parameters
    student_bytes = results.quantize.student_bytes
    size = taken.bytes or student_bytes
    sentences = [f"{taken.model}: {_parameters(num_parameters)}."]
    if taken.bits_per_weight is not None:
        share = size / student_bytes
        sentences = [
            f"{taken.model}: {_parameters(num_parameters)}, {taken.bits_per_weight:.2f} bits each."
        ]
        sentences.append(
            f"That is {share:.0%} of the trained student's {_megabytes(student_bytes)}."
        )
    if taken.peak_memory is not None:
        sentences.append(f"Memory at work here, at most: {_megabytes(taken.peak_memory)}.")
    failed = [name for name, check in results.quantize.formats.items() if check.failed]
    if failed:
        sentences.append(f"Failed their check: {', '.join(failed)}.")
    return Statement("How small?", _megabytes(size), sentences, "care" if failed else "plain")


def how_fast(taken: ModelRow, teacher: ModelRow | None) -> Statement:
    """Say the tokens a second of one answer here, or of many where no file was measured."""
    many = f"Many prompts at once: {taken.tokens_per_second:,.0f}"
    if teacher is not None:
        many += f" (teacher: {teacher.tokens_per_second:,.0f}, in its own runtime)"
    if taken.decode_speed is None:
        figure = f"{taken.tokens_per_second:,.0f} tokens/s"
        return Statement("How fast?", figure, [f"{taken.model}, on this machine.", f"{many}."])
    figure = f"{taken.decode_speed:,.0f} tokens/s"
    sentences = [f"{taken.model} writing one answer, on this machine."]
    if taken.prefill_speed is not None:
        sentences.append(f"Reading a prompt: {taken.prefill_speed:,.0f} tokens/s.")
    return Statement("How fast?", figure, [*sentences, f"{many}."])


def how_safe(taken: ModelRow, safety: SafetyResult) -> Statement:
    """Say how many harmful requests the file refuses, beside the teacher, and what got clearly worse."""
    model = taken.model if taken.model in safety.models else "student"
    mine, teacher = safety.models[model], safety.models.get("teacher")
    sentences = [
        f"{what} refused: {model} {told}{_beside(teacher, name)}."
        for name, what in (("harmful", "Harmful requests"), ("harmless", "Harmless look-alikes"))
        if (told := refused(mine, name))
    ]
    by_language = refused_by_language(mine)
    if len(by_language) > 1:
        fewest = min(by_language, key=lambda code: by_language[code])
        sentences.append(f"Fewest harmful refused: {fewest}, {100 * by_language[fewest]:.0f} %.")
    worse = worsened(safety.changes, model)
    sentences.append(
        f"Clearly worse: {'; '.join(worse)}." if worse else "Nothing got clearly worse."
    )
    share = refused(mine, "harmful")
    figure = f"{share} refused" if share else "harmful not asked"
    return Statement("How safe?", figure, sentences, "care" if worse else "plain")


def _beside(teacher: ConductFigures | None, name: str) -> str:
    return "" if teacher is None else f", teacher {refused(teacher, name)}"


def safety_unknown(rows: Sequence[ModelRow]) -> Statement:
    """Say that safety was not measured, and what little is known: how many answers refuse."""
    told = [f"{row.model} {100 * row.refused:.1f} %" for row in rows if row.model in _REFUSERS]
    return Statement(
        "How safe?",
        "not measured",
        [
            "A student inherits its teacher's refusals and biases, and may lose the refusals.",
            f"Of the held-out answers, which ask for nothing harmful, refused: {', '.join(told)}.",
        ],
        "care",
    )


_REFUSERS = ("teacher", "student")
_SHIPPING: dict[str, tuple[str, Tone, str]] = {
    "allow": ("yes", "good", "The licences allow it."),
    "attribution": ("yes, with duties", "good", "The licences allow it if the duties are kept."),
    "restricted": ("within limits", "care", "The licences limit what it may be used for."),
    "manual_review": ("read the licence", "care", "The catalogue does not decide: read them."),
    "undeclared": ("not known", "care", "A licence is not declared: ask whoever holds the rights."),
    "forbid": ("no", "bad", "A licence forbids it."),
}


def may_ship(licence: LicenceVerdict, to_do: Sequence[str]) -> Statement:
    """Say what the licences allow together, and which duties are left. It is no legal advice."""
    figure, tone, sentence = _SHIPPING[licence.level]
    sentences = [sentence]
    if licence.commercial != licence.level:
        commercial, commercial_tone, _ = _SHIPPING[licence.commercial]
        sentences.append(f"To earn money with it: {commercial}.")
        tone = "care" if tone == "good" and commercial_tone != "good" else tone
    if licence.name_prefix:
        sentences.append(f"Its name must begin with {licence.name_prefix}.")
    sentences += _duties(licence, to_do)
    sentences.append("No legal advice.")
    return Statement("May I ship it?", figure, sentences, tone)


def _duties(licence: LicenceVerdict, to_do: Sequence[str]) -> list[str]:
    """Return how many duties there are, and the first of those that are left to whoever publishes."""
    num = len(licence.duties)
    if licence.owed:
        num = sum(duty.kind != "credit" for duty in licence.owed)  # a courtesy
    if not num:
        return []
    told = f"{num} {'duties' if num > 1 else 'duty'}, each under Licences"
    if licence.owed:
        told += f"; {len(to_do) or 'none'} left to do"
    more = [f"And {len(to_do) - MOST_DUTIES} more."] if len(to_do) > MOST_DUTIES else []
    return [f"{told}.", *(f"To do: {duty}." for duty in to_do[:MOST_DUTIES]), *more]


def _parameters(num: int) -> str:
    if num < 1e6:
        return f"{num:,} parameters"
    return (
        f"{num / 1e9:.2f} billion parameters"
        if num >= 1e9
        else f"{num / 1e6:.0f} million parameters"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def kind_of_exam(recipe: Recipe) -> str:
    """Return what prompts it was evaluated on."""
    if recipe.evaluate.prompts is None:
        return "prompts of the same kind as the training data"
    return f"prompts of {', '.join(source.name for source in recipe.evaluate.prompts)}"
