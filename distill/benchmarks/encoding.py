"""A question as a model reads it: token ids, cut as lm-evaluation-harness cuts them.

Context and choice are tokenized together, and the choice is what comes after the tokens of the
context alone; white space at the context's end goes to the choice. So " A" after "Answer:" is the
token that a text would have there. A context that is too long loses its beginning. The results can
then be compared with published ones (EleutherAI/lm-evaluation-harness, 0.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.benchmarks.items import Item
from distill.errors import DataError
from distill.models.sequences import Continued

LONGEST = 2048  # tokens, where a model does not say what it was made to read


@dataclass(frozen=True)
class Part:
    """Choices of one question that have the same context. `choices`: their positions.

    `is_cut`: the context lost its beginning.
    """

    item: int
    choices: tuple[int, ...]
    asked: Continued
    is_cut: bool


@dataclass(frozen=True)
class Encoder:
    """A model's tokenizer, and how many tokens the model reads at most."""

    tokenizer: Any
    longest: int

    def parts(self, items: Sequence[Item], delimiter: str) -> list[Part]:
        """Return what is to be scored of each question, in their order: mostly one part each."""
        return [part for i, item in enumerate(items) for part in self._parts_of(i, item, delimiter)]

    def _parts_of(self, number: int, item: Item, delimiter: str) -> list[Part]:
        by_context: dict[tuple[tuple[int, ...], bool], list[tuple[int, list[int]]]] = {}
        for choice, text in enumerate(item.choices):
            whole, continuation = self._pair(item.context, delimiter + text)
            context = self._cut(whole, continuation)
            same = by_context.setdefault((tuple(context), len(context) < len(whole)), [])
            same.append((choice, continuation))
        return [
            Part(
                number,
                tuple(choice for choice, _ in found),
                Continued(context, [ids for _, ids in found]),
                is_cut,
            )
            for (context, is_cut), found in by_context.items()
        ]

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context, as many as the model reads, and of what follows it.

        Raises DataError where nothing is left of what follows.
        """
        first, rest = self._pair(context, continuation)
        return self._cut(first, rest), rest

    def _cut(self, first: list[int], rest: list[int]) -> list[int]:
        """Return the end of a context: the last token that follows it is not read."""
        return first[max(0, len(first) + len(rest) - self.longest - 1) :]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if stripped:
            first = self._ids(stripped)
            rest = self._ids(stripped + continuation)[len(first) :]
        else:
            first, rest = self._after_nothing(continuation)
        if not rest or len(rest) > self.longest:
            raise DataError(
                f"a choice of {len(rest)} tokens, where a model reads 1 to {self.longest:,}: "
                f"{continuation[:60]!r}"
            )
        return first, rest

    def _after_nothing(self, continuation: str) -> tuple[list[int], list[int]]:
        """Return a token that begins a text, and the text."""
        rest = self.tokenizer(continuation, add_special_tokens=False).input_ids
        begin = self.tokenizer.bos_token_id
        begin = self.tokenizer.eos_token_id if begin is None else begin
        return ([begin], rest) if rest[:1] != [begin] else (rest[:1], rest[1:])

    def _ids(self, text: str) -> list[int]:
        """Return the tokens of a text, with those that the tokenizer puts before a text."""
        begin = self.tokenizer.bos_token
        has_begin = begin is not None and text.startswith(begin)
        return self.tokenizer(text, add_special_tokens=not has_begin).input_ids
