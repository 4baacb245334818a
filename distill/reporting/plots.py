"""The report's pictures, as SVG text that goes straight into the page."""

import io
import math
from pathlib import Path
from typing import Any

from distill.core.run_folder import Manifest

COLOURS = {"teacher": "#555555", "control": "#c8553d", "student": "#2a6f97"}
OTHER = "#7a9e7e"
LABEL_WIDTH = 0.35  # of a format's name, in e-folds of size


def loss_curves(train: Path, manifests: dict[str, Manifest]) -> str:
    """Validation NLL over steps for student and control."""
    from distill.training.metrics import read_metrics

    figure, axes = _figure()
    for role, result in manifests["train"].result["roles"].items():
        points = [
            r for r in read_metrics(train / f"{role}.metrics.jsonl") if "validation_loss" in r
        ]
        x, y = [p["step"] for p in points], [p["validation_loss"] for p in points]
        axes.plot(x, y, color=COLOURS[role], label=role, marker=".", linewidth=1.6)
        if result["kept_step"]:
            kept = [(a, b) for a, b in zip(x, y, strict=True) if a == result["kept_step"]]
            axes.plot(
                *zip(*kept, strict=True),
                marker="o",
                markersize=9,
                fillstyle="none",
                color=COLOURS[role],
            )
    axes.set_xlabel("optimizer step (ring: the weights that were kept)")
    axes.set_ylabel("NLL of the teacher's answers,\nnats a token")
    axes.legend(frameon=False)
    return _svg(figure)


def quality(table: list[dict[str, Any]]) -> str:
    """Exact match with its interval (or NLL where there is no task) of teacher, control, student and every file."""
    figure, axes = _figure()
    by_match = table[0]["exact_match"] is not None
    table = [
        row for row in table if by_match or row["nll"] is not None
    ]  # a teacher on a server has no NLL
    for i, row in enumerate(reversed(table)):
        colour = COLOURS.get(row["model"], OTHER)
        value = 100 * row["exact_match"] if by_match else row["nll"]
        axes.barh(i, value, color=colour, height=0.62)
        edge = value
        if by_match:
            low, high = (100 * x for x in row["interval"])
            edge = high
            axes.plot([low, high], [i, i], color="black", linewidth=1.2)
        axes.text(
            edge + (1.0 if by_match else 0.005),
            i,
            f"{value:.1f}" if by_match else f"{value:.3f}",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(table)), [row["model"] for row in reversed(table)])
    axes.set_xlabel(
        "exact match, % (line: 95 % interval)" if by_match else "NLL, nats a token (less is better)"
    )
    if by_match:
        axes.set_xlim(0, 112)
    return _svg(figure)


def size_against_quality(table: list[dict[str, Any]]) -> str:
    """Bytes on disk against the NLL of the teacher's answers; a cross is a file that failed its check."""
    figure, axes = _figure()
    rows = [row for row in table if row["bytes"]]
    sizes = [row["bytes"] / 1e6 for row in rows]
    for row, height in _apart(rows):
        axes.plot(
            row["bytes"] / 1e6,
            row["nll"],
            "x" if row["failed"] else "o",
            color=COLOURS.get(row["model"], OTHER),
        )
        axes.annotate(
            row["model"],
            (row["bytes"] / 1e6, row["nll"]),
            xytext=(6, height),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    ticks = [
        m * 10.0**e
        for e in range(-2, 6)
        for m in (1, 2, 3, 5)
        if min(sizes) * 0.8 < m * 10.0**e < max(sizes) * 1.3
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("size on disk, MB (log scale)")
    axes.set_ylabel("NLL of the teacher's answers,\nnats a token")
    return _svg(figure)


def _apart(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """(row, height of its label in points): labels stand clear of other labels and of points to the right."""
    nll = [row["nll"] for row in rows]
    points_a_nat = 170 / (max(nll) - min(nll) or 1.0)
    placed: list[tuple[dict[str, Any], float]] = []
    for row in sorted(rows, key=lambda r: r["nll"]):
        at, own = math.log(row["bytes"]), row["nll"] * points_a_nat
        labels = [h for other, h in placed if abs(at - math.log(other["bytes"])) < LABEL_WIDTH]
        points = [
            r["nll"] * points_a_nat - 3
            for r in rows
            if 0.02 < math.log(r["bytes"]) - at < LABEL_WIDTH
        ]
        height = own - 3
        while any(abs(height - y) < 10 for y in [*labels, *points]):
            height += 2
        placed.append((row, height))
    return [(row, round(height - row["nll"] * points_a_nat)) for row, height in placed]


def speed(table: list[dict[str, Any]]) -> str:
    """Tokens per second of the evaluation's greedy answers, batched; each in its own runtime."""
    figure, axes = _figure()
    for i, row in enumerate(reversed(table)):
        axes.barh(i, row["tokens_per_second"], color=COLOURS.get(row["model"], OTHER), height=0.62)
        axes.text(
            row["tokens_per_second"],
            i,
            f" {row['tokens_per_second']:,.0f}",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(
        range(len(table)),
        [f"{row['model']} ({row['runtime'].split(',')[0]})" for row in reversed(table)],
    )
    axes.set_xlabel("answer tokens a second, many prompts at once")
    axes.margins(x=0.15)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "distill", "font.family": "sans-serif"}
    ):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    metadata = svg[svg.index("<metadata>") : svg.index("</metadata>") + len("</metadata>")]
    return svg[svg.index("<svg") :].replace(metadata, "")
