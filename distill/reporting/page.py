"""The report as one HTML page.

What a model, a file or a recipe says is escaped: the template escapes all text.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from distill.core.jsonl import Row
from distill.core.results import CaptureResult, TeacherSignal
from distill.recipe import Recipe
from distill.reporting import rounds
from distill.reporting.benchmark_pictures import benchmark_pictures
from distill.reporting.benchmarks import benchmark_tables
from distill.reporting.data import counts_table, reason_name
from distill.reporting.duties import duty_lines, student_title
from distill.reporting.examples import AnsweredPrompt
from distill.reporting.licence_files import licence_texts
from distill.reporting.plots import Pictures
from distill.reporting.rendering import render_html
from distill.reporting.repeats import repeats_table
from distill.reporting.results import RunResults
from distill.reporting.safety import SafetyText, limit
from distill.reporting.safety_picture import safety_pictures
from distill.reporting.summary import Statement, kind_of_exam
from distill.reporting.table import ModelRow, page_columns, tokenizers_meet, unchecked_lines
from distill.shaping import coverage
from distill.shaping.cutting import told
from distill.text.identification import by_script_only


def page(
    recipe: Recipe,
    results: RunResults,
    rows: list[ModelRow],
    verdict: str,
    answers: Sequence[Statement],
    pictures: Sequence[Pictures],
    examples: Sequence[AnsweredPrompt],
    dropped: Sequence[Row],
) -> str:
    """Return the page. `answers` stand first; `dropped`: the rows of dropped.jsonl."""
    seconds = sum(run.seconds for run in results.stage_runs)
    repeats_headings, repeats_lines = repeats_table(results)
    counts_headings, counts_lines = counts_table(results.generate.by_language)
    return render_html(
        "report.html.jinja",
        title=student_title(recipe, results.licence),
        today=datetime.now(UTC).strftime("%Y-%m-%d"),
        teacher=recipe.teachers_named,
        student=results.initialize,
        cuts=told(results.initialize.cuts, results.initialize.nll_before_cuts),
        minutes=seconds / 60,
        machine=results.training_machine,
        verdict=verdict,
        columns=page_columns(rows),
        rows=rows,
        tokenizers_meet=tokenizers_meet(rows),
        num_examples=results.evaluate.num_examples,
        num_given=results.evaluate.num_given,
        answers=answers,
        pictures=pictures,
        repeats_headings=repeats_headings,
        repeats_lines=repeats_lines,
        rounds=results.rounds,
        rounds_headings=rounds.HEADINGS,
        rounds_lines=rounds.rounds_lines(results.rounds) if results.rounds else [],
        rounds_sentence=rounds.rounds_sentence(results.rounds) if results.rounds else "",
        safety=SafetyText.of(results.safety, results.gates),
        safety_pictures=safety_pictures(results.safety.changes) if results.safety else [],
        benchmarks=benchmark_tables(results.benchmark) if results.benchmark else None,
        benchmark_pictures=benchmark_pictures(results.benchmark, rows) if results.benchmark else [],
        languages=list(rows[0].by_language),
        unchecked=unchecked_lines(rows),
        examples=examples,
        generate=results.generate,
        dropped_by_reason=dict(Counter(results.generate.dropped_by_reason).most_common()),
        counts_headings=counts_headings,
        counts_lines=counts_lines,
        train=results.train,
        trim=results.trim,
        coverage_headings=coverage.HEADINGS,
        coverage_lines=coverage.cells(results.trim.coverage) if results.trim else [],
        new_text=coverage.NEW_TEXT,
        why_no_fewer=coverage.STOPPED[results.trim.stopped_by] if results.trim else "",
        signal=signal_sentence(results.capture, results.generate.retokenized),
        dropped=_first_of_each_reason(dropped),
        files=results.quantize.formats,
        licence=results.licence,
        duties=duty_lines(results.licence, licence_texts(recipe)),
        accepted=recipe.licence_accepted if results.licence.level == "forbid" else None,
        limits=_limits(recipe, results, rows),
        stage_runs=results.stage_runs,
        versions=results.versions,
    )


def signal_sentence(capture: CaptureResult, tokenizer_difference: str | None) -> str:
    """Return what the student learnt from besides the text, if anything.

    tokenizer_difference: why the student has a tokenizer of its own; None = it has the teacher's.
    """
    if capture.signal == "none":
        own = ""
        if tokenizer_difference:
            own = (
                f", in its own tokenizer ({tokenizer_difference}): "
                "the teacher's NLL a token, in other tokens, cannot be compared"
            )
        return f"No signal was captured: the student learnt from the answers' text alone{own}."
    size = f"{capture.num_tokens:,} answer tokens, {capture.bytes_per_token:.1f} bytes a token"
    if capture.hidden_size:
        size += ", the last hidden state in 8 bits among them"
    sentence = f"Signal: {capture.signal}, {size}."
    if capture.num_unknown:
        sentence += (
            f" Of {capture.num_unknown:,} tokens the server told nothing: they had no soft loss."
        )
    if capture.signal == "chunks":
        sentence += _chunks_sentence(capture)
    if capture.removed_mass_mean is not None:
        sentence += (
            f" Of the teacher's mass {capture.removed_mass_mean:.2%} was on tokens that the student "
            f"writes in pieces (99th percentile: {capture.removed_mass_p99:.2%}); its NLL a byte on the "
            f"student's tokens was {capture.split_loss:+.2%} against that on its own."
        )
    return " ".join([sentence, *map(_teacher_sentence, capture.teachers)])


def _teacher_sentence(teacher: TeacherSignal) -> str:
    """Return what the student learnt from one of several teachers."""
    samples = f"{teacher.num_sequences:,} samples, {teacher.num_tokens:,} answer tokens"
    if teacher.why_text is not None:
        return (
            f"Of {teacher.name} ({samples}) it learnt the text alone, by cross-entropy and without a "
            f"soft loss: {teacher.why_text}."
        )
    sentence = f"Of {teacher.name} ({samples}) it learnt the signal."
    if teacher.removed_mass_mean is not None:
        sentence += (
            f" Of its mass {teacher.removed_mass_mean:.2%} was on tokens that the student writes in "
            f"pieces; its NLL a byte on the student's tokens was {teacher.split_loss:+.2%}."
        )
    return sentence


def _chunks_sentence(capture: CaptureResult) -> str:
    """Return how much of the answers both tokenizers cut alike."""
    return (
        f" It is about the teacher's own tokens: the student matched the likelihood of "
        f"{capture.num_chunks:,} pieces that both tokenizers cut alike. {capture.num_split_digits:,} "
        f"more have numbers that the two split otherwise, and {capture.num_left_out:,} of the student's "
        "tokens are in none: they had no soft loss. The teacher's NLL a token, in other tokens, cannot "
        "be compared."
    )


def _first_of_each_reason(dropped: Sequence[Row]) -> list[Row]:
    """Return the first dropped row of each reason; its answer is empty if there is none."""
    first: dict[str, Row] = {}
    for row in dropped:
        first.setdefault(reason_name(row), {"answer": "", **row})
    return list(first.values())


def _limits(recipe: Recipe, results: RunResults, rows: Sequence[ModelRow]) -> list[str]:
    limits = [
        f"Quality was measured on {results.evaluate.num_examples} {kind_of_exam(recipe)}: "
        "it says nothing about other work.",
        limit(results.safety),
        "Speed is that of this machine and of batched work; "
        "a phone or a single chat will be slower.",
    ]
    if len(results.repeats) == 1:
        limits.append(
            "It was trained once: how far another seed would have led is not known (train.repeats)."
        )
    if rows[0].exact_match is None:
        limits.insert(0, "No task checked the answers: only their likelihood was measured.")
    if unknown := by_script_only(recipe.languages):
        limits.append(f"The language of the answers: {unknown}.")
    return limits
