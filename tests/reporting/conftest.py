"""The manifests of a small finished run, shortened to what a report may show."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from report_helpers import RESULTS

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
    return {
        stage: Manifest(
            stage=stage,
            section={"train": {"soft_weight": 0.5}} if stage == "train" else {},
            inputs={},
            seed=0,
            result=copy.deepcopy(result),
            files={},
            seconds=60.0,
            finished="2026-11-22T10:00:00",
            machine="a laptop",
            versions={"torch": "2.9", "distill": "0.1.0"},
        )
        for stage, result in RESULTS.items()
    }
