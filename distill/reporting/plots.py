"""The report's pictures, as SVG text that goes straight into the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.core.repeats import repeat_folder
from distill.core.results import Difference, TrainedModel, TrainResult
from distill.reporting import charts
from distill.reporting.charts import Axes, Curve, Level, Row, Spot
from distill.reporting.measures import (
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
from distill.reporting.svg import span
from distill.reporting.table import ModelRow, measure_of

STYLED = {"teacher", "control", "student", "before_rounds"}
SMALL_WIDTH = 170  # of each of several pictures of one kind
SMALL_HEIGHT = 150
SAME_SIZE = {"control", "before_rounds"}  # as the student's
AGAINST_SIZE = (
    "Dashed: the teacher; blue: the student; green: its files. Lines: 95 % intervals. The axes are "
    "the same everywhere, so heights can be compared between languages."
)


@dataclass(frozen=True)
class Scored:
    """What a model reached by a measure, before it is scaled, with its interval if it has one."""

    value: float
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Pictures:
    """A group of pictures under one heading, or none: SVG by caption. `note` says how to read them.

    `are_small`: they are alike, one a language, and stand close together.
    """

    heading: str
    pictures: Mapping[str, str]
    note: str = ""
    are_small: bool = False


def pictures_of(
    train: Path,
    results: RunResults,
    rows: Sequence[ModelRow],
    examples: Mapping[str, Sequence[Example]],
) -> list[Pictures]:
    """Return the page's pictures; `train` is the stage's folder, `examples` those of each model."""
    measure = measure_of(rows)
    better = "right" if measure.more_is_better else "left"
    note = (
        "Differences are paired, on the same prompts, with 95 % intervals over the prompts: "
        f"{better} of zero is better, and a line that crosses zero shows no clear difference."
    )
    pictures = {
        "Student, control and teacher": quality(rows),
        **_changes(rows, examples, measure),
        "Size against quality": size_against_quality(rows),
        "Loss on the validation answers": loss_curves(train, results.train),
        "Speed on this machine": speed(rows),
    }
    groups = [
        Pictures("Quality, size and speed", pictures, note),
        _by_language(rows, examples, measure),
        _changes_by_language(rows, examples, measure),
        _dropped(results.generate.dropped_by_reason),
    ]
    return [group for group in groups if group.pictures]


def loss_curves(train: Path, result: TrainResult) -> str:
    """Draw the validation NLL over the steps for student and control; `train` is the folder.

    Repeats after the first, whose weights are in use, are thin lines.
    """
    lines = [
        _curve(train / f"{role}.metrics.jsonl", role, trained)
        for role, trained in result.roles.items()
    ]
    for number, roles in enumerate(result.repeats, 2):
        folder = repeat_folder(train, number)
        for role in roles:
            points = _validation_losses(folder / f"{role}.metrics.jsonl")
            lines.append(Curve(role, points, _css(role), thin=True))
    points = [point for line in lines for point in line.points] or [(0.0, 0.0)]
    thin = "; thin: other repeats" if result.repeats else ""
    axes = Axes(
        f"optimizer step (ring: weights kept{thin})",
        "NLL of the validation answers, nats a token",
        span([step for step, _ in points], 0.02),
        span([loss for _, loss in points]),
    )
    return charts.curves(lines, axes)


def _curve(metrics: Path, role: str, trained: TrainedModel) -> Curve:
    points = _validation_losses(metrics)
    kept = [point for point in points if trained.kept_step and point[0] == trained.kept_step]
    return Curve(role, points, _css(role), ring=kept[0] if kept else None)


def _validation_losses(metrics: Path) -> list[tuple[float, float]]:
    """Return (step, loss) of each validation in a metrics file."""
    from distill.training.metrics import read_metrics

    rows = [row for row in read_metrics(metrics) if "validation_loss" in row]
    return [(float(row["step"]), row["validation_loss"]) for row in rows]


def quality(rows: Sequence[ModelRow]) -> str:
    """Draw the exact match with its interval, or the NLL where there is no task, of every model.

    Models that have none, such as a teacher on a server, are left out.
    """
    measure = measure_of(rows)
    drawn = [row for model in rows if (row := _quality_row(model, measure)) is not None]
    told = "line: 95 % interval" if measure is EXACT_MATCH else "less is better"
    return charts.dots(drawn, f"{measure.short} ({told})")


def _quality_row(model: ModelRow, measure: Measure) -> Row | None:
    value = getattr(model, measure.key)
    if value is None:
        return None
    interval = model.interval if measure is EXACT_MATCH else None
    return value_row(model.model, value, interval, measure)


def value_row(model: str, value: float, interval: Sequence[float] | None, measure: Measure) -> Row:
    """Return the row of a chart for what a model reached, before it is scaled."""
    low, high = (measure.scale * end for end in interval) if interval else (None, None)
    told = measure.tell(value, "")
    return Row(model, measure.scale * value, told, _css(model), low, high)


def size_against_quality(rows: Sequence[ModelRow]) -> str:
    """Draw the bytes on disk against the NLL of the held-out answers.

    A cross is a file that failed its check.
    """
    spots = [
        Spot(row.model, row.bytes / 1e6, row.nll, _css(row.model), row.failed is not None)
        for row in rows
        if row.bytes and row.nll is not None
    ]
    spots.sort(key=lambda spot: spot.y)
    axes = Axes(
        "size on disk, MB (log scale)",
        "NLL of the held-out answers, nats a token",
        _log_span([spot.x for spot in spots]),
        span([spot.y for spot in spots] or [0.0], 0.15),
        is_log=True,
    )
    return charts.scatter(spots, axes)


def _log_span(sizes: Sequence[float]) -> tuple[float, float]:
    return (0.8 * min(sizes), 1.4 * max(sizes)) if sizes else (0.5, 2.0)


def speed(rows: Sequence[ModelRow]) -> str:
    """Draw the tokens per second of the evaluation's greedy answers.

    They were batched, each model in its own runtime.
    """
    drawn = [
        Row(
            f"{row.model} ({row.runtime.split(',')[0]})",
            row.tokens_per_second,
            f"{row.tokens_per_second:,.0f}",
            _css(row.model),
        )
        for row in rows
    ]
    return charts.bars(drawn, "answer tokens a second, many prompts at once")


def _changes(
    rows: Sequence[ModelRow], examples: Mapping[str, Sequence[Example]], measure: Measure
) -> dict[str, str]:
    """Draw each model minus the teacher, and minus the student, on the same prompts."""
    pictures = {}
    for base in ("teacher", "student"):
        changes = _changes_against(base, rows, examples, measure)
        if changes:
            pictures[f"Each model minus the {base}"] = charts.dots(
                changes, change_axis(measure), with_zero=True
            )
    return pictures


def change_axis(measure: Measure) -> str:
    return f"difference, {measure.unit}"


def _changes_against(
    base: str,
    rows: Sequence[ModelRow],
    examples: Mapping[str, Sequence[Example]],
    measure: Measure,
    language: str | None = None,
) -> list[Row]:
    """Return the difference of every other model from `base`, in all languages or in one."""
    found = []
    if base not in examples:
        return found
    for row in rows:
        if row.model in (base, "teacher") or row.model not in examples:
            continue
        mine, other = examples[row.model], examples[base]
        if language is not None:
            mine, other = of_language(mine, language), of_language(other, language)
        if (difference := paired(mine, other, measure)) is not None:
            found.append(change_row(row.model, row.model, difference, measure))
    return found


def change_row(name: str, model: str, found: Difference, measure: Measure) -> Row:
    """Return the row of a chart for a difference; the model's kind decides its colour."""
    value, low, high = (
        measure.scale * value for value in (found.difference, found.low, found.high)
    )
    return Row(name, value, measure.tell_difference(found), _css(model), low, high)


def _by_language(
    rows: Sequence[ModelRow], examples: Mapping[str, Sequence[Example]], measure: Measure
) -> Pictures:
    """Draw quality against size, a picture a language."""
    scored = {}
    for language in languages_of(examples.get("student", ())):
        of_models = {name: _scored(own, language, measure) for name, own in examples.items()}
        scored[language] = {name: one for name, one in of_models.items() if one is not None}
    pictures = against_size(scored, rows, measure)
    return Pictures("Quality against size by language", pictures, AGAINST_SIZE, are_small=True)


def _scored(examples: Sequence[Example], language: str, measure: Measure) -> Scored | None:
    own = of_language(examples, language)
    value = mean(own, measure)
    if value is None:
        return None
    return Scored(value, share_interval(own) if measure is EXACT_MATCH else None)


def against_size(
    scored: Mapping[str, Mapping[str, Scored]], rows: Sequence[ModelRow], measure: Measure
) -> dict[str, str]:
    """Draw how each model does against its size; `scored`: by caption and by model.

    The axes are the same in all pictures. None are drawn where no model has a size.
    """
    drawn = {
        caption: (_teachers_level(by_model, measure), _spots(by_model, rows, measure))
        for caption, by_model in scored.items()
    }
    spots = [spot for _, found in drawn.values() for spot in found]
    if not spots:
        return {}
    levels = [level.value for level, _ in drawn.values() if level is not None]
    ends = [end for s in spots for end in (s.low, s.y, s.high) if end is not None]
    x_ends = _log_span([spot.x for spot in spots])
    axes = Axes("MB (log scale)", measure.short, x_ends, span([*ends, *levels]), is_log=True)
    return {
        caption: charts.scatter(
            found, axes, level=level, named=False, width=SMALL_WIDTH, height=SMALL_HEIGHT
        )
        for caption, (level, found) in drawn.items()
    }


def _teachers_level(by_model: Mapping[str, Scored], measure: Measure) -> Level | None:
    if "teacher" not in by_model:
        return None
    return Level("teacher", measure.scale * by_model["teacher"].value, "teacher")


def _spots(
    by_model: Mapping[str, Scored], rows: Sequence[ModelRow], measure: Measure
) -> list[Spot]:
    """Return a point for the student and each of its files.

    What has the student's size, such as the control, would hide it.
    """
    spots = []
    for row in rows:
        if not row.bytes or row.model not in by_model or row.model in SAME_SIZE:
            continue
        one = by_model[row.model]
        low, high = (measure.scale * end for end in one.interval) if one.interval else (None, None)
        value, failed = measure.scale * one.value, row.failed is not None
        spots.append(Spot(row.model, row.bytes / 1e6, value, _css(row.model), failed, low, high))
    return spots


def _changes_by_language(
    rows: Sequence[ModelRow], examples: Mapping[str, Sequence[Example]], measure: Measure
) -> Pictures:
    """Draw each model minus the teacher (or the student), a picture a language, on the same axis."""
    languages = languages_of(examples.get("student", ()))
    heading = "What each step changed, by language"
    if len(languages) < 2:
        return Pictures(heading, {})
    for base in ("teacher", "student"):
        found = {
            language: _changes_against(base, rows, examples, measure, language)
            for language in languages
        }
        ends = [end for changes in found.values() for row in changes for end in row.ends]
        if ends:
            break
    else:
        return Pictures(heading, {})
    axis_ends = span([0.0, *ends])
    pictures = {
        language: charts.dots(changes, change_axis(measure), ends=axis_ends, with_zero=True)
        for language, changes in found.items()
        if changes
    }
    note = f"Each model minus the {base}, on the prompts of that language alone."
    return Pictures(heading, pictures, note)


def _dropped(by_reason: Mapping[str, int]) -> Pictures:
    """Draw how many answers were dropped for each reason, the commonest first."""
    heading = "What was dropped"
    if not by_reason:
        return Pictures(heading, {})
    commonest = Counter(by_reason).most_common()
    drawn = [Row(reason, count, f"{count:,}") for reason, count in commonest]
    return Pictures(heading, {"Answers by reason": charts.bars(drawn, "answers dropped")})


def _css(model: str) -> str:
    return model if model in STYLED else "other"
