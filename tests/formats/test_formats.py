"""Formats: the dict and the recipe's own list agree, and a new one is one class in one file."""

import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import floored_format
import pytest
from floored_format import FLOORED
from format_helpers import trained
from report_helpers import finished_manifests, read_results

from distill import evaluate, quantize
from distill.core.run_folder import Fingerprint
from distill.formats import FORMATS, W16A16, path_of
from distill.planning.preflight import check_formats
from distill.recipe.sections import Format as Name
from distill.recipe.sections.quantize import UNRECOVERABLE
from distill.reporting.table import model_rows, table_text


def test_the_recipe_knows_every_format_by_name() -> None:
    names = {name for name in FORMATS if name != W16A16.name}
    assert names == set(get_args(Name)), "name it in the recipe's Format, too"
    unrecoverable = {name for name in names if not FORMATS[name].recoverable}
    assert unrecoverable == set(UNRECOVERABLE), "name it there, or make it recoverable"
    assert all(format.name == name for name, format in FORMATS.items())


def test_a_new_format_is_written_measured_evaluated_and_reported_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`floored_format.py` has some thirty lines, and distill knows nothing of it."""
    monkeypatch.setitem(FORMATS, FLOORED.name, FLOORED)
    # a process of its own loads the folder by the function's name
    monkeypatch.setenv("PYTHONPATH", str(Path(floored_format.__file__).parent))
    overrides = ["evaluate.num_examples=4", "evaluate.max_new_tokens=16"]
    recipe, folder = trained(tmp_path, "quantize.formats=[]", *overrides)
    asked = recipe.quantize.model_copy(update={"formats": [FLOORED.name]})
    recipe = recipe.model_copy(update={"quantize": asked})

    check_formats(recipe)
    output = quantize.run(recipe, folder)
    check = output.result.formats[FLOORED.name]
    assert path_of(folder, FLOORED.name) / "model.safetensors" in output.files
    assert check.failed is None and 0 < check.kl < 0.05 and check.decode_speed > 0
    folder.finish("quantize", Fingerprint(), output, started=time.monotonic())

    evaluated = evaluate.run(recipe, folder).result
    assert evaluated.models[FLOORED.name].nll is not None
    results = replace(
        read_results(finished_manifests()), quantize=output.result, evaluate=evaluated
    )
    rows = {row.model: row for row in model_rows(results)}
    assert rows[FLOORED.name].kl == check.kl
    assert f"\n{FLOORED.name} " in table_text(list(rows.values()))
