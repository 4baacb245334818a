"""The drawing of charts: round ticks, escaped texts, names that stand apart and inside."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from distill.reporting import charts, svg
from distill.reporting.charts import Axes, Curve, Level, Row, Spot

HOSTILE = "<script>\"&'"


@pytest.mark.parametrize("low", [0.0, 0.2321, -17.3, 1e-6, 99.9])
@pytest.mark.parametrize("width", [1e-5, 0.3, 7.0, 1234.5])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_ticks_are_round_inside_and_about_as_many_as_asked(low, width, num):
    found = svg.ticks(low, low + width, num)
    assert 2 <= len(found) <= max(num + 1, 3)
    room = max(1e-8 * width, 1e-11)
    assert all(low - room <= tick <= low + width + room for tick in found)
    for first, second in itertools.pairwise(found):
        digits = f"{second - first:.3e}"
        assert digits[0] in "125" and digits[2:5] == "000", digits


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 2.4), (2.2, 3.9), (1.0, 1e6), (40, 55_000), (0.011, 0.9)]
)
def test_ticks_of_a_log_axis_are_few_and_inside(low, high):
    found = svg.log_ticks(low, high)
    assert 1 <= len(found) <= 7 and all(low <= tick <= high for tick in found)


def test_a_scale_puts_its_ends_at_its_ends():
    for is_log in (False, True):
        scale = svg.Scale(2.0, 32.0, 10.0, 110.0, is_log=is_log)
        assert scale.at(2.0) == pytest.approx(10) and scale.at(32.0) == pytest.approx(110)
        assert scale.at(8.0) == pytest.approx(60 if is_log else 30)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-3.0, 4.0], [1e-9]])
def test_a_span_is_never_empty_and_holds_its_values(values):
    low, high = svg.span(values)
    assert low < min(values) and max(values) < high


@pytest.mark.parametrize("values", [[math.inf, 2.0, 3.0], [math.nan, 2.0, 3.0], [math.inf]])
def test_figures_that_are_not_finite_widen_no_span(values):
    low, high = svg.span(values)
    assert math.isfinite(low) and math.isfinite(high) and low < high < 10


def every_chart(name: str, value: float) -> list[str]:
    row = Row(name, value, name, low=value - 1, high=value + 1)
    spots = [Spot(name, 10.0 ** (i % 3), value, failed=i == 0) for i in range(6)]
    axes = Axes(name, name, (0.5, 200.0), (value - 2, value + 2), is_log=True)
    level = Level(name, value, "teacher")
    points = [(1.0, value), (2.0, value)]
    curve = Curve(name, points, "student", ring=points[0])
    return [
        charts.dots([row, row], name, with_zero=True),
        charts.bars([row], name),
        charts.bars([], name),
        charts.scatter(spots, axes, level=level),
        charts.curves([curve], axes),
        charts.curves([], axes),
    ]


@pytest.mark.parametrize("value", [0.0, 1.0, -40.0, 1e7])
def test_what_a_model_is_called_is_no_markup(value):
    for chart in every_chart(HOSTILE, value):
        assert "<script" not in chart and "&lt;script" in chart
        assert "nan" not in chart and "inf" not in chart.replace("info", "")


def test_nothing_is_drawn_outside_a_chart():
    for chart in every_chart("a name that is much too long for the room that there is", 3.0):
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', chart)[0])
        for axis, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            for value in re.findall(rf' {axis}1?="(-?[\d.e+]+)"', chart):
                assert -1 <= float(value) <= most + 1, (axis, value, chart)


def test_pictures_in_a_file_of_their_own_bring_their_colours():
    first, second = (charts.bars([Row(name, 1.0, "1")], "x") for name in ("one", "two"))
    file = svg.standalone({"A <b>": first, "B": second})
    ElementTree.fromstring(file)
    assert file.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "prefers-color-scheme:dark" in file and "A &lt;b&gt;" in file
    assert re.findall(r'<svg y="(\S+)"', file) == ["24", "118"], "one below the other"


def test_names_of_points_that_lie_close_stand_apart():
    spots = [
        Spot(name, size, y)
        for name, size, y in (("a", 1.0, 1.0), ("b", 1.01, 1.001), ("c", 9.0, 2.0))
    ]
    axes = Axes("x", "y", (0.5, 20.0), (0.5, 2.5), is_log=True)
    chart = charts.scatter(spots, axes)
    at = {
        name: (float(x), float(y))
        for x, y, name in re.findall(r'class="small other" x="(\S+)" y="(\S+)"[^>]*>(\w)<', chart)
    }
    assert abs(at["a"][1] - at["b"][1]) >= 9.5, "one above the other"
    assert math.dist(at["c"], at["a"]) > 50
