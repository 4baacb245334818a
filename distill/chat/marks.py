"""Control tokens, and marks of a chat template, in a text that somebody else wrote.

A conversation is rendered, then tokenized as a whole, here, on servers and in llama.cpp alike. So
`<|im_end|>` in a question ends the question, and what comes after it can be a turn that nobody
said. To write such a token as plain text would help here alone: a server and llama.cpp do as they
do, and marks that are plain text themselves (Zephyr's `<|user|>`) cannot be told from the
template's by any tokenizer. So nothing that holds one is asked or learnt; it is dropped, and
counted.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from distill.catalog import catalog
from distill.chat.reasoning import THINK_TAGS, ZEBRA, dropped_tokens
from distill.chat.template import Messages, prompt_text, template_of
from distill.errors import DistillError
from distill.text.surrogates import without_lone_surrogates

# Marks that templates write, whether the tokenizer has tokens for them or not
_WRITTEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,60}[|｜]>|\[/?[A-Z][A-Z_]{2,30}\]|<</?SYS>>|<(?:start|end)_of_turn>"
)
# a token that is not special is a mark only if it looks like one: some tokenizers have added words
_LIKE_A_MARK = re.compile(r"[<>\[\]|｜]")
LONGEST = 64  # characters of a mark


@dataclass(frozen=True)
class TemplateMarks:
    """The marks of one model.

    `tokens`: its control tokens, as text. `template`: what its chat template is, whose own marks
    count too. `written`: a conversation as the template writes it, where all say ZEBRA.
    `normalizer`: of the tokenizers library, where control tokens are looked for in normalised text,
    else None. `ids`: its special tokens by id, but those that mark reasoning.
    """

    tokens: tuple[str, ...]
    template: str = ""
    written: str = ""
    normalizer: Any = field(default=None, compare=False)
    ids: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any) -> "TemplateMarks":
        """Return the marks of a tokenizer of transformers, and of its chat template if it has one.

        Its control tokens are the special ones, and others like <tool_call> that its template holds.
        """
        template = template_of(tokenizer) if getattr(tokenizer, "chat_template", None) else ""
        added = tokenizer.added_tokens_decoder.values()
        tokens = [
            token
            for token in added
            if token.special or (_LIKE_A_MARK.search(token.content) and token.content in template)
        ]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizer = None
        if backend is not None and any(token.normalized for token in tokens):
            normalizer = backend.normalizer
        return cls(
            tuple(token.content for token in tokens),
            template,
            _written_by(tokenizer),
            normalizer,
            dropped_tokens(tokenizer),
        )

    def first_in(self, text: str) -> str | None:
        """Return the first mark in a text of a user, or None.

        One that begins at the end of the text, and that the template completes, is in it too.
        """
        return self._search(self._all, text) or self._at_edges(self._all, text)

    def first_in_answer(self, text: str) -> str | None:
        """Return the first mark in an answer, or None; tags of reasoning, which it may have, are none."""
        return self._search(self._of_turns, text)

    def first_in_ids(self, ids: Iterable[int]) -> str | None:
        """Return the first special token among an answer's ids without its end, or None.

        The text of an answer has none of them (`text_of`): only its ids tell.
        """
        return next((self.ids[i] for i in ids if i in self.ids), None)

    def first_in_messages(self, messages: Messages) -> str | None:
        """Return the first mark in what system, user or assistant say, or None."""
        for message in messages:
            is_answer = message["role"] == "assistant"
            find = self.first_in_answer if is_answer else self.first_in
            if (mark := find(message["content"])) is not None:
                return mark
        return None

    def _search(self, pattern: re.Pattern[str], text: str) -> str | None:
        match = pattern.search(text)
        if match is None and self.normalizer is not None:
            match = pattern.search(self.normalizer.normalize_str(without_lone_surrogates(text)))
        return None if match is None else match[0]

    def _at_edges(self, pattern: re.Pattern[str], text: str) -> str | None:
        """Return a mark of which a part is the text's and a part the template's, or None."""
        for before, after in self._edges:
            for own in {text, text.strip()}:  # some templates strip it
                mark = _across(pattern, before, own[:LONGEST])
                mark = mark or _across(pattern, own[-LONGEST:], after)
                if mark is not None:
                    return mark
        return None

    @cached_property
    def _edges(self) -> set[tuple[str, str]]:
        """Return what the template writes before and after a text."""
        parts = self.written.split(ZEBRA)
        return {(before[-LONGEST:], after[:LONGEST]) for before, after in pairwise(parts)}

    @cached_property
    def _all(self) -> re.Pattern[str]:
        return _pattern(self._every_mark())

    @cached_property
    def _of_turns(self) -> re.Pattern[str]:
        tags = {*THINK_TAGS, *(mark for pair in catalog.answer_marks() for mark in pair)}
        return _pattern(self._every_mark() - tags)

    def _every_mark(self) -> set[str]:
        return {*self.tokens, *_WRITTEN.findall(self.template), *_WRITTEN.findall(self.written)}


def _across(pattern: re.Pattern[str], left: str, right: str) -> str | None:
    """Return the first mark of which a part is in each of two texts, or None."""
    matches = pattern.finditer(left + right)
    return next((m[0] for m in matches if m.start() < len(left) < m.end()), None)


def _pattern(marks: Iterable[str]) -> re.Pattern[str]:
    """Return what finds any of the marks, of two at one place the longer; white space is none."""
    longest_first = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _written_by(tokenizer: Any) -> str:
    """Return what the template writes round texts; nothing where it refuses them.

    That has the marks that it makes of parts: '<|' + role + '|>'.
    """
    messages = [{"role": role, "content": ZEBRA} for role in ("user", "assistant", "user")]
    try:
        return prompt_text(tokenizer, messages)
    except DistillError:
        return ""


def template_marks(text: str, tokenizer: Any) -> str | None:
    """Return the first control token, or mark of the chat template, in a user's text, or None.

    For many texts make one `TemplateMarks.of(tokenizer)`.
    """
    return TemplateMarks.of(tokenizer).first_in(text)


def own_mark(tokenizer: Any, text: str) -> str | None:
    """Return a mark of this model that an answer of another one holds, if any.

    It would become that token, and could end the answer.
    """
    return TemplateMarks.of(tokenizer).first_in_answer(text)
