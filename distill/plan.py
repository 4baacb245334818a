"""plan: memory, time, disk and download of each stage on this machine, and what the licences allow. Loads no weights.

What a stage takes is estimated in costs.py. What cannot come out well is refused here, before the teacher has cost anything.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distill import chat
from distill.catalog import catalog
from distill.chat.tokenizers import students_tokenizer, tokenizers_of
from distill.core.jsonl import write_atomic
from distill.core.run_folder import RunFolder, StageOutput
from distill.errors import MissingError
from distill.models import find
from distill.planning import preflight
from distill.planning.costs import (
    ELSEWHERE,
    Cost,
    Size,
    Work,
    stage_costs,
    student_size,
    teacher_size,
    work_of,
)
from distill.planning.machine import GB, Machine, this_machine
from distill.recipe import Recipe
from distill.text.identification import by_script_only
from distill.text.scripts import scripts_of


def run(recipe: Recipe, folder: RunFolder) -> StageOutput:
    result = make_plan(recipe, folder)
    path = folder.stage("plan") / "plan.json"
    write_atomic(path, json.dumps(result, indent=1, ensure_ascii=False))
    return StageOutput(result, [path])


def make_plan(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Costs by stage, the licence verdict, and the text that `distill plan` prints."""
    for code in recipe.languages:
        scripts_of(code)  # an unknown code is refused here, not after generation
    note = _check_tokenizers(recipe)
    preflight.check_formats(recipe)
    machine = this_machine(
        folder.path, with_gpu=not recipe.teacher.device == recipe.train.device == "cpu"
    )
    teacher = teacher_size(recipe)
    student = student_size(recipe, teacher)
    work = work_of(recipe)
    costs = stage_costs(recipe, machine, teacher, student, work)
    verdict = catalog.verdict(
        recipe.teacher.model,
        recipe.student.model,
        declared_teacher=recipe.teacher.licence,
        declared_base=recipe.student.licence,
        use=recipe.learns,
    )
    warnings = _warnings(recipe, machine, costs)
    text = _text(machine, teacher, student, work, note, costs, verdict, warnings)
    return {
        "machine": asdict(machine),
        "teacher": asdict(teacher),
        "student": asdict(student),
        "work": asdict(work),
        "stages": {name: asdict(cost) for name, cost in costs.items()},
        "licence": asdict(verdict),
        "warnings": warnings,
        "text": text,
    }


def _warnings(recipe: Recipe, machine: Machine, costs: Mapping[str, Cost]) -> list[str]:
    room = machine.gpu_memory if machine.gpu else machine.memory
    where = "GPU memory" if machine.gpu else "memory"
    found = [
        f"{name} needs about {cost.memory / GB:.1f} GB of {where}, this machine has {room / GB:.1f} GB"
        for name, cost in costs.items()
        if cost.memory > room
    ]
    if any("generate" in w or "capture" in w for w in found):
        found.append(
            "a smaller teacher, teacher.quantization=nf4 or a smaller teacher.batch_tokens needs less"
        )
    if any(w.startswith("train") for w in found):
        found.append(
            "train.optimizer=paged_adamw_8bit, gradient_checkpointing, lora_rank or micro_batch_tokens need less"
        )
    disk = sum(c.disk + c.download for c in costs.values())
    if disk > machine.disk_free:
        found.append(
            f"the run needs about {disk / GB:.1f} GB of disk, {machine.disk_free / GB:.1f} GB is free"
        )
    if odd := preflight.wide_rows(recipe):
        found.append(odd)
    if unknown := by_script_only(recipe.languages):
        found.append(f"languages: {unknown}")
    return found


def _text(
    machine: Machine,
    teacher: Size,
    student: Size,
    work: Work,
    note: str | None,
    costs: Mapping[str, Cost],
    verdict: Any,
    warnings: list[str],
) -> str:
    size = (
        "of unknown size, on a server"
        if teacher == ELSEWHERE
        else f"{teacher.parameters:,} parameters"
    )
    lines = [
        f"this machine: {machine}",
        f"teacher {size}, student {student.parameters:,}",
        str(work),
        *([note] if note else []),
        "",
        f"{'stage':<12}{'memory GB':>10}{'time':>10}{'disk GB':>9}{'download GB':>13}",
    ]
    for name, cost in costs.items():
        lines.append(
            f"{name:<12}{cost.memory / GB:>10.1f}{_duration(cost.seconds):>10}{cost.disk / GB:>9.2f}{cost.download / GB:>13.2f}"
        )
    total = [sum(getattr(c, k) for c in costs.values()) for k in ("seconds", "disk", "download")]
    peak = max(c.memory for c in costs.values())
    lines.append(
        f"{'in all':<12}{peak / GB:>10.1f}{_duration(total[0]):>10}{total[1] / GB:>9.2f}{total[2] / GB:>13.2f}"
    )
    lines += [
        "",
        f"licences: {verdict.level}: {'; '.join(verdict.sentences)}",
        *(f"  - {duty}" for duty in verdict.duties),
    ]
    lines += [f"warning: {warning}" for warning in warnings]
    note = (
        "estimates; of GPUs compared with an H200 alone"
        if machine.gpu
        else "estimates, within a factor of two"
    )
    return "\n".join([*lines, f"({platform.machine()}; {note})"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _check_tokenizers(recipe: Recipe) -> str | None:
    """What is to be said about two tokenizers, if anything. Where a signal is captured, different ones are refused before the
    teacher has cost anything; all this where both are on this machine."""
    if recipe.student.model is None:
        return None
    try:
        for model in (recipe.student, *([] if recipe.teacher.text_only else [recipe.teacher])):
            find.read_config(recipe.model_location(model.model or ""), model.revision)
    except MissingError:
        return None  # not on this machine yet: `initialize` compares them
    found = tokenizers_of(recipe)
    if recipe.capture.signal != "none":
        chat.require_same_tokenizer(recipe, found.teacher, students_tokenizer(recipe))
    return (
        None
        if found.same
        else f"the student learns the answers' text in its own tokenizer ({found.difference})"
    )
