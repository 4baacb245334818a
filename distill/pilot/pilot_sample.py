"""The first answers: a few prompts that `probe` and `estimate` ask before the others.

    generate/probe.json     which prompts those were, a group each time, and what the last ones took

The answers go into generate's own log under generate's own keys, and `generate` decodes each group by itself
(`answers.probed`), so that it asks none of them again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill import generate, tasks
from distill.chat.tokenizers import Tokenizers, tokenizers_of
from distill.core.digests import digest
from distill.core.files import write_atomic
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt, split_prompts
from distill.pipeline import at_work
from distill.recipe import Recipe
from distill.teachers.answers import answered, ask
from distill.teachers.log import Request, best_rows, num_prompt_tokens, read_answers, request_maker
from distill.teachers.server.budget import Ledger, Spent


@dataclass(frozen=True)
class Taken:
    """What some answers took. Tokens as the tokenizer counts them, and of a server also as it counts (and bills) them itself:
    0 where it does not say. `seconds` without loading a model; `at_once`: requests under way together at most, of a server."""

    num_answers: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    at_once: int = 0
    num_bytes: int = 0
    billed_prompt_tokens: int = 0
    billed_answer_tokens: int = 0


@dataclass(frozen=True)
class FirstAnswers:
    """All that is needed to ask. `prompts`: those that generate would ask; `stage`: its folder."""

    recipe: Recipe
    stage: Path
    team: Processes
    location: str
    tokenizers: Tokenizers
    prompts: list[Prompt]
    held_out: list[Prompt]

    @classmethod
    def of(cls, recipe: Recipe, stage: Path, team: Processes) -> "FirstAnswers":
        tasks.grader(
            recipe.generate
        )  # what this machine lacks for it is said before anything is asked
        location = recipe.model_location(recipe.teacher.model)
        tokenizers = tokenizers_of(recipe)
        prompts, held_out = split_prompts(recipe)
        worth_asking, _ = generate.judge_prompts(
            recipe, prompts, held_out, are_all=not any(s.expand for s in recipe.generate.prompts)
        )
        return cls(recipe, stage, team, location, tokenizers, worth_asking, held_out)

    def ask(self, chosen: list[Prompt]) -> list[Request]:
        """The first request of each prompt, after asking for the answers that are not on disk."""
        tokenizer = self.tokenizers.asked
        make = request_maker(self.recipe, tokenizer)
        requests = [make(prompt, 0) for prompt in chosen]
        said = read(self.stage)
        groups = said.get("groups", [])
        if new := [p.id for p in chosen if not any(p.id in group for group in groups)]:
            groups.append(new)
        self.team.barrier()  # every rank has read it
        if self.team.is_main:
            write(self.stage, said | {"groups": groups})
        before = answered(self.recipe, self.stage / "raw")
        self.team.barrier()
        spent = Spent(Ledger(self.stage, self.recipe.generate))
        seconds = ask(
            self.recipe, requests, self.stage / "raw", self.location, tokenizer, self.team, spent
        )
        if self.team.is_main and (asked := [r for r in requests if r.key not in before]):
            rows = best_rows(read_answers(self.stage / "raw")[0])
            # those of a server, and where it tells what it counts; not what it took to know the server
            served = [] if spent.num_untold else [rows[r.key].get("server", {}) for r in asked]
            taken = Taken(
                len(asked),
                sum(num_prompt_tokens(r, tokenizer) for r in asked),
                sum(len(rows[r.key]["token_ids"]) for r in asked),
                seconds,
                spent.most_at_once,
                spent.mine.num_bytes,
                *(
                    sum(s.get(name, 0) for s in served)
                    for name in ("prompt_tokens", "answer_tokens")
                ),
            )
            write(self.stage, said | {"groups": groups, "taken": asdict(taken)})
        return requests

    def taken(self) -> Taken | None:
        """What the last answers that were asked took."""
        said = read(self.stage).get("taken")
        return Taken(**said) if said else None


@contextmanager
def working(recipe: Recipe) -> Iterator[tuple[Path, Processes]]:
    """(generate's folder, all processes), nobody else at work in the run folder. Raises what `pipeline.run` raises."""
    folder = RunFolder.of(recipe)
    with at_work(recipe, folder) as team:
        yield folder.stage("generate"), team


def by_lot(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts of each language in the order of a lot: the same every time, and for `probe` and `estimate` alike, so
    that the one finds what the other has asked."""
    found: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: digest("probe", p.id)):
        found.setdefault(prompt.language, []).append(prompt)
    return found


def read(stage: Path) -> dict[str, Any]:
    path = stage / "probe.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(stage: Path, said: dict[str, Any]) -> None:
    write_atomic(stage / "probe.json", json.dumps(said, ensure_ascii=False))
