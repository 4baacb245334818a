"""What a page must keep to, read from its HTML: no browser is needed."""

import re
from html.parser import HTMLParser
from pathlib import Path

from browser_helpers import Page

VOID = {"meta", "br", "hr", "img", "input", "link", "line", "rect", "circle", "polyline"}
NARROWEST = 360  # of today's phones, in CSS pixels
REM = 16
TOO_WIDE = """[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('svg')
    && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 40))"""
OUTSIDE_ITS_CHART = """[...document.querySelectorAll('svg text')].filter(text => {
    const t = text.getBoundingClientRect(), s = text.closest('svg').getBoundingClientRect();
    return t.left < s.left - 2 || t.right > s.right + 2 || t.bottom > s.bottom + 2 || t.top < s.top - 2;
  }).map(text => text.textContent)"""
TOO_SMALL = """[...document.querySelectorAll('svg text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.closest('svg').getBoundingClientRect().width
  / text.closest('svg').viewBox.baseVal.width).filter(size => size < 8.5)"""
# WCAG's contrast of each text with what is behind it: https://www.w3.org/TR/WCAG22/#contrast-minimum
PALE = """(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('p, td, th, h1, h2, li, a, pre, figcaption, svg text')];
  return texts.map(e => {
    const style = getComputedStyle(e);
    const colour = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(colour), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 30), colour];
  }).filter(found => found[0] < 4.5);
})()"""


class Structure(HTMLParser):
    """Reads a page and keeps what is wrong with it in `faults`."""

    def __init__(self, html: str):
        super().__init__()
        self.faults: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._ids: list[str] = []
        self._links: list[str] = []
        self.feed(html)
        self.faults += [f"not closed: {tag}" for tag, _ in self._open]
        self.faults += [
            f"leads nowhere: {link}" for link in self._links if link[1:] not in self._ids
        ]
        if len(self._ids) != len(set(self._ids)):
            self.faults.append("an id stands twice")

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._check(tag, values)
        if tag not in VOID:
            self._open.append((tag, values))

    def handle_startendtag(self, tag, attrs):
        self._check(tag, dict(attrs))

    def handle_endtag(self, tag):
        if not self._open or self._open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def _check(self, tag: str, values: dict[str, str | None]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"<{tag}>")
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.faults.append("an svg has no alternative text")
        if tag == "img" and not values.get("alt"):
            self.faults.append("an img has no alternative text")
        if tag == "table" and not self._is_in_a_box():
            self.faults.append("a table has no box of its own to scroll in")
        if "id" in values:
            self._ids.append(values["id"] or "")
        for name, value in values.items():
            self._check_attribute(tag, name, value or "")

    def _check_attribute(self, tag: str, name: str, value: str) -> None:
        if name.startswith("on") or name == "style":
            self.faults.append(f"{tag} {name}")
        if name in ("src", "href", "data", "xlink:href") and not value.startswith("#"):
            self.faults.append(f"{tag} asks for {value!r}")
        elif name == "href":
            self._links.append(value)
        if name in ("width", "height") and tag in ("img", "svg", "table", "td", "th"):
            self.faults.append(f"{tag} has a fixed {name}")

    def _is_in_a_box(self) -> bool:
        return any("scroll" in (values.get("class") or "").split() for _, values in self._open)


def faults_of(html: str) -> list[str]:
    """Return what is wrong with a page: markup, addresses, alternatives, fixed widths."""
    faults = Structure(html).faults
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    faults += [f"the style asks for {word}" for word in ("@import", "url(") if word in style]
    for size, unit in re.findall(r"(?<!max-)(?<!device-)width:\s*([\d.]+)(px|rem|em)", style):
        pixels = float(size) * (1 if unit == "px" else REM)
        if pixels > NARROWEST:
            faults.append(f"a fixed width of {size}{unit}")
    for unguarded in re.findall(r"minmax\((?!min\()([\d.]+)rem", style):
        faults.append(f"a column is never narrower than {unguarded}rem")
    if 'name="viewport" content="width=device-width, initial-scale=1"' not in html:
        faults.append("no viewport")
    return faults


def look(page: Page, html: Path, shots: Path) -> None:
    """Look at a page in a browser: wide and narrow, light, dark and printed. `shots`: for pictures."""
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page.open(html, width, scheme=scheme)
            shot = shots / f"{width}-{scheme}.png"
            page.screenshot(shot)
            assert shot.stat().st_size > 20_000, "a picture of something"
            assert page.ask("document.documentElement.scrollWidth") == width, "nothing sticks out"
            assert page.ask(TOO_WIDE) == []
            assert page.ask(OUTSIDE_ITS_CHART) == []
            assert page.ask(TOO_SMALL) == []
            assert page.ask(PALE) == [], f"{scheme}: letters that are hard to read"
    page.open(html, 718, media="print")  # A4 with the usual margins
    assert page.ask("document.documentElement.scrollWidth") <= 718, (
        "a printed page cuts nothing off"
    )
