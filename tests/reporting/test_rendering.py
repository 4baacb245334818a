"""Templates: a gap is a fault, and the package brings them along."""

import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from distill.reporting.rendering import render_html, render_markdown

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("render", "template"),
    [(render_html, "report.html.jinja"), (render_markdown, "model_card.md.jinja")],
)
def test_a_value_that_is_not_there_is_a_fault(render, template):
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render(template)


def test_every_template_is_in_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["distill"]
    packaged = {path for pattern in patterns for path in (ROOT / "distill").glob(pattern)}
    templates = set((ROOT / "distill" / "reporting" / "templates").iterdir())
    assert templates and templates <= packaged
