"""The two kinds of row that stages share: prompts that a person wrote, and samples that the teacher answered."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.errors import DataError
from distill.recipe import Recipe
from distill.rows import Row, canonical_json, digest, read_jsonl

PROMPT_KEYS = {"id", "prompt", "messages", "language", "reference", "kind"}


@dataclass(frozen=True)
class Prompt:
    """One question. `reference` is the checkable final answer, where there is one."""

    messages: tuple[dict[str, str], ...]
    language: str
    reference: str | None = None
    line: int = 0

    @cached_property
    def id(self) -> str:
        return digest(canonical_json(list(self.messages)))

    @property
    def text(self) -> str:
        """What the user says last."""
        return self.messages[-1]["content"]

    @property
    def whole_text(self) -> str:
        return "\n".join(m["content"] for m in self.messages)


@dataclass(frozen=True)
class Sample:
    """One kept answer, as the exact token ids that the teacher read and wrote (answer_ids end with the stop token)."""

    key: str
    prompt_id: str
    prompt: str
    language: str
    reference: str | None
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]

    def row(self) -> Row:
        return asdict(self)

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.answer_ids


def read_samples(path: Path) -> list[Sample]:
    samples = []
    for number, row in read_jsonl(path):
        try:
            samples.append(Sample(**row))
        except TypeError as error:
            raise DataError(f"{path}, line {number}: {error}; run `distill generate` with --redo generate") from None
    return samples


def read_prompts(path: Path, languages: Sequence[str], *, needs_reference: bool) -> list[Prompt]:
    """Read and check a prompts file. Raises DataError naming the line, the field and the value."""
    prompts = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if unknown := sorted(row.keys() - PROMPT_KEYS):
            raise DataError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(sorted(PROMPT_KEYS))}")
        language = row.get("language", languages[0] if len(languages) == 1 else None)
        if language not in languages:
            raise DataError(f"{where}: language {language!r} is not in the recipe's languages {list(languages)}")
        if needs_reference and not isinstance(row.get("reference"), str):
            raise DataError(f"{where}: reference {row.get('reference')!r}: a task needs it as text; set task to null to go without")
        prompts.append(Prompt(tuple(_messages(row, where)), language, row.get("reference"), number))
    if not prompts:
        raise DataError(f"{path}: no prompts in it")
    return prompts


def _messages(row: Row, where: str) -> list[dict[str, str]]:
    if ("prompt" in row) == ("messages" in row):
        raise DataError(f"{where}: give either `prompt` (text) or `messages` (a list of role and content)")
    if "prompt" in row:
        if not isinstance(row["prompt"], str) or not row["prompt"].strip():
            raise DataError(f"{where}: prompt {row['prompt']!r} is not text with something in it")
        return [{"role": "user", "content": row["prompt"]}]
    messages: Any = row["messages"]
    good = isinstance(messages, list) and messages and all(
        isinstance(m, dict) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str)
        for m in messages
    )  # fmt: skip
    if not good or messages[-1]["role"] != "user":
        raise DataError(f"{where}: messages must be role (system, user, assistant) and content, the last one the user's")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def split_prompts(recipe: Recipe) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to learn from, held-out prompts to evaluate on), disjoint.

    Held-out ones come from evaluate.prompts, else they are the share of generate.prompts with the lowest ids, which does
    not change when prompts are appended or reordered more than it must. Both lists keep the file's order.
    """
    checked = recipe.generate.task is not None
    prompts = read_prompts(recipe.path(recipe.generate.prompts), recipe.languages, needs_reference=checked)
    prompts = prompts[: recipe.generate.num_prompts]
    if recipe.evaluate.prompts is not None:
        held_out = read_prompts(recipe.path(recipe.evaluate.prompts), recipe.languages, needs_reference=checked)
        held_out = _evenly(held_out, recipe.languages, recipe.evaluate.num_examples)
        ids = {p.id for p in held_out}
        return [p for p in prompts if p.id not in ids], held_out
    limit = int(recipe.evaluate.held_out * 2**64)
    outside = [p for p in prompts if int(p.id[:16], 16) < limit] or [min(prompts, key=lambda p: p.id)]
    outside = _evenly(outside, recipe.languages, recipe.evaluate.num_examples)
    ids = {p.id for p in outside}
    return [p for p in prompts if p.id not in ids], outside


def _evenly(prompts: list[Prompt], languages: Sequence[str], limit: int) -> list[Prompt]:
    """At most `limit` prompts, taking turns over the languages, in the file's order."""
    if len(prompts) <= limit:
        return prompts
    by_language = {language: [p for p in prompts if p.language == language] for language in languages}
    chosen: set[str] = set()
    turn = 0
    while len(chosen) < limit:
        for mine in by_language.values():
            if turn < len(mine) and len(chosen) < limit:
                chosen.add(mine[turn].id)
        turn += 1
    return [p for p in prompts if p.id in chosen]


def split_samples(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """(to learn from, to validate on): by prompt, so that two answers to one prompt stay on one side."""
    limit = int(share * 2**64)
    held = {s.prompt_id for s in samples if int(digest("validation", s.prompt_id)[:16], 16) < limit}
    if not held and len({s.prompt_id for s in samples}) > 1:  # few samples: one still shows the curve
        held = {min(s.prompt_id for s in samples)}
    learn = [s for s in samples if s.prompt_id not in held]
    return learn, [s for s in samples if s.prompt_id in held] or learn[:1]
