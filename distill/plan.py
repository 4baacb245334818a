"""plan: memory, time, disk and download of each stage on this machine, and what the licences allow.

Loads no weights. What cannot come out well is refused here, before the teacher has cost anything.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain

from distill import chat
from distill.benchmarks.reading import read_all
from distill.catalog.catalog import LicenceVerdict, begun_with
from distill.chat.tokenizers import Tokenizers, load_students_tokenizer
from distill.conduct.sets import requests_of
from distill.core.files import write_atomic
from distill.core.processes import ALONE, Processes, launched_number
from distill.core.results import PlanResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.bad_rows import Left
from distill.data.counted_texts import texts_inputs
from distill.data.prompts import split_prompts
from distill.data.routes import routed
from distill.data.samples import Prompt
from distill.errors import MissingError
from distill.models import find
from distill.planning import lengths
from distill.planning.chunks import planned_chunks
from distill.planning.conversations import check_conversations
from distill.planning.costs import Workload, in_turn
from distill.planning.cuts import check_cuts, deep_cut
from distill.planning.destinations import check_destinations, text_of_destinations
from distill.planning.launches import divided, duration, launch_told, too_little_memory
from distill.planning.licences import licence_verdict, require_permission
from distill.planning.machine import GB, Machine, this_machine
from distill.planning.overlooked import fields_of_other_methods, without_prompts_told
from distill.planning.round_costs import rounds_warning
from distill.planning.scoring import capture_told
from distill.planning.several import (
    check_widths,
    lengths_told,
    planned_routes,
    teacher_figures,
    teachers_told,
    without_gpu,
    without_prompts,
)
from distill.planning.sizes import UNKNOWN_SIZE
from distill.planning.spreading import check_spreading, other_ways, spreading_told
from distill.planning.training import sharding_told
from distill.planning.vocabulary import check_vocabulary, planned_vocabulary
from distill.recipe import Recipe
from distill.recipe.sections import Student, Teacher
from distill.teachers.fingerprint import answers_inputs
from distill.teachers.launch import check_division
from distill.teachers.routes import Route, students_tokenizers
from distill.text.identification import by_script_only
from distill.text.scripts import scripts_of


def stage(planned: Sequence[Stage]) -> Stage:
    """Return the stage that plans the stages `planned`, which come after it."""
    return Stage(
        "plan",
        "memory, time, disk, download and licences of a recipe on this machine; downloads nothing",
        partial(run, planned=planned),
        PlanResult,
        Recipe.identity,
        inputs,
        cheap=True,
        keeps_files=True,
    )


def run(
    recipe: Recipe, folder: RunFolder, processes: Processes = ALONE, *, planned: Sequence[Stage]
) -> StageOutput:
    result = make_plan(_as_launched(recipe, processes), folder, planned)
    path = folder.stage("plan") / "plan.json"
    write_atomic(path, json.dumps(asdict(result), indent=1, ensure_ascii=False))
    return StageOutput(result, [path])


def _as_launched(recipe: Recipe, processes: Processes) -> Recipe:
    """Return the recipe with the number of processes that run, where it names none."""
    if recipe.num_processes is not None or processes.num == 1:
        return recipe
    return recipe.model_copy(update={"num_processes": max(processes.num, recipe.team_size)})


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return who teacher and student are, the texts, and the number of processes it reckons with."""
    model = recipe.student.model or recipe.teacher.model
    student = find.identity(recipe.model_location(model), recipe.student.revision)
    found = answers_inputs(recipe) | {"student": student}
    if recipe.num_processes is None and (num := launched_number()) > 1:
        found["num_processes"] = str(num)  # it reckons with those that run
    return found | texts_inputs(recipe)


def make_plan(recipe: Recipe, folder: RunFolder, planned: Sequence[Stage]) -> PlanResult:
    """Return costs by stage, the licence verdict, and the text that `distill plan` prints."""
    for code in recipe.languages:
        scripts_of(code)  # an unknown code is refused here, not after generation
    tokenizers = _tokenizers_here(recipe)
    note = _check_recipe(recipe, tokenizers)
    routes = planned_routes(recipe, tokenizers)
    cannot_ask = _check_models(recipe, routes)
    left = Left()
    prompts = _checked_prompts(recipe, routes, tokenizers, left)
    work, of_tokens = _workload(recipe, folder, routes, tokenizers, prompts)
    check_spreading(work)
    costs = stage_costs(work, planned)
    verdict = licence_verdict(recipe, [route.recipe for route in routes])
    found = (
        note,
        *teachers_told(routes, work),
        *of_tokens,
        sharding_told(work),
        launch_told(work, planned),
    )
    notes = [text for text in found if text] + capture_told(work) + spreading_told(work)
    notes += text_of_destinations(recipe, *prompts)
    warnings = [*left.notes, *_warnings(recipe, work.machine, costs)]
    warnings += [*cannot_ask, *_warnings_of_work(work, planned, costs)]
    warnings += [*fields_of_other_methods(recipe), *without_prompts_told(recipe, prompts)]
    return PlanResult(
        machine=asdict(work.machine),
        teacher=asdict(work.teacher),
        student=asdict(work.student),
        work=asdict(work.demand),
        stages=costs,
        licence=verdict,
        warnings=warnings,
        text=_text(work, notes, costs, verdict, warnings),
        teachers=teacher_figures(routes, work),
    )


def _check_recipe(recipe: Recipe, tokenizers: Tokenizers | None) -> str | None:
    """Refuse what can be seen without the teachers' models; return a note on the tokenizers."""
    note = _check_tokenizers(recipe, tokenizers)
    check_vocabulary(recipe, tokenizers)
    check_destinations(recipe)
    require_permission(recipe)
    return note


def _check_models(recipe: Recipe, routes: Sequence[Route]) -> list[str]:
    """Refuse teachers, students and formats that do not go together; return what could not be asked."""
    from distill.planning import preflight

    for route in routes:
        preflight.check_gguf_teacher(route.recipe)
        preflight.check_quantization(route.recipe)
        check_division(route.recipe)
    cannot_ask = [preflight.check_scoring(route.recipe) for route in routes]
    for route in routes:
        lengths.check_models(route.recipe, route.connect())
    check_widths(routes)
    check_cuts(recipe)
    preflight.check_formats(recipe)
    preflight.check_answering(recipe)
    return [text for text in cannot_ask if text is not None]


def _checked_prompts(
    recipe: Recipe, routes: Sequence[Route], tokenizers: Tokenizers | None, left: Left
) -> tuple[list[Prompt], list[Prompt]]:
    """Return the prompts to learn from and the held-out ones; notes on them go to `left`."""
    read_all(recipe)  # the benchmarks; what is wrong with them is told before they are asked
    prompts = split_prompts(recipe, left)
    parts = routed(recipe, [*chain(*prompts)])
    requests_of(recipe)  # those that no teacher takes are told before anything is paid for
    if tokenizers is not None:
        for route in routes:
            check_conversations(route.recipe, route.connect().tokenizers, parts[route.name])
        left.notes += lengths_told(routes, recipe, prompts)
    return prompts


def _workload(
    recipe: Recipe,
    folder: RunFolder,
    routes: Sequence[Route],
    tokenizers: Tokenizers | None,
    prompts: tuple[list[Prompt], list[Prompt]],
) -> tuple[Workload, list[str | None]]:
    """Return what is to be done on this machine, and what is told of the student's tokens."""
    machine = this_machine(folder.path, with_gpu=not without_gpu(recipe))
    vocabulary = planned_vocabulary(recipe, tokenizers, prompts)
    chunks = None
    if recipe.capture.signal == "chunks" and tokenizers is not None:
        chunks = planned_chunks(routes[0].connect(), chain(*prompts))
    views = [route.recipe for route in routes]
    size = vocabulary.size if vocabulary else None
    work = Workload.of(recipe, machine, prompts, size, views)
    return work, [vocabulary.text if vocabulary else None, chunks]


def _less_of_teacher(recipe: Recipe, machine: Machine, section: str) -> str:
    """Return what makes a teacher need less memory; in parts it cannot be quantized as well."""
    from distill.planning.preflight import is_mixture_of_experts

    in_parts = any(view.teacher.num_parts > 1 for view in recipe.views)
    way = f"{section}.quantization=nf4"
    if any(map(is_mixture_of_experts, recipe.views)):
        way = f"a GGUF file of 4 bits ({section}.gguf)"
    if in_parts:
        way = f"a larger {section}.tensor_parallel"
    text = f"a smaller teacher, {way} or a smaller {section}.batch_tokens needs less"
    if in_parts or any(view.teacher.device_map for view in recipe.views):
        return text
    return f"{text}{other_ways(machine, section)}"


def _warnings_of_work(
    work: Workload, planned: Sequence[Stage], costs: Mapping[str, Cost]
) -> list[str]:
    """Return what may go wrong by the work itself: memory of a node, deep cuts, rounds, a busy machine."""
    cut = work.student_source and deep_cut(work.recipe, work.student_source.layers)
    seconds = sum(cost.seconds for cost in costs.values())
    found = (
        too_little_memory(work, planned),
        cut or None,
        rounds_warning(work, seconds),
        work.machine.busy,
    )
    return [*without_prompts(work), *(text for text in found if text)]


def stage_costs(work: Workload, planned: Sequence[Stage]) -> dict[str, Cost]:
    """Return what each stage of the recipe that has a cost takes its processes, by its name."""
    stages = [stage for stage in planned if stage.left_out(work.recipe) is None]
    return {stage.name: divided(stage, work) for stage in stages if stage.cost is not None}


def _warnings(recipe: Recipe, machine: Machine, costs: Mapping[str, Cost]) -> list[str]:
    available = machine.gpu_memory if machine.gpu else machine.memory
    where = "GPU memory" if machine.gpu else "memory"
    warnings = [
        f"{name} needs about {cost.memory / GB:.1f} GB of {where}, "
        f"this machine has {available / GB:.1f} GB"
        for name, cost in costs.items()
        if cost.memory > available
    ]
    if any("generate" in warning or "capture" in warning for warning in warnings):
        section = "teacher" if recipe.teachers is None else "teachers.NAME"
        warnings.append(_less_of_teacher(recipe, machine, section))
    if any(warning.startswith(("train", "rounds")) for warning in warnings):
        warnings.append(_less_in_training(recipe))
    disk = sum(cost.disk + cost.download for cost in costs.values())
    if disk > machine.disk_free:
        warnings.append(
            f"the run needs about {disk / GB:.1f} GB of disk, {machine.disk_free / GB:.1f} GB is free"
        )
    from distill.planning import preflight

    if wide_rows := preflight.wide_rows(recipe):
        warnings.append(wide_rows)
    if not machine.gpu and not machine.bfloat16_speedup:
        warnings += preflight.slow_types(recipe)
    if unknown := by_script_only(recipe.languages):
        warnings.append(f"languages: {unknown}")
    return warnings


def _less_in_training(recipe: Recipe) -> str:
    ways = "gradient_checkpointing, lora_rank or micro_batch_tokens need less"
    if recipe.train.shard != "none":
        return f"train.{ways}; more processes, too"
    return (
        f"train.optimizer=paged_adamw_8bit, {ways}; each of several GPUs does with train.shard=full"
    )


def _text(
    work: Workload,
    notes: Sequence[str],
    costs: Mapping[str, Cost],
    verdict: LicenceVerdict,
    warnings: list[str],
) -> str:
    teacher = f"{work.teacher.parameters:,} parameters"
    if work.teacher == UNKNOWN_SIZE:
        teacher = "of unknown size, on a server"
    who = f"teacher {teacher}"
    if work.parts:
        who = f"{len(work.parts)} teachers, one after the other"
    lines = [
        f"this machine: {work.machine}",
        f"{who}, student {work.student.parameters:,}",
        str(work.demand),
        *notes,
        "",
        *_table(costs),
        "",
        f"licences: {verdict.level}:",
        *(f"  {sentence}" for sentence in verdict.sentences),
        *(f"  - {duty}" for duty in verdict.duties),
        *_accepted(work.recipe, verdict),
        *_named(work.recipe, verdict),
        *(f"warning: {warning}" for warning in warnings),
    ]
    accuracy = "estimates, within a factor of two"
    if work.machine.gpu:
        accuracy = "estimates; of GPUs compared with an H200 alone"
    return "\n".join([*lines, f"({platform.machine()}; {accuracy})"])


def _accepted(recipe: Recipe, verdict: LicenceVerdict) -> list[str]:
    """Return what was said of a licence that forbids this, where one does."""
    if recipe.licence_accepted is None or verdict.level != "forbid":
        return []
    return [f"  accepted all the same (licence_accepted): {recipe.licence_accepted}"]


def _named(recipe: Recipe, verdict: LicenceVerdict) -> list[str]:
    """Return how the card and the files will call the student, where a licence changes that."""
    title = recipe.report.title or recipe.name
    name = begun_with(verdict.name_prefix, title)
    if name == title:
        return []
    return [f"  a licence wants it so: the card calls the student {name!r}, not {title!r}"]


def _table(costs: Mapping[str, Cost]) -> list[str]:
    """Return the lines of the table of costs, and one with their sums."""
    in_all = in_turn(list(costs.values()))
    lines = [f"{'stage':<12}{'memory GB':>10}{'time':>10}{'disk GB':>9}{'download GB':>13}"]
    for name, cost in [*costs.items(), ("in all", in_all)]:
        lines.append(
            f"{name:<12}{cost.memory / GB:>10.1f}{duration(cost.seconds):>10}"
            f"{cost.disk / GB:>9.2f}{(cost.download + cost.traffic) / GB:>13.2f}"
        )
    return lines


def _tokenizers_here(recipe: Recipe) -> Tokenizers | None:
    """Return the teacher's and the student's tokenizers; None if one is not on this machine."""
    models: list[Teacher | Student] = [
        view.teacher for view in recipe.views if not view.teacher.text_only
    ]
    if recipe.student.model is not None:
        models.append(recipe.student)
    return students_tokenizers(recipe) if _are_here(recipe, models) else None


def _are_here(recipe: Recipe, models: Sequence[Teacher | Student]) -> bool:
    try:
        for model in models:
            find.read_config(recipe.model_location(model.model or ""), model.revision)
    except MissingError:
        return False
    return True


def _check_tokenizers(recipe: Recipe, tokenizers: Tokenizers | None) -> str | None:
    """Return what is to be said about two tokenizers, if anything; None where they are not here.

    Raises MismatchError for different ones where a signal is captured, before the teacher has cost
    anything. What is to be said of several teachers `teachers_told` says.
    """
    if recipe.student.model is None or recipe.teachers is not None:
        return None
    if tokenizers is None:
        return None  # `initialize` compares them
    if recipe.capture.signal not in ("none", "chunks"):
        chat.require_same_tokenizer(recipe, tokenizers.teacher, load_students_tokenizer(recipe))
    if tokenizers.same:
        return None
    return f"the student learns the answers' text in its own tokenizer ({tokenizers.difference})"
