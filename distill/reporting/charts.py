"""The kinds of chart that the report has: dots with intervals, bars, curves, and scattered points.

Each takes plain values and names, and returns SVG with an alternative text that holds the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.reporting.svg import (
    WIDTH,
    Drawing,
    Point,
    Scale,
    shortened,
    span,
    text_width,
)

ROW = 20.0  # the height of a row
AXIS = 34.0  # the height of an axis with its name
LABELS = 0.42  # the share of the width that names may take
FIGURES = 0.45  # and that figures may take


@dataclass(frozen=True)
class Row:
    """A named value, with its interval where there is one. `css`: what kind of model it is."""

    name: str
    value: float
    told: str
    css: str = "other"
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> list[float]:
        return [end for end in (self.low, self.value, self.high) if end is not None]

    @property
    def alternative(self) -> str:
        return f"{self.name} {self.told}"


@dataclass(frozen=True)
class _Frame:
    """Where the rows of a chart lie: between the names and the figures, above the axis."""

    drawing: Drawing
    scale: Scale
    names_end: float


def dots(
    rows: Sequence[Row],
    axis: str,
    *,
    ends: tuple[float, float] | None = None,
    with_zero: bool = False,
    width: float = WIDTH,
) -> str:
    """Draw a dot a row and a line for its interval. `ends`: of the axis; else those of the rows."""
    values = [end for row in rows for end in row.ends] + [0.0] * with_zero
    frame = _frame(rows, ends or span(values), width)
    _axis(frame, axis, len(rows))
    if with_zero:
        zero = frame.scale.at(0.0)
        frame.drawing.line((zero, 4), (zero, 4 + ROW * len(rows)), "zero")
    for number, row in enumerate(rows):
        middle = 4 + ROW * (number + 0.5)
        _names(frame, row, middle)
        if row.low is not None and row.high is not None:
            start, end = frame.scale.at(row.low), frame.scale.at(row.high)
            frame.drawing.line((start, middle), (end, middle), f"interval {row.css}")
        frame.drawing.circle(frame.scale.at(row.value), middle, 4, f"dot {row.css}")
    return frame.drawing.svg(_alternative(axis, rows))


def bars(rows: Sequence[Row], axis: str, *, width: float = WIDTH) -> str:
    """Draw a bar a row, from zero; values are not negative."""
    most = max([0.0, *(row.value for row in rows)]) or 1.0
    frame = _frame(rows, (0.0, most), width)
    _axis(frame, axis, len(rows))
    start = frame.scale.at(0.0)
    for number, row in enumerate(rows):
        top = 4 + ROW * number
        _names(frame, row, top + ROW / 2)
        length = frame.scale.at(row.value) - start
        frame.drawing.bar(start, top + 4, length, ROW - 8, f"bar {row.css}")
    return frame.drawing.svg(_alternative(axis, rows))


def _frame(rows: Sequence[Row], ends: tuple[float, float], width: float) -> _Frame:
    """Return the frame of a chart of rows, with room for the longest name and figure."""
    names = max((text_width(row.name) for row in rows), default=0.0)
    names_end = min(names, LABELS * width) + 4
    figures = max((text_width(row.told, small=True) for row in rows), default=0.0)
    figures_start = width - min(figures, FIGURES * width)
    drawing = Drawing(width, 4 + ROW * len(rows) + AXIS)
    scale = Scale(*ends, names_end + 8, figures_start - 10)
    return _Frame(drawing, scale, names_end)


def _names(frame: _Frame, row: Row, middle: float) -> None:
    name = shortened(row.name, frame.names_end)
    frame.drawing.text(0, middle + 4, name, f"name {row.css}")
    told = shortened(row.told, FIGURES * frame.drawing.width, small=True)
    frame.drawing.text(frame.drawing.width, middle + 4, told, "small", "end")


def _axis(frame: _Frame, name: str, num_rows: int) -> None:
    """Draw ticks, their lines and the axis' name below the rows."""
    scale, bottom = frame.scale, 4 + ROW * num_rows
    room = scale.end - scale.start
    for tick in scale.ticks(max(int(room / 55), 1)):
        x = scale.at(tick)
        frame.drawing.line((x, 2), (x, bottom), "grid")
        frame.drawing.text(x, bottom + 13, f"{tick:,g}", "tick", "middle")
    _axis_name(frame.drawing, bottom + 28, name)


def _axis_name(drawing: Drawing, y: float, name: str) -> None:
    """Write it at the right end, or from the left edge where it is as long as that."""
    drawing.text(drawing.width, y, shortened(name, drawing.width, small=True), "axis", "end")


def _alternative(axis: str, rows: Sequence[Row]) -> str:
    return f"{axis}: {'; '.join(row.alternative for row in rows) or 'nothing'}"


@dataclass(frozen=True)
class Spot:
    """A point with a name. `failed`: it is drawn as a cross. An empty name is not written."""

    name: str
    x: float
    y: float
    css: str = "other"
    failed: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axes:
    """The names and ends of a chart's axes; the y axis' name stands above it."""

    x_name: str
    y_name: str
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    is_log: bool = False


@dataclass(frozen=True)
class Level:
    """A value across the whole chart, such as the teacher's, which has no size here."""

    name: str
    value: float
    css: str


def scatter(
    spots: Sequence[Spot],
    axes: Axes,
    *,
    level: Level | None = None,
    named: bool = True,
    width: float = WIDTH,
    height: float = 220,
) -> str:
    """Draw points on two axes, with their names where `named`, and a level across."""
    drawing = Drawing(width, height)
    x, y = _plane(drawing, axes)
    if level is not None:
        across = y.at(level.value)
        drawing.line((x.start, across), (x.end, across), f"level {level.css}")
        if named:
            drawing.text(x.start + 2, across - 4, level.name, f"small {level.css}")
    for spot in spots:
        at = x.at(spot.x), y.at(spot.y)
        if spot.low is not None and spot.high is not None:
            drawing.line((at[0], y.at(spot.low)), (at[0], y.at(spot.high)), f"interval {spot.css}")
        if spot.failed:
            drawing.cross(*at, 4, f"cross {spot.css}")
        else:
            drawing.circle(*at, 4, f"dot {spot.css}")
    if named:
        for (left, baseline), spot in zip(_label_places(spots, x, y, width), spots, strict=True):
            drawing.text(left, baseline, spot.name, f"small {spot.css}")
    return drawing.svg(_scatter_alternative(spots, axes, level))


def _scatter_alternative(spots: Sequence[Spot], axes: Axes, level: Level | None) -> str:
    told = [f"{spot.name} at {spot.x:,.4g}: {spot.y:,.4g}" for spot in spots]
    if level is not None:
        told.insert(0, f"{level.name}: {level.value:,.4g}")
    return f"{axes.y_name} against {axes.x_name}: {'; '.join(told) or 'nothing'}"


def _label_places(spots: Sequence[Spot], x: Scale, y: Scale, width: float) -> list[Point]:
    """Return where each name stands: beside its point, clear of other names and of points.

    To the right, or to the left where it would leave the picture; as near as there is room.
    """
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    points = [(x.at(spot.x), y.at(spot.y)) for spot in spots]
    for at_x, at_y in points:
        taken.append((at_x - 4, at_x + 4, at_y + 4))
    places = []
    for spot, (at_x, at_y) in zip(spots, points, strict=True):
        size = text_width(spot.name, small=True)
        left = at_x + 7
        if left + size > width:
            left = max(at_x - 7 - size, 0.0)
        baseline = _free_baseline(left, left + size, at_y + 4, taken)
        taken.append((left, left + size, baseline))
        places.append((left, baseline))
    return places


def _free_baseline(
    left: float, right: float, baseline: float, taken: Sequence[tuple[float, float, float]]
) -> float:
    """Return the baseline nearest to the given one whose line of letters is free, first upwards."""
    near = [other for start, end, other in taken if start < right and left < end]
    for distance in range(0, 200, 2):
        for candidate in (baseline - distance, baseline + distance):
            if candidate > 10 and all(abs(candidate - other) >= 10 for other in near):
                return candidate
    return baseline


@dataclass(frozen=True)
class Curve:
    """A curve with its points; `ring` marks one of them, `thin` stands back."""

    name: str
    points: Sequence[Point]
    css: str
    ring: Point | None = None
    thin: bool = False


def curves(lines: Sequence[Curve], axes: Axes, *, width: float = WIDTH, height: float = 230) -> str:
    """Draw curves, named above by a legend."""
    drawing = Drawing(width, height)
    x, y = _plane(drawing, axes)
    for line in lines:
        points = [(x.at(step), y.at(value)) for step, value in line.points]
        drawing.curve(points, f"curve {line.css}{' thin' if line.thin else ''}")
        if not line.thin:
            for at in points:
                drawing.circle(*at, 2, f"dot {line.css}")
        if line.ring is not None:
            drawing.circle(x.at(line.ring[0]), y.at(line.ring[1]), 6, f"ring {line.css}")
    _legend(drawing, [line for line in lines if not line.thin])
    return drawing.svg(_curves_alternative(lines, axes))


def _legend(drawing: Drawing, lines: Sequence[Curve]) -> None:
    right = drawing.width
    for line in reversed(lines):
        right -= text_width(line.name, small=True)
        drawing.text(right, 24, line.name, f"small {line.css}")
        drawing.circle(right - 7, 20, 3, f"dot {line.css}")
        right -= 20


def _curves_alternative(lines: Sequence[Curve], axes: Axes) -> str:
    told = []
    for line in lines:
        if line.points and not line.thin:
            (first, start), (last, end) = line.points[0], line.points[-1]
            told.append(f"{line.name} {start:,.4g} at {first:,g} to {end:,.4g} at {last:,g}")
    return f"{axes.y_name} against {axes.x_name}: {'; '.join(told) or 'nothing'}"


def _plane(drawing: Drawing, axes: Axes) -> tuple[Scale, Scale]:
    """Draw both axes with grid lines and names; return their scales."""
    top, bottom = 30.0, drawing.height - AXIS
    y = Scale(*axes.y_ends, bottom, top)
    y_ticks = y.ticks(max(int((bottom - top) / 35), 2))
    left = max(text_width(f"{tick:,g}", small=True) for tick in (*y_ticks, 0)) + 6
    x = Scale(*axes.x_ends, left, drawing.width - 8, is_log=axes.is_log)
    for tick in y_ticks:
        drawing.line((left, y.at(tick)), (drawing.width, y.at(tick)), "grid")
        drawing.text(left - 4, y.at(tick) + 3, f"{tick:,g}", "tick", "end")
    for tick in x.ticks(max(int(drawing.width / 70), 2)):
        drawing.line((x.at(tick), bottom), (x.at(tick), bottom + 3), "grid")
        drawing.text(x.at(tick), bottom + 14, f"{tick:,g}", "tick", "middle")
    drawing.text(0, 10, shortened(axes.y_name, drawing.width, small=True), "axis")
    _axis_name(drawing, bottom + 29, axes.x_name)
    return x, y
