"""gates: which files must not be used by `evaluate.gates`, in all and in each language by itself.

    gates/gates.json   the files that failed, and what no gate could be asked of

Nobody is asked and nothing is measured: the checks of `quantize` and the answers of `safety` are held
against the recipe's limits, so other limits take no time.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.conduct import gates
from distill.conduct.answers import read_outcomes
from distill.core.processes import ALONE, Processes
from distill.core.results import FileCheck, QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.safety_results import GatesResult, with_gates
from distill.core.stage import Stage
from distill.core.stored_json import write_json
from distill.recipe import Recipe


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    """Judge every file, and name those that fail.

    Raises MissingError where the files were checked by a version that did not tell languages apart.
    """
    limits = recipe.evaluate.gates
    assert limits is not None  # the stage is left out
    checks = folder.require("quantize", QuantizeResult, recipe).result.formats
    conduct = []
    if recipe.evaluate.safety is not None:
        conduct = read_outcomes(folder.stage("safety") / "outcomes.jsonl")
    result = gates.judged(limits, checks, conduct)
    _say(folder.stage("quantize"), checks, result)
    path = folder.stage("gates") / "gates.json"
    write_json(path, asdict(result), indent=1)
    return StageOutput(result, [path])


def _say(quantize: Path, checks: Mapping[str, FileCheck], result: GatesResult) -> None:
    """Say which files failed, and where Ollama's Modelfile is of one of them."""
    from distill.formats.gguf.modelfile import smallest_passing

    for name, reason in result.failed.items():
        print(f"gates: {name} FAILED: {reason}", file=sys.stderr, flush=True)
    named = smallest_passing(checks)  # when quantize wrote `Modelfile`
    if named in result.failed:
        best = smallest_passing(with_gates(checks, result))
        way_out = f"use {best}.Modelfile there" if best else "no GGUF file passed"
        print(f"gates: {quantize / 'Modelfile'} is of {named}: {way_out}", file=sys.stderr)


def left_out(recipe: Recipe) -> str | None:
    return "evaluate.gates is null" if recipe.evaluate.gates is None else None


def section(recipe: Recipe) -> dict[str, Any]:
    """Return the limits that files must keep."""
    limits = recipe.evaluate.gates
    return {"gates": None if limits is None else limits.identity()}


def reads(recipe: Recipe) -> list[str]:
    return ["quantize"] if recipe.evaluate.safety is None else ["quantize", "safety"]


STAGE = Stage(
    "gates",
    "which files fail a gate, in all and in one language",
    run,
    GatesResult,
    section,
    reads=reads,
    left_out=left_out,
    cheap=True,
)
