"""Token sequences with an answer, as models are asked to score them; without torch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of prompt + answer; the answer begins at `answer_start`."""

    ids: Sequence[int]
    answer_start: int

    @property
    def num_answer_tokens(self) -> int:
        return len(self.ids) - self.answer_start
