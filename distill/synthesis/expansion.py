"""Prompts that the teacher writes: what it is asked for, and what is read from its answers.

Nothing is asked here.

Magpie (Xu et al. 2024, arXiv 2406.08464): the chat template up to where a user would speak, and the
teacher goes on. Self-Instruct (Wang et al. 2023, arXiv 2212.10560): some prompts as examples, and
one more of their kind. In one round from the seeds, not with earlier results as seeds, so that each
request is known beforehand and none waits for another. Personas (Ge et al. 2024, arXiv 2406.20094):
what this person would ask, or what is asked in this place.

Drawn at temperature 1 from the whole distribution, as Magpie does: here variety is what is wanted.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill import chat
from distill.core.jsonl import BadRow, Row
from distill.core.splitmix import splitmix
from distill.data.bad_rows import Left, read_rows, refuse_half_characters
from distill.data.prompts import read_prompts
from distill.data.samples import Prompt, normalised
from distill.data.translation import name_of
from distill.errors import DataError, shown
from distill.filters.answer_form import cut_by, server_error
from distill.filters.base import named
from distill.filters.dedup import near_duplicates
from distill.filters.identity import identity
from distill.filters.refusals import refusal
from distill.filters.repetition import loop
from distill.recipe import Recipe
from distill.recipe.sources import Source
from distill.text.identification import MIN_LETTERS
from distill.text.invisible import is_invisible
from distill.text.language import wrong_language
from distill.text.text import Text

SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
# Self-Instruct drops from ROUGE-L 0.7 on, pair by pair. We take the Jaccard similarity of 3-word (5-character) shingles, which
# works without spaces and for 100,000 prompts; it falls faster: two words of twenty changed in different places make it 0.5.
NEAR_DUPLICATE = 0.5
UNKNOWN = "und"  # BCP 47: the language is not known

_GIVE = (
    "Write it in {language}, between <prompt> and </prompt>, and nothing else. Do not answer it."
)
_LIKE = (
    "These are prompts that people gave to an assistant:\n\n{examples}\n\n"
    "Write one new prompt of the same kind, about something that none of these is about. " + _GIVE
)
_PERSON = (
    "This is a person:\n\n{text}\n\n"
    "Write one prompt that this person would give to an assistant: a question or a task out of "
    "their own life or work, in their own words. " + _GIVE
)
_PLACE = (
    "This is about a place:\n\n{text}\n\n"
    "Write one prompt that somebody who lives there would give to an assistant: a question "
    "or a task that is set there and names what is found there. " + _GIVE
)
_KINDS = {"persona": _PERSON, "place": _PLACE}


@dataclass(frozen=True)
class PromptRequest:
    """A request for one prompt.

    `prompt`: what the teacher is asked, in no language where any will do (magpie). `prompt_ids`:
    where that is no conversation (magpie). `sample_index` tells requests of equal prompts apart.
    """

    source: Source
    prompt: Prompt
    sample_index: int
    prompt_ids: list[int] | None = None


def prompt_requests(
    recipe: Recipe,
    tokenizer: Any,
    prompts: list[Prompt],
    held_out: list[Prompt],
    left: Left | None = None,
) -> tuple[list[PromptRequest], list[int]]:
    """Return (all requests for prompts, ids that end these beside the usual ones).

    `prompts`, those that people wrote, are the seeds of a self_instruct without a file; a held-out
    prompt is never one, nor one that holds a mark of the teacher's template. What is left out of
    files is counted in `left`. Raise MismatchError for
    magpie on a chat template that does not allow it, DataError for a file that is not usable.
    """
    requests: list[PromptRequest] = []
    stop_ids: set[int] = set()
    held_out_ids = {prompt.id for prompt in held_out}
    marks = chat.TemplateMarks.of(tokenizer)
    for source in recipe.generate.prompts:
        if source.expand == "magpie":
            requests_of_source, stop_ids_of_source = _magpie(source, tokenizer)
            requests += requests_of_source
            stop_ids |= stop_ids_of_source
        elif source.expand == "self_instruct":
            seeds = _seeds(recipe, source, prompts, left)
            seeds = [seed for seed in seeds if seed.id not in held_out_ids]
            seeds = [seed for seed in seeds if marks.first_in_messages(seed.messages) is None]
            requests += _self_instruct(recipe, source, seeds)
        elif source.expand == "personas":
            requests += _personas(recipe, source, marks, left)
    return requests, sorted(stop_ids)


def _share(source: Source, position: int, num_languages: int) -> int:
    """Return how many of the source's `num` are of the language at `position`."""
    assert source.num is not None
    return source.num // num_languages + (position < source.num % num_languages)


def _languages(recipe: Recipe, source: Source) -> Iterator[tuple[str, int]]:
    """Yield (language, how many prompts to ask for in it)."""
    languages = [source.language] if source.language else recipe.languages
    for position, language in enumerate(languages):
        yield language, _share(source, position, len(languages))


def _magpie(source: Source, tokenizer: Any) -> tuple[list[PromptRequest], set[int]]:
    requests: list[PromptRequest] = []
    stop_ids: set[int] = set()
    system_prompts: list[tuple[str, str | None]] = [(source.language or "", None)]
    if source.system_prompts:
        system_prompts = list(source.system_prompts.items())
    for position, (language, system) in enumerate(system_prompts):
        ids, stop_id = chat.user_turn(tokenizer, system)
        stop_ids.add(stop_id)
        messages = () if system is None else ({"role": "system", "content": system},)
        prompt = Prompt(messages, language, source=source.name)
        num = _share(source, position, len(system_prompts))
        requests += [PromptRequest(source, prompt, index, ids) for index in range(num)]
    return requests, stop_ids


def _seeds(
    recipe: Recipe, source: Source, prompts: list[Prompt], left: Left | None = None
) -> list[Prompt]:
    """Return the prompts that are shown as examples; an empty one is none."""
    seeds = prompts
    if source.file is not None or source.dataset is not None:
        seeds = read_prompts(recipe, "generate.prompts", [source], needs_reference=False, left=left)
    return [seed for seed in seeds if not is_invisible(seed.text)]


def _asks(prompt: Prompt) -> bool:
    """Return whether it is a question, of which more can be asked for."""
    return not (prompt.is_translation or prompt.is_passage)


def _self_instruct(recipe: Recipe, source: Source, seeds: list[Prompt]) -> list[PromptRequest]:
    requests: list[PromptRequest] = []
    for language, num in _languages(recipe, source):
        usable = [seed for seed in seeds if seed.language == language and _asks(seed)]
        usable = list({seed.id: seed for seed in usable}.values())
        if not usable:
            raise DataError(
                f"{recipe.source}: generate.prompts: {source.name}: no seed prompt in {language}; "
                "add some, or set language"
            )
        hashes = np.array([int(seed.id[:16], 16) for seed in usable], dtype=np.uint64)
        for index in range(num):
            shown = [usable[position].text for position in _lowest(hashes, index, source.num_shown)]
            examples = "\n\n".join(f"<prompt>{text}</prompt>" for text in shown)
            text = _LIKE.format(examples=examples, language=name_of(language))
            requests.append(_request(source, text, language, index))
    return requests


def _lowest(hashes: np.ndarray, request: int, num: int) -> list[int]:
    """Return the positions of the lowest of hashes that each request has of its own.

    One seed more then changes few requests, and the rest is not asked again.
    """
    mixed = splitmix(hashes ^ splitmix(np.array([request], dtype=np.uint64)))
    lowest = np.argpartition(mixed, min(num, len(hashes)) - 1)[:num]
    return lowest[np.argsort(mixed[lowest])].tolist()


def _personas(
    recipe: Recipe, source: Source, marks: chat.TemplateMarks, left: Left | None
) -> list[PromptRequest]:
    requests: list[PromptRequest] = []
    personas = _read_personas(recipe, source, marks, left)
    for language, num in _languages(recipe, source):
        usable = [persona for persona in personas if persona.language in (None, language)]
        if not usable:
            raise DataError(
                f"{recipe.source}: generate.prompts: {source.name}: nobody for {language}; "
                "add some, or set language"
            )
        for index in range(num):
            persona = usable[index % len(usable)]
            text = _KINDS[persona.kind].format(text=persona.text, language=name_of(language))
            requests.append(_request(source, text, language, index // len(usable)))
    return requests


@dataclass(frozen=True)
class _Persona:
    """A person or a place. `language`: the only one it is for, None for any."""

    kind: str
    text: str
    language: str | None


def _read_personas(
    recipe: Recipe, source: Source, marks: chat.TemplateMarks, left: Left | None
) -> list[_Persona]:
    """Read a persona or place from every row; a line of a .txt is a persona.

    In a source with columns of its own those for other languages than the recipe's are left out, as
    of prompts.
    """

    names_languages = "language" in (source.columns or {})

    def make(row: Row, where: str) -> _Persona | None:
        if source.file is not None and source.file.lower().endswith(".txt"):
            row = {"persona": row["prompt"]}
        kind = _kind_of(row, where)
        refuse_half_characters(where, row[kind])
        language = row.get("language")
        if language is not None and language not in recipe.languages:
            if names_languages:
                return None
            raise DataError(
                f"{where}: language {shown(language)} is not in the recipe's languages "
                f"{recipe.languages}"
            )
        mark = marks.first_in(row[kind])
        if mark is not None:
            raise DataError(
                f"{where}: {kind}: {mark!r} in it would be read as a mark of the teacher's chat "
                "template; take it out"
            )
        return _Persona(kind, normalised(row[kind]).strip(), language)

    read = read_rows(recipe, "generate.prompts", source, make, left)
    personas = [persona for persona in read if persona is not None]
    if left is not None and (num := len(read) - len(personas)):
        left.by_reason["other_language"] += num
        left.notes.append(
            f"generate.prompts: {source.name}: {num:,} rows for other languages than the recipe's "
            "are left out"
        )
    return personas


def _kind_of(row: Row, where: str) -> str:
    """Return persona or place. Raise DataError for a row that is not one of the two."""
    kinds = [kind for kind in _KINDS if isinstance(row.get(kind), str)]
    kinds = [kind for kind in kinds if not is_invisible(row[kind])]
    unknown = sorted(map(str, row.keys() - {*_KINDS, "language", "id"}))
    if not unknown and len(kinds) == 1:
        return kinds[0]
    problem = f"unknown field {shown(unknown[0])}" if unknown else f"{len(kinds)} texts"
    raise BadRow(
        "no_persona",
        f"{where}: {problem}; give either persona or place as text, and language where it is for "
        "one alone",
    )


def _request(source: Source, text: str, language: str, sample_index: int) -> PromptRequest:
    prompt = Prompt(({"role": "user", "content": text},), language, source=source.name)
    return PromptRequest(source, prompt, sample_index)


def read(
    recipe: Recipe,
    answered: Sequence[tuple[PromptRequest, Sequence[int], Row]],
    tokenizer: Any,
    prompts: list[Prompt],
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Return (usable prompts, (prompt, reason) of the others) from what the teacher wrote.

    A pure function of it. `answered`: the request, the token ids that were sent for it, and the row
    that came.

    Whether they are worth asking is then judged as of every prompt; here only what people's prompts
    never are: cut, empty, a refusal, the teacher's own name, our request or the template's tokens,
    or nearly one that is there already.
    """
    written: list[Prompt] = []
    bad: list[tuple[Prompt, str]] = []
    for request, prompt_ids, row in answered:
        text = normalised(_written(request, prompt_ids, row, tokenizer)).strip()
        language = request.prompt.language or _language_of(text, recipe.languages)
        prompt = _prompt(request.source, text, language)
        reason = _unusable(row, text, language, tokenizer)
        if reason is None:
            written.append(prompt)
        else:
            bad.append((prompt, reason))
    seeds = [
        seed.text
        for source in recipe.generate.prompts
        if source.expand == "self_instruct"
        for seed in _seeds(recipe, source, prompts)
    ]
    originals = near_duplicates([*seeds, *(p.text for p in written)], NEAR_DUPLICATE)[len(seeds) :]
    good: list[Prompt] = []
    for prompt, original in zip(written, originals, strict=True):
        if original is None:
            good.append(prompt)
        else:
            bad.append((prompt, "near_duplicate_prompt: nearly one that is there"))
    return good, bad


def _prompt(source: Source, text: str, language: str | None) -> Prompt:
    return Prompt(
        ({"role": "user", "content": text},),
        language or UNKNOWN,
        source=source.name,
        verify=source.verify,
        refusals=source.refusals,
    )


def _written(request: PromptRequest, prompt_ids: Sequence[int], row: Row, tokenizer: Any) -> str:
    """Return the prompt in what the teacher wrote."""
    if row["finish_reason"] == "error":
        return ""
    if request.prompt_ids is not None:
        ids = row["token_ids"]
        return chat.text_of(tokenizer, ids[:-1] if row["finish_reason"] == "stop" else ids)
    opened = chat.opens_thinking(tokenizer, prompt_ids)
    marks = chat.answer_marks(tokenizer)
    return between_tags(chat.split_thinking(row["text"], opened=opened, marks=marks)[1])


_LABEL = re.compile(
    r"(?:\*\*|#+ *)?(?:(?:new |user )?prompt *[:：]|\d{1,2}[.)、](?=\s))(?:\*\*)?\s*", re.I
)
_QUOTES = ('""', "“”", "''", "«»", "「」", "``")


def between_tags(text: str) -> str:
    """Return the prompt in an answer that was to give it between <prompt> and </prompt>.

    It is in the last pair, after an opening tag alone, before a closing one alone, or all of it;
    without a label or quotation marks round it.
    """
    opening, _, rest = text.rpartition("<prompt>")
    inside = rest.partition("</prompt>")[0]
    if not inside.strip() and "<prompt>" in opening:  # an empty pair after a full one
        inside = opening.rpartition("<prompt>")[2].partition("</prompt>")[0]
    inside = inside.strip()
    label = _LABEL.match(inside)
    if label is not None:
        inside = inside[label.end() :].strip()
    return _unquoted(inside)


def _unquoted(text: str) -> str:
    """Return the text without the one pair of quotation marks that is round all of it."""
    for left, right in _QUOTES:
        is_quoted = len(text) > 2 and text[0] == left and text[-1] == right
        if is_quoted and not {left, right} & set(text[1:-1]):
            return text[1:-1].strip()
    return text


def _language_of(text: str, languages: Sequence[str]) -> str | None:
    """Return the first of the languages that the text is in; None if it is in none, or short."""
    prompt = Text(text)
    if sum(prompt.letters.values()) < MIN_LETTERS:
        return None
    fitting = (code for code in languages if wrong_language(prompt, code, languages) is None)
    return next(fitting, None)


_REQUEST = re.compile(
    r"</?prompt>|between <prompt>|one new prompt of the same kind|this is a person:"
    r"|this is about a place:",
    re.I,
)
# a template's own token has one of these; a word or a space that was added has none
_MARK = re.compile(r"[<>\[\]|｜]")


def _unusable(row: Row, text: str, language: str | None, tokenizer: Any) -> str | None:
    """Return why what the teacher wrote is no prompt, or None."""
    finish_reason = row["finish_reason"]
    if finish_reason != "stop":
        error = named("error", server_error(finish_reason))
        return error or named("truncated", cut_by(finish_reason))
    if is_invisible(text):
        return "empty_prompt: the teacher wrote none"
    if language is None:
        return "wrong_prompt_language: none of the recipe's, or too short to tell"
    leak = _leak(text, tokenizer)
    if leak is not None:
        return f"leak: {leak!r}"
    prompt = Text(text)
    return (
        named("refusal", refusal(prompt, language))
        or named("loop", loop(prompt))
        or named("identity", identity(prompt))
    )


def _leak(text: str, tokenizer: Any) -> str | None:
    """Return what of our request, or which token of the template, is in the text, or None."""
    match = _REQUEST.search(text)
    if match is not None:
        return match[0]
    if _MARK.search(text) is None:
        return None
    tokens = (token.content for token in tokenizer.added_tokens_decoder.values())
    leaked = (token for token in tokens if _MARK.search(token) and token in text)
    return next(leaked, None)
