"""Prompts from a recipe's sources: what their rows ask, which are learnt from, and which are held out."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from distill import tasks
from distill.core.jsonl import BadRow, Row
from distill.data import translation
from distill.data.bad_rows import Left, read_rows, refuse_half_characters
from distill.data.columns import ANSWER, without_others
from distill.data.conversations import Conversation, conversation
from distill.data.other_languages import by_kind, commonest, unknown_note
from distill.data.passages import (
    REQUEST,
    SHORTEST,
    opening_and_rest,
    passages_of,
    unwrapped,
)
from distill.data.samples import Prompt, normalised
from distill.data.shares import take_turns
from distill.data.sources import listed
from distill.errors import DataError, shown
from distill.recipe import Recipe
from distill.recipe.sources import Source
from distill.text.invisible import is_invisible
from distill.text.scripts import same_language


def read_prompts(
    recipe: Recipe,
    name: str,
    sources: Sequence[Source],
    *,
    needs_reference: bool,
    left: Left | None = None,
) -> list[Prompt]:
    """Read and check the prompts of the recipe's field `name`, normalised.

    Rows that are no prompts are left out up to `generate.max_bad_rows`, and of a source with
    columns of its own those in other languages than the recipe's; both are counted in `left`. Raise
    DataError naming the line, the field and the value.
    """
    prompts: list[Prompt] = []
    left = left or Left()
    task = recipe.generate.task if needs_reference else None
    for source in sources:
        others: Counter[str] = Counter()
        if source.passages is not None:
            of_recipe = _read_passages(recipe, name, source, others, left)
        else:
            checked_by = task if source.verify else None
            of_recipe = _read_source(recipe, name, source, checked_by, others, left)
        if not of_recipe:
            languages = ", ".join(recipe.languages)
            met = f"; its languages are {commonest(others)}" if others else ""
            raise DataError(
                f"{recipe.source}: {name}: {source.name}: no prompts in it in {languages}{met}"
            )
        prompts += of_recipe
        kinds = by_kind(others)
        left.by_reason.update(kinds)
        if num := kinds["other_language"]:
            left.notes.append(
                f"{name}: {source.name}: {num:,} rows in other languages than the recipe's are left out"
            )
        if (note := unknown_note(others)) is not None:
            left.notes.append(f"{name}: {source.name}: {note}")
    return prompts


def _read_source(
    recipe: Recipe,
    name: str,
    source: Source,
    task: str | None,
    others: Counter[str],
    left: Left,
) -> list[Prompt]:
    """Read a source's prompts; the code of each row in another language is counted in `others`."""
    num_cut = 0
    ignored: Counter[str] = Counter()
    met: set[str] = set()

    def make(row: Row, where: str) -> list[Prompt]:
        nonlocal num_cut
        if source.translate is not None:
            met.update(row)
            pairs = _translations(source, source.translate, row, where, recipe.languages)
            left.by_reason.update([] if pairs else ["no_pair"])
            return pairs
        row, others_here = without_others(row, where, name, has_answer=source.gives_answers)
        ignored.update(others_here)
        language = _language(source, row, where, recipe.languages)
        if language is None:
            others[str(row.get("language"))] += 1
            return []
        asked = conversation(row, where)
        prompt = _prompt(source, row, asked.turns, where, language, task)
        if source.gives_answers:
            return [replace(prompt, answer=_given_answer(row, asked, where))]
        num_cut += bool(asked.answers)
        return [prompt]

    read = read_rows(recipe, name, source, make, left)
    absent = [column for column in (source.translate or {}).values() if column not in met]
    if absent and met:
        raise DataError(
            f"{recipe.source}: {name}: {source.name}: translate: no row has the column "
            f"{shown(absent[0])}; there are {listed(sorted(met))}"
        )
    _note_ignored(ignored, f"{name}: {source.name}", left)
    if num_cut:
        left.notes.append(
            f"{name}: {source.name}: {num_cut:,} conversations end with the assistant's turn: it is "
            "left out, and asked anew"
        )
    return [prompt for prompts in read for prompt in prompts]


def _note_ignored(ignored: Counter[str], where: str, left: Left) -> None:
    if ignored:
        left.notes.append(f"{where}: columns that are none of ours are left out: {listed(ignored)}")


def _language(source: Source, row: Row, where: str, languages: Sequence[str]) -> str | None:
    """Return the row's language as the recipe spells it.

    None if it is another one, in a source whose rows name theirs.
    """
    only = languages[0] if len(languages) == 1 else None
    code = source.language or row.get("language", only)
    language = same_language(code, tuple(languages)) if isinstance(code, str) else None
    if language is not None or (source.columns is not None and "language" in source.columns):
        return language
    if code is None:
        raise DataError(
            f"{where}: no language: set `language: {languages[0]}` in this source of prompts if all "
            "are in one, or name the column that has it: `columns: {language: THEIR_NAME, ...}`"
        )
    raise DataError(
        f"{where}: language {shown(code)} is not in the recipe's languages {list(languages)}"
    )


def _prompt(
    source: Source,
    row: Row,
    turns: list[dict[str, str]],
    where: str,
    language: str,
    task: str | None,
) -> Prompt:
    """Return the row's prompt. `task`: what grades its answers by its reference; None = nothing.

    Raise BadRow for a reference that is needed, and not there or none for the task.
    """
    reference = _reference(row, where, task)
    prompt = Prompt(
        tuple({"role": turn["role"], "content": normalised(turn["content"])} for turn in turns),
        language,
        reference,
        source=source.name,
        source_id=_source_id(row),
        check_language=source.check_language,
        verify=source.verify,
        refusals=source.refusals,
    )
    refuse_half_characters(where, prompt.full_text, reference, prompt.source_id)
    return prompt


def _read_passages(
    recipe: Recipe, name: str, source: Source, others: Counter[str], left: Left
) -> list[Prompt]:
    """Read a source's texts, and cut them; what is in another language is counted in `others`.

    Raise DataError where all are too short to be cut.
    """
    assert source.passages is not None
    ignored: Counter[str] = Counter()

    def make(row: Row, where: str) -> tuple[str, str, str | None] | None:
        row, others_here = without_others(row, where, name)
        ignored.update(others_here)
        language = _language(source, row, where, recipe.languages)
        text = row.get("prompt")
        if language is None:
            others[str(row.get("language"))] += 1
            return None
        if not isinstance(text, str):
            raise BadRow("no_text", f"{where}: {shown(text)} is no text to cut into passages")
        refuse_half_characters(where, text)
        return normalised(text), language, _source_id(row)

    texts = [made for made in read_rows(recipe, name, source, make, left) if made is not None]
    _note_ignored(ignored, f"{name}: {source.name}", left)
    if texts and source.file is not None and source.file.lower().endswith(".txt"):
        texts = [(unwrapped(line for line, _, _ in texts), texts[0][1], None)]
    found = []
    num_short = 0
    for text, language, source_id in texts:
        passages = list(passages_of(text, source.passages))
        num_short += not passages
        found += [_to_continue(source, passage, language, source_id) for passage in passages]
    if num_short:
        told = (
            f"{name}: {source.name}: {num_short:,} of {len(texts):,} texts have fewer than "
            f"{SHORTEST * source.passages:.0f} characters, a quarter of passages {source.passages}"
        )
        if not found:
            raise DataError(f"{recipe.source}: {told}: set it lower, or take longer texts")
        left.by_reason["short_text"] += num_short
        left.notes.append(f"{told}, and are left out")
    return found


def _to_continue(source: Source, passage: str, language: str, source_id: str | None) -> Prompt:
    opening, rest = opening_and_rest(passage)
    return Prompt(
        ({"role": "user", "content": f"{REQUEST}\n\n{opening}"},),
        language,
        source=source.name,
        source_id=source_id,
        check_language=False,  # what asks for it is English
        verify=False,
        refusals="keep",
        answer=rest,
        is_passage=True,
    )


def _given_answer(row: Row, asked: Conversation, where: str) -> str:
    """Return the row's own answer: its column, or the turn after what is asked.

    Raise BadRow for none, or several.
    """
    all_found = [*asked.answers, *([] if row.get(ANSWER) is None else [row[ANSWER]])]
    if len(all_found) > 1:
        raise BadRow(
            "two_answers",
            f"{where}: {len(all_found)} answers to one prompt (turns of the assistant at the end, and "
            "`answer`): make a row of each",
        )
    found = all_found[0] if all_found else None
    found = _whole_number(found) or found
    if isinstance(found, float | Decimal) and math.isfinite(found):
        found = str(found)
    if not isinstance(found, str) or is_invisible(found):
        told = "" if found is None else f" that can be read, but {shown(found)}"
        raise BadRow(
            "no_answer",
            f"{where}: no answer{told}; answers: given learns `answer` (name theirs by columns), or "
            "the assistant's turn at the end: leave the row out, or let the teacher answer "
            "(answers: ask)",
        )
    refuse_half_characters(where, found)
    return normalised(found).strip()


def _reference(row: Row, where: str, task: str | None) -> str | float | None:
    """Return the row's reference: text, also for whole numbers; a float for any other number.

    1.125 as text could also be a thousand and more. What is empty is none. Raise BadRow, where there
    is a task, for NaN and infinity, for what is neither text nor number, and for a text by which no
    answer could be right.
    """
    reference = row.get("reference")
    if (whole := _whole_number(reference)) is not None:
        return whole
    if isinstance(reference, float | Decimal) and math.isfinite(reference):
        return float(reference)
    if isinstance(reference, str) and not is_invisible(reference):
        problem = None if task is None else tasks.reference_problem(task, reference)
        if problem is not None:
            raise _no_reference(where, reference, f"{problem} (task {task})")
        return reference
    if task is not None:
        raise _no_reference(where, reference, "a task needs it as text or as a number")
    return None


def _whole_number(value: object) -> str | None:
    """Return a whole number as text, None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return format(Decimal(value), "f")  # `str` refuses 5,000 digits
    return None


def _source_id(row: Row) -> str | None:
    return None if row.get("id") is None else str(row["id"])


def _no_reference(where: str, reference: object, problem: str) -> BadRow:
    return BadRow(
        "no_reference",
        f"{where}: reference {shown(reference)}: {problem}; "
        "set verify: false in this source of prompts, or task to null, to go without",
    )


def _translations(
    source: Source, columns: dict[str, str], row: Row, where: str, languages: Sequence[str]
) -> list[Prompt]:
    """Return a prompt for each direction whose answer is in one of the recipe's languages.

    The other text is the reference.
    """
    if not any(column in row for column in columns.values()):
        raise BadRow(
            "no_column",
            f"{where}: none of the columns {listed(list(columns.values()))}; there are {listed(row)}",
        )
    texts = {}
    for code, column in columns.items():
        text = row.get(column)
        if isinstance(text, str) and not is_invisible(text):
            refuse_half_characters(where, text)
            language = same_language(code, tuple(languages)) or code
            texts[language] = normalised(text).strip()
    return [
        _translation(source, text, to, texts[to])
        for language, text in texts.items()
        for to in texts
        if to != language and to in languages
    ]


def _translation(source: Source, text: str, language: str, reference: str) -> Prompt:
    content = f"{translation.request(language)}\n\n{text}"
    return Prompt(
        ({"role": "user", "content": content},),
        language,
        reference,
        source=source.name,
        check_language=False,
        is_translation=True,
        answer=reference if source.gives_answers else None,
    )


def split_prompts(recipe: Recipe, left: Left | None = None) -> tuple[list[Prompt], list[Prompt]]:
    """Return (prompts to learn from, held-out prompts to evaluate on), disjoint.

    Held-out ones come from evaluate.prompts, else they are the share of generate.prompts with the
    lowest ids, which does not change when prompts are appended or reordered more than it must;
    translations, passages, and by a task what has `verify: false`, are not held out: the task cannot
    grade them; nor is an empty prompt. A held-out row that has its answer keeps it: models are scored
    on that. Both lists keep the sources' order. Rows that are left out are counted in `left`.
    Prompts that the teacher writes are in neither: they are had by asking (expansion.py) and are
    never held out. Raise DataError where none is left to learn from.
    """
    left = left or Left()
    is_graded = recipe.generate.task is not None
    by_people = [source for source in recipe.generate.prompts if source.expand is None]
    prompts = read_prompts(
        recipe, "generate.prompts", by_people, needs_reference=is_graded, left=left
    )
    if recipe.generate.mix is None:
        prompts = prompts[: recipe.generate.num_prompts]
    if recipe.evaluate.prompts is not None:
        held_out = _exam(recipe, recipe.evaluate.prompts, is_graded, left)
    else:
        held_out = _lowest_ids(recipe, prompts, is_graded)
    held_out = _evenly(recipe, _one_answer_each(held_out))
    ids = {prompt.id for prompt in held_out}
    learn = [prompt for prompt in prompts if prompt.id not in ids]
    if not learn and len(by_people) == len(recipe.generate.prompts):
        raise DataError(
            f"{recipe.source}: generate.prompts: all of its prompts ({len(prompts)}) are held out to "
            "evaluate on, and none is left to learn from: add prompts, or name others in "
            "evaluate.prompts"
        )
    return learn, held_out


def _exam(recipe: Recipe, sources: Sequence[Source], is_graded: bool, left: Left) -> list[Prompt]:
    """Read evaluate.prompts; what is to be told of it is added to `left.notes`."""
    left_here = Left()
    read = read_prompts(
        recipe, "evaluate.prompts", sources, needs_reference=is_graded, left=left_here
    )
    held_out = [prompt for prompt in read if not is_invisible(prompt.text)]
    left.notes += left_here.notes
    if len(held_out) < len(read):
        left.notes.append(
            f"evaluate.prompts: {len(read) - len(held_out):,} prompts are empty, and left out"
        )
    if not held_out:
        raise DataError(f"{recipe.source}: evaluate.prompts: all {len(read)} prompts are empty")
    return held_out


def _one_answer_each(held_out: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts without a second row of one that has its answer: scores are kept by prompt."""
    given = {prompt.id for prompt in held_out if prompt.is_given}
    firsts: set[str] = set()
    kept = []
    for prompt in held_out:
        if prompt.id not in firsts or prompt.id not in given:
            kept.append(prompt)
        firsts.add(prompt.id)
    return kept


def _lowest_ids(recipe: Recipe, prompts: Sequence[Prompt], is_graded: bool) -> list[Prompt]:
    """Return the share `evaluate.held_out` of the prompts that can be graded; one at least."""
    gradable = [
        p
        for p in prompts
        if not (p.is_translation or p.is_passage)
        and (p.verify or not is_graded)
        and not is_invisible(p.text)
    ]
    if not gradable:
        raise DataError(
            f"{recipe.source}: evaluate.prompts is null and generate.prompts are all translations, "
            "passages, or empty, or have verify: false: give prompts to evaluate on"
        )
    limit = int(recipe.evaluate.held_out * 2**64)
    held_out = [prompt for prompt in gradable if int(prompt.id[:16], 16) < limit]
    return held_out or [min(gradable, key=lambda prompt: prompt.id)]


def _evenly(recipe: Recipe, prompts: list[Prompt]) -> list[Prompt]:
    """Return at most evaluate.num_examples prompts, of those that take turns, in the file's order."""
    limit = recipe.evaluate.num_examples
    if len(prompts) <= limit:
        return prompts
    turns = in_turns(recipe, prompts)
    ids = set(list(dict.fromkeys(prompt.id for prompt in turns))[:limit])
    return [prompt for prompt in prompts if prompt.id in ids]


def in_turns(recipe: Recipe, prompts: list[Prompt]) -> list[Prompt]:
    """Return prompts in turns over the languages; those that a task checks take turns with the others."""
    is_graded = recipe.generate.task is not None
    kinds = [(code, checked) for code in recipe.languages for checked in (True, False)]
    return take_turns(prompts, lambda p: (p.language, p.verify or not is_graded), kinds)
