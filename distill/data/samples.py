"""The two kinds of row that stages share: prompts, and samples that the teacher answered."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

from distill.core.digests import canonical_json, digest
from distill.core.jsonl import Row

ROLES = ("system", "user", "assistant")
GIVEN = "given"  # field of a row whose answer the data has: nobody was asked
Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """One question. `reference` is the checkable final answer, where there is one.

    It is text, or a number where the file has one that is not whole. `answer`: what is learnt, where
    the teacher is not asked (`answers: given`).
    """

    messages: tuple[dict[str, str], ...]
    language: str
    reference: str | float | None = None
    source: str = ""
    source_id: str | None = None
    check_language: bool = True
    is_translation: bool = False
    is_passage: bool = False
    verify: bool = True
    refusals: str = "drop"
    answer: str | None = None

    @cached_property
    def id(self) -> str:
        """Return the digest of its messages."""
        return digest(canonical_json(list(self.messages)))

    @property
    def is_given(self) -> bool:
        """Return whether its row has the answer, so that no teacher is asked."""
        return self.answer is not None

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

    @property
    def text_with_answer(self) -> str:
        """Return what all say in it, and what is answered, where that is given."""
        return self.full_text if self.answer is None else f"{self.full_text}\n{self.answer}"

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


def given_answers(prompts: Iterable[Prompt]) -> list[str]:
    """Return the answers that the prompts' rows have."""
    return [prompt.answer for prompt in prompts if prompt.answer is not None]


@dataclass(frozen=True)
class Sample:
    """One kept answer, as the exact token ids that the teacher reads, and wrote.

    `answer_ids` end with the stop token. `teacher`: the name of the one of several that answered
    (recipe.teachers). `given`: its row had the answer, no teacher wrote it.
    """

    key: str
    prompt_id: str
    prompt: str
    language: str
    reference: str | float | None
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]
    teacher: str = ""
    given: bool = False

    def row(self) -> Row:
        """Return the row of kept.jsonl."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("teacher", "given"):
            if not row[name]:
                del row[name]
        return row

    @property
    def ids(self) -> list[int]:
        """Return the ids of prompt and answer."""
        return self.prompt_ids + self.answer_ids


def normalised(text: str) -> str:
    """Return NFC, without control characters other than tab and line ends.

    What looks the same is then asked once.
    """
    return unicodedata.normalize("NFC", _CONTROL.sub("", text))


# C0, C1 and a byte order mark. Lone surrogates and U+FFFD stay: they say that the text is broken.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


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
