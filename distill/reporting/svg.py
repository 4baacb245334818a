"""Draw simple charts as SVG that stands in a page: its colours and type are the page's.

Every mark has a class and no colour, so the page's style sheet draws it for light, dark and print.
A chart is narrow: on a phone it is as wide as the screen and its letters stay readable.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources

WIDTH = 360  # of a chart, in CSS pixels on a phone
EDGE = 12  # around the charts of a file
LETTER = 6.2  # the width of a letter of the charts' type of 11 pixels, about
SMALL = 0.86  # of it, for the letters of class "small"

Point = tuple[float, float]


class Drawing:
    """A picture under way. x goes right and y goes down, both in pixels."""

    def __init__(self, width: float, height: float):
        self.width = width
        self.height = height
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        at = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{css}" {at}>{escape(_with_minus(text))}</text>')

    def line(self, start: Point, end: Point, css: str) -> None:
        (x1, y1), (x2, y2) = start, end
        ends = " ".join(
            f'{name}="{_number(value)}"'
            for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))
        )
        self._parts.append(f'<line class="{css}" {ends}/>')

    def curve(self, points: Iterable[Point], css: str) -> None:
        told = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._parts.append(f'<polyline class="{css}" points="{told}"/>')

    def circle(self, x: float, y: float, radius: float, css: str) -> None:
        at = f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"'
        self._parts.append(f'<circle class="{css}" {at}/>')

    def cross(self, x: float, y: float, radius: float, css: str) -> None:
        self.line((x - radius, y - radius), (x + radius, y + radius), css)
        self.line((x - radius, y + radius), (x + radius, y - radius), css)

    def bar(self, x: float, y: float, width: float, height: float, css: str) -> None:
        size = f'width="{_number(max(width, 0.0))}" height="{_number(height)}"'
        self._parts.append(f'<rect class="{css}" x="{_number(x)}" y="{_number(y)}" {size} rx="2"/>')

    def svg(self, alternative: str) -> str:
        """Return the picture. `alternative`: what it shows, in words, for those who do not see it."""
        box = f"0 0 {_number(self.width)} {_number(self.height)}"
        label = escape(alternative, quote=True)
        return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(self._parts)}</svg>'


class Scale:
    """Where a value lies, in pixels: from `start` at the value `low` to `end` at `high`."""

    def __init__(self, low: float, high: float, start: float, end: float, *, is_log: bool = False):
        self.low, self.high, self.start, self.end = low, high, start, end
        self.is_log = is_log

    def at(self, value: float) -> float:
        low, high = self._inner(self.low), self._inner(self.high)
        share = (self._inner(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, num: int) -> list[float]:
        """Return round values between the ends, about `num` of them."""
        return log_ticks(self.low, self.high) if self.is_log else ticks(self.low, self.high, num)

    def _inner(self, value: float) -> float:
        return math.log(value) if self.is_log else value


def standalone(pictures: Mapping[str, str]) -> str:
    """Return pictures as one SVG file, one below the other under their captions, in their colours."""
    parts, top = [], 0.0
    for caption, picture in pictures.items():
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', picture)[0])
        parts.append(
            f'<text class="caption" x="0" y="{_number(top + 16)}">{escape(caption)}</text>'
        )
        at = f'y="{_number(top + 24)}" width="{_number(width)}" height="{_number(height)}"'
        parts.append(picture.replace("<svg ", f"<svg {at} ", 1))
        top += height + 36
    size = f'width="{WIDTH + 2 * EDGE}" height="{_number(top + 2 * EDGE)}"'
    box = f"{-EDGE} {-EDGE} {WIDTH + 2 * EDGE} {_number(top + 2 * EDGE)}"
    paper = f'<rect class="paper" x="{-EDGE}" y="{-EDGE}" width="100%" height="100%"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="{box}" '
        f'font-family="system-ui, sans-serif"><style>{_style()}</style>{paper}{"".join(parts)}</svg>'
    )


@cache
def _style() -> str:
    """Return the charts' style sheet, which the page has, too."""
    file = resources.files("distill.reporting") / "templates" / "charts.css"
    return file.read_text(encoding="utf-8")


def ticks(low: float, high: float, num: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten from `low` to `high`, about `num`.

    More than that where there would be one alone, which tells no distance.
    """
    found: list[float] = []
    while len(found) < 2:
        step = _round_step((high - low) / max(num, 1))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [round(number * step, 12) for number in range(first, last + 1)]
        num += 1
    return found


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of every power of ten from `low` to `high`.

    They are thinned where they are many; where there is none, other round values are returned.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= 5:
            break
    return found or ticks(low, high, 3)


def span(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """Return (low, high) around the finite values, with a margin as a share; never of no width."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = margin * (high - low) or 0.5 * abs(low) or 1.0
    return low - room, high + room


def text_width(text: str, *, small: bool = False) -> float:
    """Return about how wide a text is in a chart, in pixels; letters of the East are two wide."""
    units = sum(2 if ord(letter) > 0x2E7F else 1 for letter in text)
    return units * LETTER * (SMALL if small else 1.0)


def shortened(text: str, width: float, *, small: bool = False) -> str:
    """Return the text, cut to about so many pixels, with an ellipsis if it was cut."""
    if text_width(text, small=small) <= width:
        return text
    letter = LETTER * (SMALL if small else 1.0)
    return text[: max(int(width / letter) - 1, 1)] + "…"


def _with_minus(text: str) -> str:
    """Return the text with a minus sign, as wide as a plus, before negative numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def _number(value: float) -> str:
    """Return a coordinate with a tenth of a pixel, the same on every machine."""
    return f"{round(value, 1):g}" if abs(value) < 1e5 else f"{value:.0f}"
