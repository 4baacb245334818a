"""Fill in the templates of the report and of the model card."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_html(template: str, **values: Any) -> str:
    """Return the page or part of it. All values are escaped, but for what is passed as `Markup`."""
    return _environment(autoescape=True).get_template(template).render(values)


def render_markdown(template: str, **values: Any) -> str:
    """Return the text. Values stay as they are, but none can begin an HTML tag."""
    return _environment(autoescape=False).get_template(template).render(values)


@cache
def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("distill.reporting"),
        autoescape=autoescape,
        undefined=StrictUndefined,  # a figure that is not there is a fault, not a gap in the page
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=None if autoescape else _without_tags,
    )
    environment.filters |= {
        "thousands": _thousands,
        "counts": _counts,
        "pairs": _pairs,
        "minute": _minute,
    }
    return environment


def _thousands(number: int) -> str:
    return f"{number:,}"


def _minute(moment: str) -> str:
    """Return a manifest's time, which is UTC, as a person reads it."""
    return f"{moment[:16].replace('T', ' ')} UTC"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _pairs(values: Mapping[str, object], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())


def _without_tags(value: object) -> object:
    """Return the value so that Markdown, which passes HTML on, shows it as text."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value
