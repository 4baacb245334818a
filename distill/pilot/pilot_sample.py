"""The pilot sample: a few prompts that `probe` and `estimate` ask before the others.

    generate/probe.json     which prompts those were, a group each time, and what the last ones took

The answers go into generate's own log under generate's own keys, and `generate` decodes each group
by itself (teachers/log.py: pilot_groups), so that it asks none of them again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill import generate, tasks
from distill.chat.tokenizers import first_mark
from distill.core.digests import digest
from distill.core.jsonl import Row
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.core.stored_json import broken, write_json
from distill.data.bad_rows import Left
from distill.data.prompts import split_prompts
from distill.data.routes import routed
from distill.data.samples import Prompt, given_answers
from distill.errors import DataError
from distill.filters import prompt_filters
from distill.pipeline import at_work
from distill.planning.conversations import check_conversations
from distill.planning.licences import require_permission
from distill.recipe import Recipe
from distill.teachers.answers import answer_lengths, ask
from distill.teachers.base import Teacher
from distill.teachers.generation import Generation
from distill.teachers.kept import Filtered
from distill.teachers.keys import request_maker
from distill.teachers.launch import check_teachers_processes
from distill.teachers.log import PILOT, PILOT_WAY_OUT, read_best_rows, read_pilot
from distill.teachers.requests import Request, RequestOptions
from distill.teachers.routes import routes_of


@dataclass(frozen=True)
class Measured:
    """What some answers took.

    Tokens as the tokenizer counts them, and of a server also as it counts (and bills) them itself:
    0 where it does not say. `seconds` without loading a model; `at_once`: requests in flight
    together at most, of a server.
    """

    num_answers: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    at_once: int = 0
    num_bytes: int = 0
    billed_prompt_tokens: int = 0
    billed_answer_tokens: int = 0


@dataclass(frozen=True)
class PilotSample:
    """All that is needed to ask. `prompts`: those that generate would ask for an answer.

    `given`: the answers to the others, which are in their rows.
    """

    generation: Generation
    prompts: list[Prompt]
    given: list[str]

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder, processes: Processes) -> "list[PilotSample]":
        """Return the sample of each teacher, in the recipe's order; one where there is one."""
        require_permission(recipe)
        check_teachers_processes(recipe, processes)
        tasks.grader(recipe.generate)  # what this machine lacks is said before anything is asked
        routes = routes_of(recipe)
        asked = [route.connect(folder, processes.local_rank) for route in routes]
        tokenizers = [teacher.tokenizers for teacher in asked]  # as is one that is not there
        left = Left()
        prompts, held_out = split_prompts(recipe, left)
        left.tell("prompts", processes)
        teacher_writes_some = any(source.expand for source in recipe.generate.prompts)
        if not teacher_writes_some and all(prompt.is_given for prompt in prompts):
            raise DataError(
                f"{recipe.source}: generate.prompts: every row has its answer (answers: given, or passages), "
                "so no teacher is asked for one, and there is nothing to estimate from: `distill plan RECIPE` "
                "says what the rest takes"
            )
        parts = routed(recipe, [*prompts, *held_out])
        for route, own in zip(routes, tokenizers, strict=True):
            check_conversations(route.recipe, own, parts[route.name])
        worth_asking, _ = prompt_filters.select_prompts(
            recipe,
            prompts,
            held_out,
            are_all=not teacher_writes_some,
            find_mark=lambda messages: first_mark(tokenizers, messages),
        )
        stage, chosen = folder.stage("generate"), routed(recipe, worth_asking)
        return [
            cls(
                Generation(route.recipe, teacher, processes, stage, held_out),
                [prompt for prompt in chosen[route.name] if not prompt.is_given],
                given_answers(chosen[route.name]),
            )
            for route, teacher in zip(routes, asked, strict=True)
        ]

    @property
    def stage(self) -> Path:
        return self.generation.stage

    @property
    def teacher(self) -> Teacher:
        return self.generation.teacher

    def ask(self, chosen: list[Prompt]) -> list[Request]:
        """Return the first request of each prompt, after asking for what is not on disk."""
        recipe, processes = self.generation.recipe, self.generation.processes
        options, log = RequestOptions.of(recipe), self.teacher.logs.answers
        make = request_maker(self.teacher, options)
        requests = [make(prompt, 0) for prompt in chosen]
        notes = self._with_group([prompt.id for prompt in chosen])
        before = answer_lengths(recipe, log)
        processes.barrier()
        with self.teacher as teacher:
            seconds = ask(teacher, requests, options, log, processes)
        asked = [request for request in requests if request.key not in before]
        if processes.is_main and asked:
            measured = self._measured(asked, seconds)
            write(self.stage, notes | {self._taken: asdict(measured)})
        return requests

    def _with_group(self, prompt_ids: list[str]) -> dict[str, Any]:
        """Write and return the notes, with the prompts that no group has yet as a new one."""
        notes = read(self.stage)
        groups = notes.get("groups", [])
        known = {prompt_id for group in groups for prompt_id in group}
        new = [prompt_id for prompt_id in prompt_ids if prompt_id not in known]
        if new:
            groups.append(new)
        notes |= {"groups": groups}
        self.generation.processes.barrier()  # every rank has read it
        if self.generation.processes.is_main:
            write(self.stage, notes)
        return notes

    def _measured(self, asked: list[Request], seconds: float) -> Measured:
        """Return what these answers took."""
        rows, budget = self.rows(), self.teacher.budget
        tokenizer = self.teacher.tokenizers.asked
        served = [rows[request.key].get("server", {}) for request in asked]
        if (
            budget.num_unreported
        ):  # then what is billed is not known; requests of discovery are not in it
            served = []
        return Measured(
            len(asked),
            sum(num_prompt_tokens(request, tokenizer) for request in asked),
            sum(len(rows[request.key]["token_ids"]) for request in asked),
            seconds,
            budget.most_at_once,
            budget.own.num_bytes,
            sum(usage.get("prompt_tokens", 0) for usage in served),
            sum(usage.get("answer_tokens", 0) for usage in served),
        )

    def rows(self) -> Mapping[str, Row]:
        """Return the best row of each answer on disk, by its key."""
        return read_best_rows(self.teacher.logs.answers)

    def filter(self, requests: list[Request]) -> Filtered:
        """Return the answers, and why generate would drop each."""
        return generate.filter_answers(self.generation, requests, self.rows())

    def measured(self) -> Measured | None:
        """Return what the last answers that were asked took."""
        measured = read(self.stage).get(self._taken)
        try:
            return Measured(**measured) if measured else None
        except TypeError as error:
            raise broken(self.stage / PILOT, f"{self._taken}: {error}", PILOT_WAY_OUT) from None

    @property
    def _taken(self) -> str:
        """Return the note of what the last answers took; each of several teachers has its own."""
        return f"taken by {self.generation.name}" if self.generation.name else "taken"


def num_prompt_tokens(request: Request, tokenizer: Any) -> int:
    """Count a prompt's tokens as the teacher does; of a conversation, about, as the student."""
    if request.prompt_ids:
        return len(request.prompt_ids)
    return len(tokenizer(request.prompt.full_text, add_special_tokens=False).input_ids)


@contextmanager
def working(recipe: Recipe) -> Iterator[tuple[RunFolder, Processes]]:
    """Yield (run folder, all processes), with nobody else at work there.

    Raises what `pipeline.run` raises.
    """
    folder = RunFolder.of(recipe)
    with at_work(recipe, folder) as processes:
        yield folder, processes


def in_random_order(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Return the prompts of each language in a fixed random order.

    It is the same every time, and for `probe` and `estimate` alike, so that the one finds what the
    other has asked.
    """
    by_language: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: digest("probe", p.id)):
        by_language.setdefault(prompt.language, []).append(prompt)
    return by_language


def read(stage: Path) -> dict[str, Any]:
    return read_pilot(stage)


def write(stage: Path, notes: dict[str, Any]) -> None:
    write_json(stage / PILOT, notes)
