"""Leaf pruning: which tokens of a BPE a set of texts needs least.

A leaf is a token that no other one that is kept is made of. The leaf that the texts use least is
taken away, and what it counted is given to its parts; then the next (Purason et al. 2025, arXiv
2512.03989). So every token that stays can still be made, which is not so where the rarest tokens
are taken away whatever they are parts of.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill.shaping.bpe import BpeVocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MULTIPLE = 64  # of the number of tokens: what a GPU's tiles like

Reason = Literal["size", "fertility", "required"]


@dataclass(frozen=True)
class Pruned:
    """What is left: ids ascending, and why no more was taken away.

    `stopped_by`: the size is reached; a language would lose more fertility than it may; or what is
    left must stay. `loss`: the reckoned share by which the texts of each language grow in tokens.
    """

    kept: list[int]
    stopped_by: Reason
    loss: list[float]


@dataclass(frozen=True)
class Limits:
    """How far to go: down to so many tokens, and the largest share that any language's texts may grow.

    The one that is reached first ends it: with `max_loss` more than `size` may be kept.
    """

    size: int | None
    max_loss: float | None


def prune(
    vocabulary: BpeVocabulary,
    counts_VL: "NDArray[np.float64]",
    required: Collection[int],
    limits: Limits,
) -> Pruned:
    """Take tokens away until a limit is reached.

    `counts_VL`: how often each id stands in each language's texts, float64; no column is 0.
    `required`: ids that stay. The number of those that are kept is a multiple of 64, where the
    vocabulary has so many: a few more real ones are kept than had to be.
    """
    state = _State(vocabulary, counts_VL, required)
    target = 0 if limits.size is None else max(MULTIPLE, limits.size // MULTIPLE * MULTIPLE)
    stopped_by = state.remove_down_to(target, limits.max_loss)
    while len(state.kept) % MULTIPLE and state.removed:
        state.put_back()
    return Pruned(sorted(state.kept), stopped_by, [float(loss) for loss in state.loss_L])


def longer_by(
    vocabulary: BpeVocabulary, kept: Collection[int], counts_VL: "NDArray[np.float64]"
) -> list[float | None]:
    """Return the share by which texts of these counts grow where `kept` alone are left, by language.

    Reckoned: each token that is gone as its parts. None where a language has no text.
    """
    import numpy as np

    num_parts = dict.fromkeys(kept, 1)

    def num_parts_of(number: int) -> int:
        if number not in num_parts:
            num_parts[number] = sum(map(num_parts_of, vocabulary.parts[number]))
        return num_parts[number]

    ids = np.flatnonzero(counts_VL.any(1))
    after_L = np.array([num_parts_of(number) for number in ids.tolist()]) @ counts_VL[ids]
    pairs = zip(after_L.tolist(), counts_VL.sum(0).tolist(), strict=True)
    return [after / before - 1 if before else None for after, before in pairs]


class _State:
    """The tokens that are kept, those that were removed in turn, and the leaves by their weight.

    `shares_VL`: how often each token stands in the texts of each language, as a share of all.
    `weights`: their sums over the languages.
    """

    def __init__(
        self,
        vocabulary: BpeVocabulary,
        counts_VL: "NDArray[np.float64]",
        required: Collection[int],
    ):
        self.parts = vocabulary.parts
        self.rank = vocabulary.rank
        self.kept = set(vocabulary.tokens)
        self.removed: list[int] = []
        self.shares_VL = counts_VL / counts_VL.sum(0)
        self.weights: list[float] = self.shares_VL.sum(1).tolist()
        self.loss_L = 0.0 * self.shares_VL[0]
        self.required = {*required, *vocabulary.added, *vocabulary.byte_ids}
        self.required.update(_characters_that_nothing_spells(vocabulary))
        self.num_uses = dict.fromkeys(vocabulary.tokens, 0)
        for parts in self.parts.values():
            for part in parts:
                self.num_uses[part] += 1
        self.leaves: list[tuple[float, int, int]] = []
        for number, num in self.num_uses.items():
            if num == 0:
                self._add_leaf(number)

    def remove_down_to(self, target: int, max_loss: float | None) -> Reason:
        """Remove the leaf of the least weight until `target` are kept, and return what stopped it.

        One that a language would miss too much is passed over: others may be none of its own.
        """
        stopped_by: Reason = "required"
        while len(self.kept) > target:
            if not self.leaves:
                return stopped_by
            weight, _, number = heapq.heappop(self.leaves)
            loss_L = self.loss_L if weight == 0 else self.loss_L + self._growth_L(number)
            if max_loss is not None and (loss_L > max_loss).any():
                stopped_by = "fertility"
                continue
            self._remove(number)
        return "size"

    def put_back(self) -> None:
        """Put back what was removed last."""
        number = self.removed.pop()
        self.kept.add(number)
        self.loss_L = self.loss_L - self._growth_L(number)

    def _remove(self, number: int) -> None:
        self.kept.remove(number)
        self.removed.append(number)
        counts = self.weights[number] > 0
        if counts:
            self.loss_L = self.loss_L + self._growth_L(number)
        for part in self.parts[number]:
            if counts:
                self.shares_VL[part] += self.shares_VL[number]
                self.weights[part] += self.weights[number]
            self.num_uses[part] -= 1
            if self.num_uses[part] == 0:
                self._add_leaf(part)

    def _growth_L(self, number: int) -> "NDArray[np.float64]":
        """Return the share by which texts grow where each such token becomes its parts, float64 [L]."""
        return max(0, len(self.parts[number]) - 1) * self.shares_VL[number]

    def _add_leaf(self, number: int) -> None:
        """Note a leaf that may go. Of two that are used alike the one of the later merge goes first."""
        if number not in self.required:
            entry = (self.weights[number], -self.rank.get(number, -1), number)
            heapq.heappush(self.leaves, entry)


def _characters_that_nothing_spells(vocabulary: BpeVocabulary) -> set[int]:
    """Return the single characters that no merge makes and no bytes can stand for."""
    atoms = (n for n, parts in vocabulary.parts.items() if not parts and n not in vocabulary.rank)
    return {number for number in atoms if len(vocabulary.tokens[number]) == 1}
