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


@dataclass(frozen=True)
class Continued:
    """Token ids of a context, of one token or more, and of what may follow it."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def num_cached(self) -> int:
        """Return how many keys and values are held while the continuations are read, at most."""
        longest = max(map(len, self.continuations))
        num_longer = sum(len(ids) > 1 for ids in self.continuations)
        return max(num_longer, 1) * (len(self.context) + longest)
