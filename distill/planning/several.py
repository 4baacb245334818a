"""What a plan tells of several teachers: whose prompts are whose, who gives a signal, what each takes."""

from collections.abc import Sequence
from typing import Any

from distill.chat.tokenizers import Tokenizers
from distill.conduct.sets import requests_of
from distill.data.routes import routed
from distill.data.samples import Prompt
from distill.errors import MissingError
from distill.planning.costs import Workload
from distill.planning.demands import given_notes
from distill.planning.lengths import length_notes
from distill.planning.sizes import UNKNOWN_SIZE
from distill.recipe import Recipe
from distill.teachers.routes import Route, routes_of
from distill.teachers.signals import require_one_width


def planned_routes(recipe: Recipe, tokenizers: Tokenizers | None) -> list[Route]:
    """Return the routes; without tokenizers where those are not on this machine yet.

    Who gives text alone is then known as far as the recipe says it. `tokenizers`: those of a
    recipe's only teacher, which are not loaded again.
    """
    if tokenizers is None:
        return [Route(view) for view in recipe.views]
    return [Route(recipe, tokenizers)] if recipe.teachers is None else routes_of(recipe)


def check_widths(routes: Sequence[Route]) -> None:
    """Refuse hidden states of different widths, where the models' configs are here."""
    try:
        require_one_width(routes, [route.connect() for route in routes])
    except MissingError:
        return  # capture compares them


def lengths_told(
    routes: Sequence[Route], recipe: Recipe, prompts: Sequence[Sequence[Prompt]]
) -> list[str]:
    """Return what is to be told of prompts that are too long, for each teacher's own."""
    learn, held_out = (routed(recipe, of_kind) for of_kind in prompts)
    notes = []
    for route in routes:
        own = learn[route.name]
        told = length_notes(route.connect(), own, held_out[route.name])
        told += given_notes(route.recipe, own)
        notes += [f"{route.prefix}{note}" for note in told]
    return notes


def without_gpu(recipe: Recipe) -> bool:
    """Return whether the recipe says that nothing is to run on a GPU."""
    devices = {recipe.train.device, *(view.teacher.device for view in recipe.views)}
    return devices == {"cpu"}


def teachers_told(routes: Sequence[Route], work: Workload) -> list[str]:
    """Return a line on each of several teachers, none where there is one."""
    if not work.parts:
        return []
    requests = requests_of(work.recipe)
    return [
        _told(route, part, len(requests.get(route.name, ())))
        for route, part in zip(routes, work.parts, strict=True)
    ]


def _told(route: Route, part: Workload, num_requests: int) -> str:
    size = "of unknown size, on a server"
    if part.teacher != UNKNOWN_SIZE:
        size = f"{part.teacher.parameters:,} parameters"
    line = (
        f"teacher {route.name} ({route.recipe.teacher.model}), {size}: "
        f"{part.demand.num_answers:,} answers, {part.demand.num_held_out:,} held-out prompts"
    )
    if num_requests:
        line += f", {num_requests:,} requests of evaluate.safety"
    if part.demand.num_given:
        line += f", {part.demand.num_given:,} answers that are given"
    if part.demand.num_written:
        line += f", {part.demand.num_written:,} prompts to write"
    if route.why_text is not None:
        line += f"; no signal, its text alone is learnt, by cross-entropy: {route.why_text}"
    elif route.gives_signal and route.tokenizers is None:
        line += "; if it has not the student's tokenizer, which is not here yet, its text alone"
    return line


def without_prompts(work: Workload) -> list[str]:
    """Return a warning for each of several teachers to which nothing comes."""
    requests, warnings = requests_of(work.recipe), []
    for part in work.parts:
        name, demand = part.recipe.route, part.demand
        num = demand.num_answers + demand.num_given + demand.num_held_out + demand.num_written
        if num + len(requests.get(name, ())) == 0:
            warnings.append(
                f"teachers: {name}: no prompt comes to it, by its languages, sources and tasks and "
                "those of the teachers before it: change them, or take it out"
            )
    return warnings


def teacher_figures(routes: Sequence[Route], work: Workload) -> list[dict[str, Any]]:
    """Return what each of several teachers is asked and takes to answer."""
    if not work.parts:
        return []
    requests = requests_of(work.recipe)
    return [
        {
            "name": route.name,
            "model": route.recipe.teacher.model,
            "parameters": part.teacher.parameters,
            "num_answers": part.demand.num_answers,
            "num_given": part.demand.num_given,
            "num_held_out": part.demand.num_held_out,
            "num_written": part.demand.num_written,
            "num_requests": len(requests.get(route.name, ())),
            "memory": part.asking_bytes,
            "seconds": part.teacher_seconds(part.num_requests),
            "gives_signal": route.gives_signal,
            "why_text": route.why_text,
        }
        for route, part in zip(routes, work.parts, strict=True)
    ]
