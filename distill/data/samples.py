"""The two kinds of row that stages share: prompts, and samples that the teacher answered."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from distill.core.digests import canonical_json, digest
from distill.core.jsonl import Row, read_jsonl
from distill.data import translation
from distill.data.other_languages import by_kind, commonest
from distill.data.sources import rows
from distill.errors import DataError
from distill.recipe import Recipe
from distill.recipe.sections import Generate
from distill.recipe.sources import Source
from distill.text.scripts import same_language

PROMPT_KEYS = {"id", "prompt", "messages", "language", "reference", "kind"}
ROLES = ("system", "user", "assistant")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """One question. `reference` is the checkable final answer, where there is one.

    It is text, or a number where the file has one that is not whole.
    """

    messages: tuple[dict[str, str], ...]
    language: str
    reference: str | float | None = None
    source: str = ""
    source_id: str | None = None
    check_language: bool = True
    is_translation: bool = False
    verify: bool = True
    refusals: str = "drop"

    @cached_property
    def id(self) -> str:
        """Return the digest of its messages."""
        return digest(canonical_json(list(self.messages)))

    @property
    def text(self) -> str:
        """Return what the user says last."""
        return self.messages[-1]["content"]

    def text_of(self, *roles: str) -> str:
        """Return what system, user or assistant say in it."""
        return "\n".join(m["content"] for m in self.messages if m["role"] in roles)

    @property
    def full_text(self) -> str:
        """Return what all say in it."""
        return self.text_of(*ROLES)

    def row(self) -> Row:
        """Return the row of prompts.jsonl."""
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
    """One kept answer, as the exact token ids that the teacher read and wrote.

    `answer_ids` end with the stop token.
    """

    key: str
    prompt_id: str
    prompt: str
    language: str
    reference: str | float | None
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]

    def row(self) -> Row:
        """Return the row of kept.jsonl."""
        return asdict(self)

    @property
    def ids(self) -> list[int]:
        """Return the ids of prompt and answer."""
        return self.prompt_ids + self.answer_ids


def read_samples(path: Path) -> list[Sample]:
    """Read the samples of a kept.jsonl. Raise DataError naming the line that is not one."""
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
    """Read and check the prompts of the recipe's field `name`, normalised.

    Of a source with columns of its own, rows in other languages than the recipe's are left out and
    counted in `skipped`. Raise DataError naming the line, the field and the value.
    """
    prompts: list[Prompt] = []
    for source in sources:
        others: Counter[str] = Counter()
        of_recipe = _read_source(recipe, name, source, needs_reference and source.verify, others)
        if not of_recipe:
            languages = ", ".join(recipe.languages)
            met = f"; its languages are {commonest(others)}" if others else ""
            raise DataError(
                f"{recipe.source}: {name}: {source.name}: no prompts in it in {languages}{met}"
            )
        prompts += of_recipe
        if skipped is not None:
            skipped.update(by_kind(others))
    return prompts


def _read_source(
    recipe: Recipe, name: str, source: Source, needs_reference: bool, others: Counter[str]
) -> list[Prompt]:
    """Read a source's prompts; the code of each row in another language is counted in `others`."""
    prompts: list[Prompt] = []
    for where, row in rows(recipe, name, source):
        if source.translate is not None:
            prompts += _translations(source.translate, row, where, source.name, recipe.languages)
            continue
        language = _language(source, row, where, recipe.languages)
        if language is None:
            others[str(row.get("language"))] += 1
        else:
            prompts.append(_prompt(source, row, where, language, needs_reference))
    return prompts


def _language(source: Source, row: Row, where: str, languages: Sequence[str]) -> str | None:
    """Return the row's language as the recipe spells it.

    None if it is another one, in a source whose rows name theirs.
    """
    _check_keys(row, where)
    only = languages[0] if len(languages) == 1 else None
    code = source.language or row.get("language", only)
    language = same_language(code, tuple(languages)) if isinstance(code, str) else None
    if language is not None or (source.columns is not None and "language" in source.columns):
        return language
    raise DataError(
        f"{where}: language {code!r:.40} is not in the recipe's languages {list(languages)}"
    )


def _prompt(source: Source, row: Row, where: str, language: str, needs_reference: bool) -> Prompt:
    reference = _reference(row, where, needs_reference)
    source_id = row.get("id")
    return Prompt(
        tuple(_messages(row, where)),
        language,
        reference,
        source=source.name,
        source_id=None if source_id is None else str(source_id),
        check_language=source.check_language,
        verify=source.verify,
        refusals=source.refusals,
    )


def _check_keys(row: Row, where: str) -> None:
    unknown = sorted(row.keys() - PROMPT_KEYS)
    if unknown:
        raise DataError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(sorted(PROMPT_KEYS))}. "
            "Other names are mapped by columns: "
            f"generate.prompts=[{{file: ..., columns: {{prompt: {unknown[0]}}}}}]"
        )


def _reference(row: Row, where: str, is_needed: bool) -> str | float | None:
    """Return the row's reference: text, also for whole numbers; a float for any other number.

    1.125 as text could also be a thousand and more. Raise DataError for NaN and infinity, and for
    what is neither text nor number, if a reference is needed.
    """
    reference = row.get("reference")
    if isinstance(reference, int) and not isinstance(reference, bool):
        return format(Decimal(reference), "f")  # `str` refuses 5,000 digits
    if isinstance(reference, float | Decimal) and math.isfinite(reference):
        return float(reference)
    if isinstance(reference, str):
        return reference
    if is_needed:
        raise DataError(
            f"{where}: reference {reference!r:.100}: a task needs it as text or as a number; "
            "set verify: false in this source of prompts, or task to null, to go without"
        )
    return None


def _translations(
    columns: dict[str, str], row: Row, where: str, name: str, languages: Sequence[str]
) -> list[Prompt]:
    """Return a prompt for each direction whose answer is in one of the recipe's languages.

    The other text is the reference.
    """
    if not any(column in row for column in columns.values()):
        raise DataError(
            f"{where}: none of the columns {', '.join(columns.values())}; "
            f"there are {', '.join(row)[:300]}"
        )
    texts = {}
    for code, column in columns.items():
        text = row.get(column)
        if isinstance(text, str) and text.strip():
            language = same_language(code, tuple(languages)) or code
            texts[language] = normalised(text).strip()
    return [
        _translation(text, to, texts[to], name)
        for language, text in texts.items()
        for to in texts
        if to != language and to in languages
    ]


def _translation(text: str, language: str, reference: str, name: str) -> Prompt:
    content = f"{translation.request(language)}\n\n{text}"
    return Prompt(
        ({"role": "user", "content": content},),
        language,
        reference,
        source=name,
        check_language=False,
        is_translation=True,
    )


def normalised(text: str) -> str:
    """Return NFC, without control characters other than tab and line ends.

    What looks the same is then asked once.
    """
    return unicodedata.normalize("NFC", _CONTROL.sub("", text))


# C0, C1 and a byte order mark. Lone surrogates and U+FFFD stay: they say that the text is broken.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


def _messages(row: Row, where: str) -> list[dict[str, str]]:
    if ("prompt" in row) == ("messages" in row):
        raise DataError(
            f"{where}: give either `prompt` (text) or `messages` (a list of role and content)"
        )
    if "prompt" in row:
        prompt = row["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where}: prompt {prompt!r} is not text with something in it")
        return [{"role": "user", "content": normalised(prompt)}]
    messages: Any = row["messages"]
    if not _is_conversation(messages):
        raise DataError(
            f"{where}: messages must be role (system, user, assistant) and content, "
            "the last one the user's"
        )
    return [{"role": m["role"], "content": normalised(m["content"])} for m in messages]


def _is_conversation(messages: Any) -> bool:
    if not isinstance(messages, list) or not messages:
        return False
    return all(map(_is_message, messages)) and messages[-1]["role"] == "user"


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    return message.get("role") in ROLES and isinstance(message.get("content"), str)


def split_prompts(
    recipe: Recipe, skipped: Counter[str] | None = None
) -> tuple[list[Prompt], list[Prompt]]:
    """Return (prompts to learn from, held-out prompts to evaluate on), disjoint.

    Held-out ones come from evaluate.prompts, else they are the share of generate.prompts with the
    lowest ids, which does not change when prompts are appended or reordered more than it must;
    translations, and by a task what has `verify: false`, are not held out: the task cannot grade
    them. Both lists keep the sources' order. Rows that are not the recipe's business are counted in
    `skipped`. Prompts that the teacher writes are in neither: they are had by asking (expansion.py)
    and are never held out.
    """
    is_graded = recipe.generate.task is not None
    by_people = [source for source in recipe.generate.prompts if source.expand is None]
    prompts = read_prompts(
        recipe, "generate.prompts", by_people, needs_reference=is_graded, skipped=skipped
    )
    if recipe.generate.mix is None:
        prompts = prompts[: recipe.generate.num_prompts]
    if recipe.evaluate.prompts is not None:
        held_out = read_prompts(
            recipe, "evaluate.prompts", recipe.evaluate.prompts, needs_reference=is_graded
        )
    else:
        held_out = _lowest_ids(recipe, prompts, is_graded)
    held_out = _evenly(held_out, recipe.languages, recipe.evaluate.num_examples)
    ids = {prompt.id for prompt in held_out}
    return [prompt for prompt in prompts if prompt.id not in ids], held_out


def _lowest_ids(recipe: Recipe, prompts: Sequence[Prompt], is_graded: bool) -> list[Prompt]:
    """Return the share `evaluate.held_out` of the prompts that can be graded; one at least."""
    gradable = [p for p in prompts if not p.is_translation and (p.verify or not is_graded)]
    if not gradable:
        raise DataError(
            f"{recipe.source}: evaluate.prompts is null and generate.prompts are all translations, "
            "or have verify: false: give prompts to evaluate on"
        )
    limit = int(recipe.evaluate.held_out * 2**64)
    held_out = [prompt for prompt in gradable if int(prompt.id[:16], 16) < limit]
    return held_out or [min(gradable, key=lambda prompt: prompt.id)]


def mixed(options: Generate, prompts: list[Prompt]) -> list[Prompt]:
    """Return the first prompts of each language, or source, by its share of the total.

    All, where no shares are given.
    """
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
    """Return the first prompts of each `kind`, by its share of the total.

    The total is `num`, or less where one has too few. Raise DataError for one without prompts.
    """
    names = [getattr(prompt, kind) for prompt in prompts]
    available = Counter(names)
    missing = [name for name in shares if not available[name]]
    if missing:
        where = "generate.shares" if kind == "language" else "generate.prompts: share"
        raise DataError(
            f"{where}: {missing[0]}: no usable prompt in that {kind}; add some, or take it out"
        )
    # the epsilon forgives 0.1 + 0.2 in the shares: 30 prompts are 0.3 of 100, not of 99
    total = min(int(available[name] / share + 1e-6) for name, share in shares.items())
    if num is not None:
        total = min(total, num)
    num_left = {name: max(1, round(share * total)) for name, share in shares.items()}
    chosen = []
    for prompt, name in zip(prompts, names, strict=True):
        if num_left[name] > 0:
            num_left[name] -= 1
            chosen.append(prompt)
    return chosen


def take_turns(
    items: Sequence[Item],
    group_of: Callable[[Item], Hashable],
    groups: Sequence[Hashable] | None = None,
) -> list[Item]:
    """Return all items in an order in which their groups take turns.

    The first of each group comes first, then the second of each that has one, and so on. In a turn
    they stand in the order of `groups`, or without it as in `items`.
    """
    rank = {group: number for number, group in enumerate(groups or ())}
    num_seen: Counter[Hashable] = Counter()
    order = []
    for index, item in enumerate(items):
        group = group_of(item)
        order.append((num_seen[group], rank[group] if groups else 0, index))
        num_seen[group] += 1
    return [items[index] for _, _, index in sorted(order)]


def _evenly(prompts: list[Prompt], languages: Sequence[str], limit: int) -> list[Prompt]:
    """Return at most `limit` prompts, taking turns over the languages, in the file's order."""
    if len(prompts) <= limit:
        return prompts
    turns = take_turns(prompts, lambda prompt: prompt.language, languages)
    ids = set(list(dict.fromkeys(prompt.id for prompt in turns))[:limit])
    return [prompt for prompt in prompts if prompt.id in ids]


def count_by_language(kept: Iterable[Row], dropped: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Return for each language {"kept": how many, reason: how many, the commonest first}."""
    num_kept: Counter[str] = Counter(row["language"] for row in kept)
    by_reason: dict[str, Counter[str]] = {language: Counter() for language in num_kept}
    for row in dropped:
        name = row["reason"].partition(":")[0]
        by_reason.setdefault(row["language"], Counter())[name] += 1
    return {
        language: {"kept": num_kept[language], **dict(reasons.most_common())}
        for language, reasons in by_reason.items()
    }


def split_samples(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Return (samples to learn from, samples to validate on).

    By prompt, so that two answers to one prompt stay on one side.
    """
    limit = int(share * 2**64)
    ids = {sample.prompt_id for sample in samples}
    held_out = {i for i in ids if int(digest("validation", i)[:16], 16) < limit}
    if not held_out and len(ids) > 1:  # few samples: one still shows the curve
        held_out = {min(ids)}
    learn = [sample for sample in samples if sample.prompt_id not in held_out]
    validate = [sample for sample in samples if sample.prompt_id in held_out]
    return learn, validate or learn[:1]
