"""A sample in the ids of a trimmed vocabulary: the very same bytes.

The text is encoded anew, so that the student learns to write as it will read. Where that would not
give the same bytes (half a character, a space that a tokenizer adds) each token that was taken away
becomes its parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from distill.chat.template import Messages
from distill.chat.tokenizers import Tokenizers
from distill.errors import MismatchError
from distill.recipe import Recipe
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.trimmed import TrimmedVocabulary


@dataclass(frozen=True)
class Reencoder:
    """From the parent's ids to those of the trimmed vocabulary. `new_ids`: by the parent's id."""

    parent: Any
    vocabulary: BpeVocabulary
    trimmed: TrimmedVocabulary
    new_ids: dict[int, int]

    @classmethod
    def of(
        cls, parent: Any, trimmed: TrimmedVocabulary, vocabulary: BpeVocabulary | None = None
    ) -> "Reencoder":
        """Return what writes the parent tokenizer's sequences anew. `vocabulary`: the parent's."""
        new_ids = {old: new for new, old in enumerate(trimmed.parent_ids)}
        return cls(parent, vocabulary or BpeVocabulary.of(parent), trimmed, new_ids)

    def prompt_ids(self, recipe: Recipe, tokenizers: Tokenizers, messages: Messages) -> list[int]:
        """Return the prompt as the student will read it: what the parent's template writes, encoded."""
        text = tokenizers.students_prompt_text(recipe, messages)
        return self.trimmed.tokenizer(text, add_special_tokens=False).input_ids

    def answer_ids(self, ids: Sequence[int]) -> list[int]:
        """Return an answer, or a part of one, of the parent's ids.

        Added tokens stay what they are, and text between them that looks like one stays text.
        """
        return [new for piece in self._pieces(ids) for new in piece]

    def pieces_of_removed(self) -> dict[int, list[int]]:
        """Return as what each of the parent's tokens that was taken away is written, by its id.

        Added tokens are written as nothing, and are not among them.
        """
        removed = self.vocabulary.parts.keys() - self.new_ids.keys() - self.vocabulary.added.keys()
        return {n: self._anew([n]) or self._in_parts([n]) for n in sorted(removed)}

    def require_same_bytes(self, before: Sequence[int], after: Sequence[int], what: str) -> None:
        """Raise MismatchError unless the parent's ids and the trimmed ones are the same bytes."""
        if self._bytes(before) != self._bytes(self.trimmed.parents_of(after)):
            raise MismatchError(
                f"{what}: written otherwise in the trimmed vocabulary than generate wrote it, so a "
                "tokenizer or chat template has changed since: run `distill run RECIPE --redo "
                "generate`, which asks the teacher nothing again"
            )

    def _pieces(self, ids: Sequence[int]) -> Iterator[list[int]]:
        for is_added, group in groupby(ids, lambda number: number in self.vocabulary.added):
            piece = list(group)
            if is_added:
                yield [self.new_ids[number] for number in piece]
            else:
                yield self._anew(piece) or self._in_parts(piece)

    def _anew(self, piece: list[int]) -> list[int] | None:
        """Return the text of these ids encoded anew; None where that is not the same bytes."""
        text = self.parent.backend_tokenizer.decode(piece, skip_special_tokens=False)
        tokenizer = self.trimmed.tokenizer
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        parents = self.trimmed.parents_of(ids)
        if any(number in self.vocabulary.added for number in parents):
            return None
        return ids if self._bytes(parents) == self._bytes(piece) else None

    def _in_parts(self, piece: Sequence[int]) -> list[int]:
        """Return the same ids, but parts for those that were taken away."""
        new: list[int] = []
        waiting = list(reversed(piece))
        while waiting:
            number = waiting.pop()
            if number in self.new_ids:
                new.append(self.new_ids[number])
            else:
                waiting += reversed(self.vocabulary.parts[number])
        return new

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.vocabulary.bytes_of(number) for number in ids)
