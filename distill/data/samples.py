"""The two kinds of row that stages share: prompts that a person wrote, and samples that the teacher answered."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from distill.core.digests import canonical_json, digest
from distill.core.jsonl import Row, read_jsonl
from distill.data import translation
from distill.data.sources import rows
from distill.errors import DataError
from distill.recipe import Recipe
from distill.recipe.sections import Generate
from distill.recipe.sources import Source

PROMPT_KEYS = {"id", "prompt", "messages", "language", "reference", "kind"}


@dataclass(frozen=True)
class Prompt:
    """One question. `reference` is the checkable final answer, where there is one."""

    messages: tuple[dict[str, str], ...]
    language: str
    reference: str | None = None
    source: str = ""
    source_id: str | None = None
    check_language: bool = True
    is_translation: bool = False
    verify: bool = True
    refusals: str = "drop"

    @cached_property
    def id(self) -> str:
        return digest(canonical_json(list(self.messages)))

    @property
    def text(self) -> str:
        """What the user says last."""
        return self.messages[-1]["content"]

    def said_by(self, *roles: str) -> str:
        """What system, user or assistant say in it."""
        return "\n".join(m["content"] for m in self.messages if m["role"] in roles)

    @property
    def whole_text(self) -> str:
        return self.said_by("system", "user", "assistant")

    def row(self) -> Row:
        return {
            "prompt_id": self.id,
            "messages": list(self.messages),
            "language": self.language,
            "reference": self.reference,
            "source": self.source,
            "source_id": self.source_id,
        }


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
            raise DataError(
                f"{path}, line {number}: {error}; run `distill generate` with --redo generate"
            ) from None
    return samples


def read_prompts(
    recipe: Recipe,
    name: str,
    sources: Sequence[Source],
    *,
    needs_reference: bool,
    skipped: Counter[str] | None = None,
) -> list[Prompt]:
    """Read and check the prompts of the recipe's field `name`, normalised. DataError names the line, field and value.

    Of a source with columns of its own, rows in other languages than the recipe's are left out and counted in `skipped`.
    """
    prompts: list[Prompt] = []
    skipped = Counter() if skipped is None else skipped
    for source in sources:
        before = len(prompts)
        for where, row in rows(recipe, name, source):
            if source.translate is not None:
                prompts += _translations(
                    source.translate, row, where, source.name, recipe.languages
                )
            elif (
                prompt := _prompt(
                    source, row, where, recipe.languages, needs_reference and source.verify
                )
            ) is not None:
                prompts.append(prompt)
            else:
                skipped["other_language"] += 1
        if len(prompts) == before:
            raise DataError(
                f"{recipe.source}: {name}: {source.name}: no prompts in it in {', '.join(recipe.languages)}"
            )
    return prompts


def _prompt(
    source: Source, row: Row, where: str, languages: Sequence[str], needs_reference: bool
) -> Prompt | None:
    if unknown := sorted(row.keys() - PROMPT_KEYS):
        raise DataError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(sorted(PROMPT_KEYS))}. Other names are mapped by columns: "
            f"generate.prompts=[{{file: ..., columns: {{prompt: {unknown[0]}}}}}]"
        )
    language = source.language or row.get("language", languages[0] if len(languages) == 1 else None)
    if language not in languages:
        if source.columns is not None and "language" in source.columns:
            return None
        raise DataError(
            f"{where}: language {language!r} is not in the recipe's languages {list(languages)}"
        )
    reference = row.get("reference")
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)  # a column of numbers
    if needs_reference and not isinstance(reference, str):
        raise DataError(
            f"{where}: reference {reference!r}: a task needs it as text; set verify: false in this source of prompts, or task to null, "
            "to go without"
        )
    source_id = row.get("id")
    return Prompt(
        tuple(_messages(row, where)),
        language,
        reference if isinstance(reference, str) else None,
        source=source.name,
        source_id=None if source_id is None else str(source_id),
        check_language=source.check_language,
        verify=source.verify,
        refusals=source.refusals,
    )


def _translations(
    columns: dict[str, str], row: Row, where: str, name: str, languages: Sequence[str]
) -> list[Prompt]:
    """A prompt for each direction whose answer is in one of the recipe's languages; the other text is the reference."""
    texts = {}
    if not any(column in row for column in columns.values()):
        raise DataError(
            f"{where}: none of the columns {', '.join(columns.values())}; there are {', '.join(row)[:300]}"
        )
    for language, column in columns.items():
        if isinstance(row.get(column), str) and row[column].strip():
            texts[language] = normalised(row[column]).strip()
    return [
        Prompt(
            ({"role": "user", "content": f"{translation.request(to)}\n\n{text}"},),
            to,
            texts[to],
            source=name,
            check_language=False,
            is_translation=True,
        )
        for language, text in texts.items()
        for to in texts
        if to != language and to in languages
    ]


def normalised(text: str) -> str:
    """NFC, without control characters other than tab and line ends: what looks the same is asked once."""
    return unicodedata.normalize("NFC", _CONTROL.sub("", text))


# C0, C1 and a byte order mark. Lone surrogates and U+FFFD stay: they say that the text is broken.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


def _messages(row: Row, where: str) -> list[dict[str, str]]:
    if ("prompt" in row) == ("messages" in row):
        raise DataError(
            f"{where}: give either `prompt` (text) or `messages` (a list of role and content)"
        )
    if "prompt" in row:
        if not isinstance(row["prompt"], str) or not row["prompt"].strip():
            raise DataError(f"{where}: prompt {row['prompt']!r} is not text with something in it")
        return [{"role": "user", "content": normalised(row["prompt"])}]
    messages: Any = row["messages"]
    good = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(m, dict)
            and m.get("role") in ("system", "user", "assistant")
            and isinstance(m.get("content"), str)
            for m in messages
        )
    )
    if not good or messages[-1]["role"] != "user":
        raise DataError(
            f"{where}: messages must be role (system, user, assistant) and content, the last one the user's"
        )
    return [{"role": m["role"], "content": normalised(m["content"])} for m in messages]


def split_prompts(
    recipe: Recipe, skipped: Counter[str] | None = None
) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to learn from, held-out prompts to evaluate on), disjoint.

    Held-out ones come from evaluate.prompts, else they are the share of generate.prompts with the lowest ids, which does
    not change when prompts are appended or reordered more than it must; translations, and by a task what has `verify: false`, are
    not held out: the task cannot grade them. Both lists keep the sources' order. Rows that are not the recipe's business are
    counted in `skipped`. Prompts that the teacher writes are in neither: they are had by asking (expansion.py) and are never held out.
    """
    checked = recipe.generate.task is not None
    written = [source for source in recipe.generate.prompts if source.expand is None]
    prompts = read_prompts(
        recipe, "generate.prompts", written, needs_reference=checked, skipped=skipped
    )
    if recipe.generate.mix is None:
        prompts = prompts[: recipe.generate.num_prompts]
    if recipe.evaluate.prompts is not None:
        held_out = read_prompts(
            recipe, "evaluate.prompts", recipe.evaluate.prompts, needs_reference=checked
        )
        held_out = _evenly(held_out, recipe.languages, recipe.evaluate.num_examples)
        ids = {p.id for p in held_out}
        return [p for p in prompts if p.id not in ids], held_out
    limit = int(recipe.evaluate.held_out * 2**64)
    gradable = [p for p in prompts if not p.is_translation and (p.verify or not checked)]
    if not gradable:
        raise DataError(
            f"{recipe.source}: evaluate.prompts is null and generate.prompts are all translations, or have verify: false: give prompts "
            "to evaluate on"
        )
    outside = [p for p in gradable if int(p.id[:16], 16) < limit] or [
        min(gradable, key=lambda p: p.id)
    ]
    outside = _evenly(outside, recipe.languages, recipe.evaluate.num_examples)
    ids = {p.id for p in outside}
    return [p for p in prompts if p.id not in ids], outside


def mixed(options: Generate, prompts: list[Prompt]) -> list[Prompt]:
    """The first prompts of each language, or source, as many as its share of the whole; all, where no shares are given."""
    if options.mix is None:
        return prompts
    kind, shares = options.mix
    return by_shares(prompts, shares, options.num_prompts, kind)


def by_shares(
    prompts: list[Prompt],
    shares: Mapping[str, float],
    num: int | None,
    kind: Literal["language", "source"] = "language",
) -> list[Prompt]:
    """The first prompts of each `kind`, as many as its share of the whole; the whole is `num`, or less where one has too few.
    Raises DataError for one without prompts."""
    have = Counter(getattr(p, kind) for p in prompts)
    if missing := [name for name in shares if not have[name]]:
        where = "generate.shares" if kind == "language" else "generate.prompts: share"
        raise DataError(
            f"{where}: {missing[0]}: no usable prompt in that {kind}; add some, or take it out"
        )
    # the epsilon forgives 0.1 + 0.2 in the shares: 30 prompts are 0.3 of 100, not of 99
    whole = min(int(have[name] / share + 1e-6) for name, share in shares.items())
    whole = whole if num is None else min(whole, num)
    left = {name: max(1, round(share * whole)) for name, share in shares.items()}
    chosen = []
    for prompt in prompts:
        if left[getattr(prompt, kind)] > 0:
            left[getattr(prompt, kind)] -= 1
            chosen.append(prompt)
    return chosen


def _evenly(prompts: list[Prompt], languages: Sequence[str], limit: int) -> list[Prompt]:
    """At most `limit` prompts, taking turns over the languages, in the file's order."""
    if len(prompts) <= limit:
        return prompts
    by_language = {
        language: [p for p in prompts if p.language == language] for language in languages
    }
    chosen: set[str] = set()
    turn = 0
    while len(chosen) < limit:
        for mine in by_language.values():
            if turn < len(mine) and len(chosen) < limit:
                chosen.add(mine[turn].id)
        turn += 1
    return [p for p in prompts if p.id in chosen]


def count_by_language(kept: Iterable[Row], dropped: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Language: {"kept": how many, reason: how many dropped for it, the commonest first}."""
    counts: dict[str, Counter[str]] = {}
    for row in kept:
        counts.setdefault(row["language"], Counter())["kept"] += 1
    for row in dropped:
        counts.setdefault(row["language"], Counter())[row["reason"].partition(":")[0]] += 1
    return {
        language: {"kept": mine.pop("kept", 0), **dict(mine.most_common())}
        for language, mine in counts.items()
    }


def split_samples(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """(to learn from, to validate on): by prompt, so that two answers to one prompt stay on one side."""
    limit = int(share * 2**64)
    held = {s.prompt_id for s in samples if int(digest("validation", s.prompt_id)[:16], 16) < limit}
    if (
        not held and len({s.prompt_id for s in samples}) > 1
    ):  # few samples: one still shows the curve
        held = {min(s.prompt_id for s in samples)}
    learn = [s for s in samples if s.prompt_id not in held]
    return learn, [s for s in samples if s.prompt_id in held] or learn[:1]
