"""Columns that a row of prompts has beside ours: harmless ones are left out, near misses are refused.

A column that was misspelt, or that changes what is asked, must not be left out: prompts without
their language or their system prompt are other prompts.
"""

from collections.abc import Sequence

from distill.core.jsonl import BadRow, Row
from distill.data.conversations import FIELDS
from distill.data.sources import listed
from distill.errors import nearest_names, shown

PROMPT_KEYS = {*FIELDS, "id", "language", "reference", "kind"}
ANSWER = "answer"  # the column that is learnt where the source says so
# what others call a column of ours, or what they put beside it
_MEANT = {
    "language": ("lang", "locale", "lang_code"),
    "reference": ("answer", "answers", "solution", "target", "label", "expected"),
    "prompt": ("question", "query", "instruction", "input", "text"),
    "messages": ("system", "system_prompt", "context", "history"),
}
_THEIRS = {name: ours for ours, names in _MEANT.items() for name in names}
# the same where the rows' answers are learnt (`answers: given`)
_KEYS_GIVEN = PROMPT_KEYS | {ANSWER}
_NAMES_OF_ANSWERS = ("response", "output", "completion", "chosen", "answers", "solution", "reply")
_THEIRS_GIVEN = _THEIRS | dict.fromkeys(_NAMES_OF_ANSWERS, ANSWER)
_SHORT = 3  # letters: shorter names than that are like any other


def without_others(
    row: Row, where: str, field: str, *, has_answer: bool = False
) -> tuple[Row, Sequence[str]]:
    """Return (the row with our columns alone, the names of the others), which are harmless.

    Raise BadRow where one of them may be meant, or the row has no prompt. `field`: of the recipe.
    `has_answer`: whether its answer is learnt (`answers: given`).
    """
    ours = _KEYS_GIVEN if has_answer else PROMPT_KEYS
    others = [name for name in row if name not in ours]
    if not others:
        return row, ()
    has_prompt = any(name in row for name in FIELDS)
    for name in others:
        meant = _meant(str(name), ours)
        if meant is not None or not has_prompt:
            raise _unknown(row, name, meant, where, field, ours)
    return {name: value for name, value in row.items() if name in ours}, others


def _meant(name: str, ours: set[str]) -> str | None:
    """Return the column of ours that another name may mean, or None."""
    spelt = name.strip().lower().replace("-", "_").replace(" ", "_")
    if spelt in ours:
        return spelt
    theirs = _THEIRS_GIVEN if ANSWER in ours else _THEIRS
    if spelt in theirs:
        return theirs[spelt]
    known = [column for column in ours if len(column) > _SHORT]
    return next(iter(nearest_names(spelt, known, cutoff=0.75)), None)


def _unknown(
    row: Row, name: str, meant: str | None, where: str, field: str, ours: set[str]
) -> BadRow:
    known = {column: column for column in ours if column in row}
    if "conversations" in known:
        known["messages"] = known.pop("conversations")
    if not known.keys() & set(FIELDS):
        known = {"prompt": "THEIR_NAME", **known}
    if meant is not None and meant not in FIELDS:
        known.setdefault(meant, name)
    answers = ""
    if ANSWER in ours:
        answers = ", answers: given"
        known.setdefault(ANSWER, name if meant == ANSWER else "THEIR_NAME")
    columns = ", ".join(f"{column}: {theirs}" for column, theirs in sorted(known.items()))
    hint = "" if meant is None else f" (is it {meant}?)"
    if name == ANSWER and field == "generate.prompts":
        hint = " (is it reference? to learn it set answers: given in this source)"
    return BadRow(
        "unknown_field",
        f"{where}: unknown field {shown(name)}{hint}; there are {listed(row)}; known: "
        f"{', '.join(sorted(ours))}. Name those that are meant by columns, and the others "
        f"are left out: {field}=[{{file: ...{answers}, columns: {{{columns}}}}}]",
    )
