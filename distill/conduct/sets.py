"""The safety sets: ours, which are in the package, and those of others from a file or a data set.

    harmful     requests that should be declined, short and general
    harmless    requests that sound like those, and should be answered
    sensitive   politically sensitive matters of many countries, asked neutrally
    pairs       two requests that differ by a name or a gender alone

A row of ours is one request in every language, under one id. DATA_CARD.md beside them says who wrote
them, and that no native speaker has checked the translations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.core.digests import digest
from distill.core.jsonl import BadRow, read_jsonl
from distill.data import sources
from distill.data.routes import routed
from distill.data.samples import Prompt
from distill.errors import DataError, shown
from distill.recipe import Recipe
from distill.recipe.sections import OURS, SafetySet
from distill.recipe.sources import Source
from distill.text.scripts import base_code, same_language, scripts_of

FOLDER = Path(__file__).with_name("sets")
LANGUAGES = ("en", "zh", "sw", "hi", "id", "ar", "fr")  # that ours are written in
_FORMS = {"zh": "zh-Hans"}  # what ours are, where a code leaves that open
FIELD = "evaluate.safety.prompts"
# What a label column may say (XSTest: safe, unsafe), and what `refusals` of a source without one.
LABELS: dict[str, SafetySet] = {
    "unsafe": "harmful",
    "harmful": "harmful",
    "safe": "harmless",
    "harmless": "harmless",
    "sensitive": "sensitive",
}
BY_REFUSALS: dict[str, SafetySet] = {
    "require": "harmful",
    "drop": "harmless",
    "keep": "sensitive",
}
# Harmless ones first: a server that refuses each of its first requests is taken for a mistake in the
# recipe, and many refuse harmful ones before a model sees them.
_ASKED: tuple[SafetySet, ...] = ("harmless", "pairs", "sensitive", "harmful")


@dataclass(frozen=True)
class Item:
    """One request in one language.

    `id`: the same in every language, but for the letter of the side of a pair ("pairs-01a"). `source`:
    "distill" for ours, else the file or data set. `topic`: "" where it is not known.
    """

    id: str
    set: SafetySet
    language: str
    text: str
    source: str = OURS
    topic: str = ""

    @property
    def prompt(self) -> Prompt:
        """Return what a model is asked; nothing checks its answer."""
        messages = ({"role": "user", "content": self.text},)
        return Prompt(messages, self.language, source=self.source, verify=False)

    @property
    def key(self) -> str:
        """Return what tells the request from all others, in any language and source."""
        return f"{self.source}/{self.id}/{self.language}"


def read_set(name: SafetySet, num: int | None = None) -> Iterator[Item]:
    """Yield the requests of one of our sets, in each of its languages; `num` rows at most, evenly."""
    rows = [row for _, row in read_jsonl(FOLDER / f"{name}.jsonl")]
    num = min(num or len(rows), len(rows))
    for row in (rows[i * len(rows) // num] for i in range(num)):
        for language, texts in row["texts"].items():
            letters = "ab" if len(texts) > 1 else [""]
            for letter, text in zip(letters, texts, strict=True):
                yield Item(row["id"] + letter, name, language, text, topic=row["topic"])


def items_of(recipe: Recipe) -> list[Item]:
    """Return all that the recipe's models are asked: of our sets, and of its own sources.

    Ours in the recipe's languages, under its own codes, by which teachers are chosen; a language that
    they are not in is left out (`unwritten`).
    Raises DataError and MissingError for a source that cannot be read.
    """
    options = recipe.evaluate.safety
    assert options is not None  # asked where the recipe has it alone
    codes = _codes(recipe)
    items = [
        replace(item, language=codes[item.language])
        for name in sorted(options.sets, key=_ASKED.index)
        for item in read_set(name, options.num_requests)
        if item.language in codes
    ]
    for number, source in enumerate(options.prompts or ()):
        items += _of_source(recipe, f"{FIELD}.{number}", source)
    if not items:
        raise DataError(
            f"{recipe.source}: evaluate.safety: nothing to ask: none of our sets is in "
            f"{', '.join(recipe.languages)}; give {FIELD} of your own"
        )
    return items


def asked_of(recipe: Recipe, prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Return what of these requests each teacher is asked, by its name; a text that is there twice once.

    Raises DataError for requests that no teacher takes.
    """
    distinct = list({prompt.id: prompt for prompt in prompts}.values())
    return routed(recipe, distinct, "requests of evaluate.safety")


def requests_of(recipe: Recipe) -> dict[str, list[Prompt]]:
    """Return what evaluate.safety asks of each teacher, by its name; nothing where it is null.

    Raises what `items_of` and `asked_of` raise.
    """
    if recipe.evaluate.safety is None:
        return {}
    return asked_of(recipe, [item.prompt for item in items_of(recipe)])


def _codes(recipe: Recipe) -> dict[str, str]:
    """Return the recipe's own code for each language of ours that it has: {"zh": "zh-Hans"}.

    Of several (zh-Hant, zh-Hans) the one that our texts are in, else the first. Hindi in Latin letters
    is none of ours.
    """
    found = {}
    for ours in LANGUAGES:
        same = tuple(code for code in recipe.languages if _is_written_as(ours, code))
        if same:
            found[ours] = same_language(_FORMS.get(ours, ours), same) or same[0]
    return found


def _is_written_as(ours: str, code: str) -> bool:
    if base_code(code) != ours:
        return False
    return not set(scripts_of(ours)).isdisjoint(scripts_of(code))


def unwritten(recipe: Recipe) -> list[str]:
    """Return the recipe's languages that our sets are not written in."""
    written = _codes(recipe).values()
    return [code for code in recipe.languages if code not in written]


def identity(recipe: Recipe) -> str:
    """Return what changes with the text of anything that is asked."""
    items = items_of(recipe)
    return digest("\n".join(f"{item.key}\t{item.set}\t{item.text}" for item in items))


def _of_source(recipe: Recipe, name: str, source: Source) -> list[Item]:
    """Return the requests of a source of the recipe's, each with the set that its label means."""
    items = []
    for number, (where, row) in enumerate(sources.rows(recipe, name, source), 1):
        if isinstance(row, BadRow):
            raise DataError(f"{row}: mend it, or take the row out")
        text = row.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: no prompt, or an empty one: set columns of {name}")
        item_id = str(row.get("id", number))
        language = _language(recipe, source, row.get("language"), where)
        items.append(Item(item_id, _set_of(source, row, where), language, text, source.name))
    keys = [item.key for item in items]
    if len(set(keys)) < len(keys):
        twice = next(item.id for item in items if keys.count(item.key) > 1)
        raise DataError(f"{source.name}: the id {shown(twice)} stands there twice")
    return items


def _set_of(source: Source, row: dict[str, object], where: str) -> SafetySet:
    """Return the set of a row: what its column `reference` says, else what its source is."""
    label = row.get("reference")
    if label is None:
        return BY_REFUSALS[source.refusals]
    found = LABELS.get(str(label).strip().lower())
    if found is None:
        raise DataError(f"{where}: reference: {shown(str(label))} is none of {', '.join(LABELS)}")
    return found


def _language(recipe: Recipe, source: Source, code: object, where: str) -> str:
    language = source.language or code
    if language is None and len(recipe.languages) == 1:
        return recipe.languages[0]
    found = None
    if isinstance(language, str):
        found = same_language(language, tuple(recipe.languages))
    if found is None:
        raise DataError(
            f"{where}: language {shown(str(language))} is none of the recipe's "
            f"({', '.join(recipe.languages)}): set language of the source, or add it there"
        )
    return found


def pairs_among(items: Sequence[Item]) -> list[tuple[int, int]]:
    """Return the numbers of both sides of each pair that has both.

    One side may have been left out, where it alone does not fit into a model's context.
    """
    places = {item.key: number for number, item in enumerate(items) if item.set == "pairs"}
    ours = [(n, items[n]) for n in places.values() if items[n].id.endswith("a")]
    sides = [
        (n, places.get(f"{item.source}/{item.id[:-1]}b/{item.language}"))
        for n, item in ours
        if item.source == OURS
    ]
    return [(a, b) for a, b in sides if b is not None]
