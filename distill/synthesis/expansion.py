"""Prompts that the teacher writes: what it is asked for, and what is read from its answers. Nothing is asked here.

Magpie (Xu et al. 2024, arXiv 2406.08464): the chat template up to where a user would speak, and the teacher goes on.
Self-Instruct (Wang et al. 2023, arXiv 2212.10560): some prompts as examples, and one more of their kind. In one round from
the seeds, not with earlier results as seeds, so that each request is known beforehand and none waits for another.
Personas (Ge et al. 2024, arXiv 2406.20094): what this person would ask, or what is asked in this place.

Drawn at temperature 1 from the whole distribution, as Magpie does: here variety is what is wanted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill import chat
from distill.core.jsonl import Row
from distill.data.samples import Prompt, normalised, read_prompts
from distill.data.sources import rows
from distill.data.translation import name_of
from distill.errors import DataError
from distill.filters import answer_filters
from distill.filters.dedup import mix, near_duplicates
from distill.recipe import Recipe
from distill.recipe.sources import Source
from distill.text.language import MIN_LETTERS, identify, wrong_language

SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
# Self-Instruct drops from ROUGE-L 0.7 on, pair by pair. We take the Jaccard similarity of 3-word (5-character) shingles, which
# works without spaces and for 100,000 prompts; it falls faster: two words of twenty changed in different places make it 0.5.
NEAR_DUPLICATE = 0.5
UNKNOWN = "und"  # BCP 47: the language is not known

_GIVE = (
    "Write it in {language}, between <prompt> and </prompt>, and nothing else. Do not answer it."
)
_LIKE = (
    "These are prompts that people gave to an assistant:\n\n{examples}\n\nWrite one new prompt of the same kind, about something "
    "that none of these is about. " + _GIVE
)
_PERSON = (
    "This is a person:\n\n{text}\n\nWrite one prompt that this person would give to an assistant: a question or a task out of "
    "their own life or work, in their own words. " + _GIVE
)
_PLACE = (
    "This is about a place:\n\n{text}\n\nWrite one prompt that somebody who lives there would give to an assistant: a question "
    "or a task that is set there and names what is found there. " + _GIVE
)
_KINDS = {"persona": _PERSON, "place": _PLACE}


@dataclass(frozen=True)
class Wish:
    """One prompt that the teacher is asked for. `prompt` is what it is asked, in no language where any will do (magpie);
    `prompt_ids` where that is no conversation (magpie); `sample_index` tells wishes of equal prompts apart."""

    source: Source
    prompt: Prompt
    sample_index: int
    prompt_ids: list[int] | None = None


def wishes(
    recipe: Recipe, tokenizer: Any, prompts: list[Prompt], held_out: list[Prompt]
) -> tuple[list[Wish], list[int]]:
    """(all prompts to ask the teacher for, ids that end them beside the usual ones). `prompts`, those that people wrote,
    are the seeds of a self_instruct without a file; a held-out prompt is never one.

    Raises MismatchError for magpie on a chat template that does not allow it, DataError for a file that is not usable.
    """
    found: list[Wish] = []
    stop_ids: set[int] = set()
    away = {p.id for p in held_out}
    for source in recipe.generate.prompts:
        if source.expand == "magpie":
            more, ends = _magpie(source, tokenizer)
            found += more
            stop_ids |= ends
        elif source.expand == "self_instruct":
            found += _self_instruct(
                recipe, source, [p for p in _seeds(recipe, source, prompts) if p.id not in away]
            )
        elif source.expand == "personas":
            found += _personas(recipe, source)
    return found, sorted(stop_ids)


def _share(source: Source, place: int, num_languages: int) -> int:
    """How many of the source's `num` are the language's at `place`."""
    assert source.num is not None
    return source.num // num_languages + (place < source.num % num_languages)


def _magpie(source: Source, tokenizer: Any) -> tuple[list[Wish], set[int]]:
    found: list[Wish] = []
    stop_ids: set[int] = set()
    steered: list[tuple[str, str | None]] = (
        list(source.system_prompts.items())
        if source.system_prompts
        else [(source.language or "", None)]
    )
    for place, (language, system) in enumerate(steered):
        ids, stop_id = chat.user_turn(tokenizer, system)
        stop_ids.add(stop_id)
        prompt = Prompt(
            () if system is None else ({"role": "system", "content": system},),
            language,
            source=source.name,
        )
        found += [Wish(source, prompt, i, ids) for i in range(_share(source, place, len(steered)))]
    return found, stop_ids


def _seeds(recipe: Recipe, source: Source, prompts: list[Prompt]) -> list[Prompt]:
    if source.file is None and source.dataset is None:
        return prompts
    return read_prompts(recipe, "generate.prompts", [source], needs_reference=False)


def _self_instruct(recipe: Recipe, source: Source, seeds: list[Prompt]) -> list[Wish]:
    found: list[Wish] = []
    languages = [source.language] if source.language else recipe.languages
    for place, language in enumerate(languages):
        mine = list(
            {p.id: p for p in seeds if p.language == language and not p.is_translation}.values()
        )
        if not mine:
            raise DataError(
                f"{recipe.source}: generate.prompts: {source.name}: no seed prompt in {language}; add some, or set language"
            )
        hashes = np.array([int(p.id[:16], 16) for p in mine], dtype=np.uint64)
        for i in range(_share(source, place, len(languages))):
            # the lowest of hashes that each request has of its own: one seed more changes few requests, the rest is not asked again
            mixed = mix(hashes ^ mix(np.array([i], dtype=np.uint64)))
            lowest = np.argpartition(mixed, min(source.num_shown, len(mine)) - 1)[
                : source.num_shown
            ]
            chosen = [mine[int(k)].text for k in lowest[np.argsort(mixed[lowest])]]
            examples = "\n\n".join(f"<prompt>{text}</prompt>" for text in chosen)
            found.append(
                _asked(
                    source, _LIKE.format(examples=examples, language=name_of(language)), language, i
                )
            )
    return found


def _personas(recipe: Recipe, source: Source) -> list[Wish]:
    found: list[Wish] = []
    known = _people(recipe, source)
    languages = [source.language] if source.language else recipe.languages
    for place, language in enumerate(languages):
        mine = [(kind, text) for kind, text, only in known if only in (None, language)]
        if not mine:
            raise DataError(
                f"{recipe.source}: generate.prompts: {source.name}: nobody for {language}; add some, or set language"
            )
        for i in range(_share(source, place, len(languages))):
            kind, text = mine[i % len(mine)]
            found.append(
                _asked(
                    source,
                    _KINDS[kind].format(text=text, language=name_of(language)),
                    language,
                    i // len(mine),
                )
            )
    return found


def _people(recipe: Recipe, source: Source) -> list[tuple[str, str, str | None]]:
    """(persona or place, its text, the only language it is for) for every row; a line of a .txt is a persona."""
    found = []
    for where, row in rows(recipe, "generate.prompts", source):
        if source.file is not None and source.file.lower().endswith(".txt"):
            row = {"persona": row["prompt"]}
        kinds = [kind for kind in _KINDS if isinstance(row.get(kind), str) and row[kind].strip()]
        unknown = sorted(row.keys() - {*_KINDS, "language", "id"})
        if unknown or len(kinds) != 1:
            what = f"unknown field {unknown[0]!r}" if unknown else f"{len(kinds)} texts"
            raise DataError(
                f"{where}: {what}; give either persona or place as text, and language where it is for one alone"
            )
        language = row.get("language")
        if language is not None and language not in recipe.languages:
            raise DataError(
                f"{where}: language {language!r} is not in the recipe's languages {recipe.languages}"
            )
        found.append((kinds[0], normalised(row[kinds[0]]).strip(), language))
    return found


def _asked(source: Source, request: str, language: str, sample_index: int) -> Wish:
    return Wish(
        source,
        Prompt(({"role": "user", "content": request},), language, source=source.name),
        sample_index,
    )


def read(
    recipe: Recipe,
    answered: Sequence[tuple[Wish, list[int], Row]],
    tokenizer: Any,
    prompts: list[Prompt],
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """(usable prompts, (prompt, reason) of the others) from what the teacher wrote; a pure function of it. `answered`: the wish,
    the token ids that were sent for it, and the row that came.

    Whether they are worth asking is then judged as of every prompt; here only what people's prompts never are: cut, empty, a
    refusal, the teacher's own name, our request or the template's tokens, or nearly one that is there already.
    """
    found: list[Prompt] = []
    bad: list[tuple[Prompt, str]] = []
    for wish, prompt_ids, row in answered:
        text = normalised(_written(wish, prompt_ids, row, tokenizer)).strip()
        language = wish.prompt.language or _language_of(text, recipe.languages)
        prompt = Prompt(
            ({"role": "user", "content": text},),
            language or UNKNOWN,
            source=wish.source.name,
            verify=wish.source.verify,
            refusals=wish.source.refusals,
        )
        reason = _unusable(row, text, language, tokenizer)
        if reason is None:
            found.append(prompt)
        else:
            bad.append((prompt, reason))
    known = [
        p.text
        for s in recipe.generate.prompts
        if s.expand == "self_instruct"
        for p in _seeds(recipe, s, prompts)
    ]
    repeats = near_duplicates([*known, *(p.text for p in found)], NEAR_DUPLICATE)[len(known) :]
    bad += [
        (p, "near_duplicate_prompt: nearly one that is there")
        for p, r in zip(found, repeats, strict=True)
        if r is not None
    ]
    return [p for p, r in zip(found, repeats, strict=True) if r is None], bad


def _written(wish: Wish, prompt_ids: list[int], row: Row, tokenizer: Any) -> str:
    if row["finish_reason"] == "error":
        return ""
    if wish.prompt_ids is not None:
        ids = row["token_ids"]
        return chat.text_of(tokenizer, ids[:-1] if row["finish_reason"] == "stop" else ids)
    opened = chat.opens_thinking(tokenizer, prompt_ids)
    return between_tags(chat.split_thinking(row["text"], opened=opened)[1])


_LABEL = re.compile(
    r"(?:\*\*|#+ *)?(?:(?:new |user )?prompt *[:：]|\d{1,2}[.)、](?=\s))(?:\*\*)?\s*", re.I
)
_QUOTES = ('""', "“”", "''", "«»", "「」", "``")


def between_tags(text: str) -> str:
    """The prompt in an answer that was to give it between <prompt> and </prompt>: in the last pair, after an opening tag
    alone, before a closing one alone, or all of it; without a label or quotation marks round it."""
    opening, _, rest = text.rpartition("<prompt>")
    inside = rest.partition("</prompt>")[0]
    if not inside.strip() and "<prompt>" in opening:  # an empty pair after a full one
        inside = opening.rpartition("<prompt>")[2].partition("</prompt>")[0]
    inside = inside.strip()
    label = _LABEL.match(inside)
    inside = inside[label.end() :].strip() if label else inside
    for left, right in _QUOTES:
        if (
            len(inside) > 2
            and inside[0] == left
            and inside[-1] == right
            and not {left, right} & set(inside[1:-1])
        ):
            return inside[1:-1].strip()
    return inside


def _language_of(text: str, languages: Sequence[str]) -> str | None:
    if identify(text, languages[0], languages)[1] < MIN_LETTERS:
        return None
    return next((code for code in languages if wrong_language(text, code, languages) is None), None)


_REQUEST = re.compile(
    r"</?prompt>|between <prompt>|one new prompt of the same kind|this is a person:|this is about a place:",
    re.I,
)

_MARK = re.compile(
    r"[<>\[\]|｜]"
)  # a template's own token has one of these; a word or a space that was added has none


def _unusable(row: Row, text: str, language: str | None, tokenizer: Any) -> str | None:
    if row["finish_reason"] != "stop":
        return answer_filters.truncated(row["finish_reason"])
    if not text:
        return "empty_prompt: the teacher wrote none"
    if language is None:
        return "wrong_prompt_language: none of the recipe's, or too short to tell"
    if leak := _REQUEST.search(text):
        return f"leak: {leak[0]!r}"
    if _MARK.search(text):
        for token in tokenizer.added_tokens_decoder.values():
            if _MARK.search(token.content) and token.content in text:
                return f"leak: {token.content!r}"
    return (
        answer_filters.refusal(text, language)
        or answer_filters.loop(text)
        or answer_filters.identity(text)
    )
