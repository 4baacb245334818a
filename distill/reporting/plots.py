"""The report's pictures, as SVG text that goes straight into the page."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.repeats import repeat_folder
from distill.core.results import TrainedModel, TrainResult
from distill.reporting.results import RunResults
from distill.reporting.table import ModelRow, tokenizers_meet

COLOURS = {
    "teacher": "#555555",
    "control": "#c8553d",
    "student": "#2a6f97",
    "before_rounds": "#89b0c4",
}
OTHER = "#7a9e7e"
LABEL_WIDTH = 0.35  # of a format's name, in e-folds of size
LABEL_HEIGHT = 10  # in points
PLOT_HEIGHT = 170  # in points, about


def pictures_of(train: Path, results: RunResults, rows: list[ModelRow]) -> dict[str, str]:
    """Return the page's pictures, SVG by caption; `train` is the stage's folder."""
    return {
        "Loss on the validation answers": loss_curves(train, results.train),
        "Student, control and teacher": quality(rows),
        "Size against quality": size_against_quality(rows),
        "Speed on this machine": speed(rows),
    }


def loss_curves(train: Path, result: TrainResult) -> str:
    """Draw the validation NLL over the steps for student and control; `train` is the folder.

    Repeats after the first, whose weights are in use, are thin lines.
    """
    figure, axes = _figure()
    for role, trained in result.roles.items():
        _draw_curve(axes, train / f"{role}.metrics.jsonl", role, trained)
    for number, roles in enumerate(result.repeats, 2):
        for role in roles:
            _draw_thin_curve(axes, repeat_folder(train, number) / f"{role}.metrics.jsonl", role)
    thin = "; thin: other repeats" if result.repeats else ""
    axes.set_xlabel(f"optimizer step (ring: the weights that were kept{thin})")
    axes.set_ylabel("NLL of the teacher's answers,\nnats a token")
    axes.legend(frameon=False)
    return svg(figure)


def _draw_curve(axes: Any, metrics: Path, role: str, trained: TrainedModel) -> None:
    steps, losses = _validation_losses(metrics)
    axes.plot(steps, losses, color=COLOURS[role], label=role, marker=".", linewidth=1.6)
    if trained.kept_step:
        points = zip(steps, losses, strict=True)
        _draw_rings(
            axes, [point for point in points if point[0] == trained.kept_step], COLOURS[role]
        )


def _draw_thin_curve(axes: Any, metrics: Path, role: str) -> None:
    axes.plot(*_validation_losses(metrics), color=COLOURS[role], linewidth=0.6, alpha=0.6)


def _validation_losses(metrics: Path) -> tuple[list[int], list[float]]:
    """Return (steps, losses) of a metrics file."""
    from distill.training.metrics import read_metrics

    rows = [row for row in read_metrics(metrics) if "validation_loss" in row]
    return [row["step"] for row in rows], [row["validation_loss"] for row in rows]


def _draw_rings(axes: Any, points: Sequence[tuple[float, float]], colour: str) -> None:
    ring = {"marker": "o", "markersize": 9, "fillstyle": "none"}
    axes.plot(*zip(*points, strict=True), **ring, color=colour)


def quality(rows: Sequence[ModelRow]) -> str:
    """Draw the exact match with its interval, or the NLL where there is no task, of every model.

    That is by the byte where models of different tokenizers meet.
    """
    if rows[0].exact_match is not None:
        return _exact_match_bars(rows)
    if tokenizers_meet(rows):
        return _nll_bars([(row, row.nll_per_byte) for row in rows], "byte")
    return _nll_bars([(row, row.nll) for row in rows], "token")


def _exact_match_bars(rows: Sequence[ModelRow]) -> str:
    figure, axes = _figure()
    for position, row in enumerate(reversed(rows)):
        assert row.exact_match is not None and row.interval is not None  # as the first row has them
        percent = 100 * row.exact_match
        low, high = (100 * end for end in row.interval)
        axes.barh(position, percent, color=_colour(row), height=0.62)
        axes.plot([low, high], [position, position], color="black", linewidth=1.2)
        axes.text(high + 1.0, position, f"{percent:.1f}", va="center", fontsize=8)
    _name_bars(axes, [row.model for row in reversed(rows)])
    axes.set_xlabel("exact match, % (line: 95 % interval)")
    axes.set_xlim(0, 112)
    return svg(figure)


def _nll_bars(nll: Sequence[tuple[ModelRow, float | None]], unit: str) -> str:
    """Draw the NLL of the models that have one; on a server a teacher has none."""
    figure, axes = _figure()
    bars = [(row, nats) for row, nats in reversed(nll) if nats is not None]
    for position, (row, nats) in enumerate(bars):
        axes.barh(position, nats, color=_colour(row), height=0.62)
        axes.text(nats + 0.005, position, f"{nats:.3f}", va="center", fontsize=8)
    _name_bars(axes, [row.model for row, _ in bars])
    axes.set_xlabel(f"NLL, nats a {unit} (less is better)")
    return svg(figure)


@dataclass(frozen=True)
class SizedModel:
    """A model that has a size on disk, and its NLL."""

    name: str
    bytes: int
    nll: float
    failed: bool

    @property
    def megabytes(self) -> float:
        return self.bytes / 1e6


def size_against_quality(rows: Sequence[ModelRow]) -> str:
    """Draw the bytes on disk against the NLL of the teacher's answers.

    A cross is a file that failed its check.
    """
    models = [
        SizedModel(row.model, row.bytes, row.nll, row.failed is not None)
        for row in rows
        if row.bytes and row.nll is not None
    ]
    figure, axes = _figure()
    for model, height in _label_heights(models):
        point = model.megabytes, model.nll
        axes.plot(*point, "x" if model.failed else "o", color=COLOURS.get(model.name, OTHER))
        axes.annotate(model.name, point, xytext=(6, height), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    ticks = _log_ticks([model.megabytes for model in models])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("size on disk, MB (log scale)")
    axes.set_ylabel("NLL of the teacher's answers,\nnats a token")
    return svg(figure)


def _log_ticks(sizes: Sequence[float]) -> list[float]:
    """Return 1, 2, 3 and 5 of every power of ten that lie among the sizes, or just beyond."""
    low, high = min(sizes) * 0.8, max(sizes) * 1.3
    steps = [digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 3, 5)]
    return [tick for tick in steps if low < tick < high]


def _label_heights(models: Sequence[SizedModel]) -> list[tuple[SizedModel, int]]:
    """Return each model with the height of its label above its point, in points.

    Labels stand clear of other labels and of points to the right.
    """
    nll = [model.nll for model in models]
    points_a_nat = PLOT_HEIGHT / (max(nll) - min(nll) or 1.0)
    placed: list[tuple[SizedModel, float]] = []
    for model in sorted(models, key=lambda model: model.nll):
        log_size = math.log(model.bytes)
        labels = [
            height
            for other, height in placed
            if abs(log_size - math.log(other.bytes)) < LABEL_WIDTH
        ]
        points = [
            other.nll * points_a_nat - 3
            for other in models
            if 0.02 < math.log(other.bytes) - log_size < LABEL_WIDTH
        ]
        height = _first_free(model.nll * points_a_nat - 3, [*labels, *points])
        placed.append((model, height))
    return [(model, round(height - model.nll * points_a_nat)) for model, height in placed]


def _first_free(height: float, taken: Sequence[float]) -> float:
    """Return the lowest height from `height` on that is clear of those taken."""
    while any(abs(height - other) < LABEL_HEIGHT for other in taken):
        height += 2
    return height


def speed(rows: Sequence[ModelRow]) -> str:
    """Draw the tokens per second of the evaluation's greedy answers.

    They were batched, each model in its own runtime.
    """
    figure, axes = _figure()
    for position, row in enumerate(reversed(rows)):
        per_second = row.tokens_per_second
        axes.barh(position, per_second, color=_colour(row), height=0.62)
        axes.text(per_second, position, f" {per_second:,.0f}", va="center", fontsize=8)
    _name_bars(axes, [f"{row.model} ({row.runtime.split(',')[0]})" for row in reversed(rows)])
    axes.set_xlabel("answer tokens a second, many prompts at once")
    axes.margins(x=0.15)
    return svg(figure)


def _colour(row: ModelRow) -> str:
    return COLOURS.get(row.model, OTHER)


def _name_bars(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)


def _figure() -> tuple[Any, Any]:
    """Return a figure and its axes, in the size and style of every picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def svg(figure: Any) -> str:
    """Return the figure as SVG that is the same every time: no date, ids from a fixed salt."""
    import matplotlib

    options: dict[Any, str] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "distill",
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(options):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    end_tag = "</metadata>"
    metadata = svg[svg.index("<metadata>") : svg.index(end_tag) + len(end_tag)]
    return svg[svg.index("<svg") :].replace(metadata, "")
