"""The manifests of a small finished run, shortened to what a report may show."""

from collections.abc import Callable
from pathlib import Path

import pytest
from report_helpers import finished_manifests

from distill.core.run_folder import Manifest
from distill.recipe import Recipe, load_recipe

QUICKSTART = Path(__file__).parent.parent.parent / "recipes" / "quickstart.yaml"


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """The quickstart, with overrides."""
    return lambda *overrides: load_recipe(QUICKSTART, overrides)


@pytest.fixture
def manifests() -> dict[str, Manifest]:
    """By stage; a test may change a result before it is read."""
    return finished_manifests()
