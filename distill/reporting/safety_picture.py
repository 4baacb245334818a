"""The picture of what changed from teacher to control to student to file, by language."""

from collections.abc import Sequence
from typing import Any

from distill.core.safety_results import ALL, Change
from distill.reporting.plots import COLOURS, OTHER, svg
from distill.reporting.safety import CHANGES

ROW_INCHES, WIDTH_INCHES = 0.34, 6.4


def changes_picture(changes: Sequence[Change]) -> str:
    """Draw each change as a dot with its 95 % interval, and those of the languages small beside it."""
    from matplotlib.figure import Figure

    measures = [name for name in CHANGES if any(c.measure == name for c in changes)]
    names = list(dict.fromkeys((c.model, c.against) for c in changes))
    height = (ROW_INCHES * len(names) + 0.7) * len(measures)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    all_axes = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for measure, axes in zip(measures, all_axes, strict=True):
        _panel(axes, names, [c for c in changes if c.measure == measure])
        axes.set_title(CHANGES[measure], fontsize=9, loc="left")
    all_axes[-1].set_xlabel(
        "change, points (line: 95 % interval; small: each language)", fontsize=8
    )
    return svg(figure)


def _panel(axes: Any, names: Sequence[tuple[str, str]], changes: Sequence[Change]) -> None:
    axes.axvline(0, color="#999999", linewidth=0.8)
    for row, (model, against) in enumerate(reversed(names)):
        own = [c for c in changes if (c.model, c.against) == (model, against)]
        colour = COLOURS.get(model, OTHER)
        for change in own:
            found = change.change
            x = 100 * found.difference
            if change.language == ALL:
                axes.plot(
                    [100 * found.low, 100 * found.high], [row, row], color=colour, linewidth=1.4
                )
                axes.plot(x, row, "o", color=colour, markersize=6)
            else:
                axes.annotate(
                    change.language, (x, row), (0, 5), textcoords="offset points", fontsize=6
                ).set(ha="center", color="#555555")
                axes.plot(x, row, "|", color=colour, markersize=5)
    axes.set_yticks(range(len(names)), [f"{m} − {a}" for m, a in reversed(names)], fontsize=8)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
