"""What a teacher says in tokens that its student does not have, said in those that it writes instead.

A student with a trimmed vocabulary writes a token that was taken away in pieces, " Geneva" as " Gen"
and "eva". So what the teacher gives to " Geneva" it gives to " Gen", and once that stands there, to
"eva". What it says of the student's next token is the sum over all of its own tokens that the text
may have got into (as from tokens to bytes: Phan et al. 2024, arXiv 2410.09303; Vieira et al. 2024,
arXiv 2412.03719). To drop that mass and renormalise what is left would teach another word instead.

It is exact but for this: the teacher is shown the pieces where it would have read one token, and a
piece that has joined with what follows it is none of the token that was begun.

N: positions, C: columns of the logits, V: the student's ids.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.signals.device_ids import DeviceIds
from distill.signals.draws import chunks

# of the mass: tokens that the text is in with less than that, together, are not followed up
NEGLIGIBLE = 1e-4


class Pieces:
    """The student's tokens among the teacher's, and those that the teacher's other tokens become."""

    def __init__(self, kept: Sequence[int], pieces: Mapping[int, Sequence[int]], num_known: int):
        """Take the teacher's ids of the student's tokens, and the others' pieces.

        kept: the teacher's id of each of the student's, ascending.
        pieces: the student's ids, one or more, by the teacher's id of a token that was taken away.
            What the teacher gives to a token that is neither here nor kept is dropped.
        num_known: how many ids the teacher's tokenizer has, 0 .. num_known-1.

        Raises ValueError for ids that the teacher's tokenizer does not have, or that do not ascend.
        """
        ascends = all(a < b for a, b in pairwise(kept))
        if not kept or not ascends or not 0 <= kept[0] <= kept[-1] < num_known:
            raise ValueError(f"the kept ids do not ascend from 0 to below {num_known}")
        self.num_known = num_known
        self.kept_V = np.asarray(kept, np.int64)
        removed = np.fromiter(pieces, np.int64, len(pieces))
        first = np.array([pieces[token][0] for token in pieces], np.int64)
        order = np.argsort(first, kind="stable")
        self._removed = removed[order]
        self._bounds = np.searchsorted(first[order], np.arange(len(kept) + 1))
        self._rest = {token: tuple(parts[1:]) for token, parts in pieces.items()}
        written = np.concatenate([self.kept_V, removed])
        self._unwritten_ids = DeviceIds(np.setdiff1d(np.arange(num_known), written))
        self._kept_ids, self._removed_ids = DeviceIds(self.kept_V), DeviceIds(self._removed)
        self._first_ids = DeviceIds(first[order])

    def __len__(self) -> int:
        return len(self.kept_V)

    def _begun_by(self, piece: int) -> NDArray[np.int64]:
        """Return the teacher's tokens that were taken away and begin with this piece."""
        return self._removed[self._bounds[piece] : self._bounds[piece + 1]]

    def removed_mass(self, logits_NC: Tensor) -> Tensor:
        """Return the share of the teacher's mass on tokens that the student does not have, [N]."""
        known_NC = logits_NC[:, : self.num_known].float()
        kept_V = self._kept_ids.on(logits_NC.device)
        others_NC = known_NC.index_fill(1, kept_V, -np.inf)
        return (others_NC.logsumexp(-1) - known_NC.logsumexp(-1)).exp()

    def over_students_ids(
        self,
        logit_chunks: Iterable[tuple[slice, Tensor]],
        labels_N: Tensor,
        lengths: Sequence[int],
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield what the teacher says of the student's tokens: log-probs [N, V], float32.

        logit_chunks: (slice of the answer tokens of all sequences, in order; logits [N, C] that
            predict them, from the pieces as the teacher's own tokens).
        labels_N: the answers' tokens, the student's ids, on the host. lengths: how many each has.
        """
        begins = {0, *accumulate(lengths)}
        labels = labels_N.tolist()
        text = _Text()
        for part, logits_NC in _in_parts(logit_chunks):
            changes = _Changes()
            said = self._said(logits_NC)
            of_labels = self._of_labels(said, labels[part])
            for row, (label, (alone, begun)) in enumerate(
                zip(labels[part], of_labels, strict=True)
            ):
                if part.start + row in begins:
                    text = _Text()
                changes.note(row, text)
                text.read(label, alone, begun)
            logp_NV = changes.applied_to(self._between_tokens(said))
            del said, of_labels  # as large as the logits
            yield part, logp_NV

    def _said(self, logits_NC: Tensor) -> "_Said":
        """Return what the teacher says, among the tokens that the student can write."""
        known_NC = logits_NC[:, : self.num_known].float()
        if len(self._unwritten_ids):
            unwritten = self._unwritten_ids.on(logits_NC.device)
            known_NC = known_NC.index_fill(1, unwritten, -np.inf)
        centred_NC = known_NC - known_NC.amax(-1, keepdim=True)
        weights_NC = centred_NC.exp()
        # in float64, so that rows beside it do not change a row's sum
        total_N1 = weights_NC.sum(-1, keepdim=True, dtype=torch.float64)
        return _Said(centred_NC, weights_NC, total_N1)

    def _between_tokens(self, said: "_Said") -> Tensor:
        """Return the log-probs [N, V] where the text stands between two of the teacher's tokens."""
        weights_NC, device = said.weights_NC, said.weights_NC.device
        removed = self._removed_ids.on(device)
        first_NR = self._first_ids.on(device).expand(len(weights_NC), -1)
        # on a GPU the order of additions is anybody's: float64 hides nearly all of that
        wide = torch.float32 if device.type == "cpu" else torch.float64
        begun_NV = torch.zeros(len(weights_NC), len(self), dtype=wide, device=device)
        begun_NV.scatter_add_(1, first_NR, weights_NC.index_select(1, removed).to(wide))
        kept_NV = said.centred_NC.index_select(1, self._kept_ids.on(device))
        both_NV = torch.logaddexp(kept_NV, begun_NV.log_().float())
        return both_NV.sub_(said.total_N1.log().float())

    def _of_labels(
        self, said: "_Said", labels: Sequence[int]
    ) -> Iterator[tuple[float, list[tuple[tuple[int, ...], float]]]]:
        """Yield at each position how likely its label is alone, and what is likely that it begins.

        The latter as (the other pieces, how likely).
        """
        begun = [self._begun_by(label) for label in labels]
        asked = [
            np.append(ids, self.kept_V[label]) for ids, label in zip(begun, labels, strict=True)
        ]
        sizes = [len(ids) for ids in asked]
        device = said.weights_NC.device
        rows = torch.from_numpy(np.repeat(np.arange(len(labels)), sizes)).to(device)
        columns = torch.from_numpy(np.concatenate(asked)).to(device)
        weights = said.weights_NC[rows, columns].double()
        masses = (weights / said.total_N1[rows, 0]).cpu().numpy()
        for ids, of_one in zip(begun, np.split(masses, np.cumsum(sizes)[:-1]), strict=True):
            alone, of_begun = float(of_one[-1]), of_one[:-1]
            likely = _likely(of_begun, of_one.sum())
            yield alone, [(self._rest[int(ids[i])], float(of_begun[i])) for i in likely]


@dataclass(frozen=True, eq=False)
class _Said:
    """What a teacher says at some positions.

    centred_NC: its logits less the largest of the row; weights_NC: their exponentials, total_N1: the
    sum of those.
    """

    centred_NC: Tensor
    weights_NC: Tensor
    total_N1: Tensor


def _in_parts(
    logit_chunks: Iterable[tuple[slice, Tensor]],
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the chunks in parts on which work stays small."""
    for part, logits_NC in logit_chunks:
        for rows in chunks(len(logits_NC), logits_NC.shape[1], logits_NC.device):
            yield slice(part.start + rows.start, part.start + rows.stop), logits_NC[rows]


def _likely(masses: NDArray[np.float64], total: float) -> NDArray[np.int64]:
    """Return the places of all but the smallest, which together are negligible; ascending."""
    order = np.argsort(masses, kind="stable")
    return np.sort(order[np.cumsum(masses[order]) > NEGLIGIBLE * total])


class _Text:
    """Where a text stands among the teacher's tokens, after some of its pieces.

    whole: how likely one of them has just ended. within: (the pieces to come of one that is begun,
    how likely it is); all together 1.
    """

    def __init__(self) -> None:
        self.whole = 1.0
        self.within: list[tuple[tuple[int, ...], float]] = []

    def next_pieces(self) -> dict[int, float]:
        """Return what comes next in the tokens that are begun, and how likely."""
        found: dict[int, float] = {}
        for rest, mass in self.within:
            found[rest[0]] = found.get(rest[0], 0.0) + mass
        return found

    def read(
        self, piece: int, alone: float, begun: Iterable[tuple[tuple[int, ...], float]]
    ) -> None:
        """Read a piece.

        alone: how likely the teacher finds it as a token of its own. begun: (the pieces to come, how
        likely) of the tokens that it is the first piece of.
        """
        ways = [((), self.whole * alone)]
        ways += [(rest, self.whole * mass) for rest, mass in begun]
        ways += [(rest[1:], mass) for rest, mass in self.within if rest[0] == piece]
        total = sum(mass for _, mass in ways)
        # never, says the teacher; or it is no number, which is refused when it is stored
        if not total > 0:
            self.whole, self.within = 1.0, []
            return
        within = [(rest, mass / total) for rest, mass in ways if rest]
        likely = _likely(np.array([mass for _, mass in within]), 1.0)
        self.within = [within[i] for i in likely]
        self.whole = max(NEGLIGIBLE, 1 - sum(mass for _, mass in self.within))


class _Changes:
    """What the places of some rows in the text change in their log-probs."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, float]] = []
        self._pieces: list[tuple[int, int, float]] = []

    def note(self, row: int, text: _Text) -> None:
        """Note where the text stands before the token that a row predicts."""
        if text.within:
            self._rows.append((row, text.whole))
            self._pieces += [(row, piece, mass) for piece, mass in text.next_pieces().items()]

    def applied_to(self, logp_NV: Tensor) -> Tensor:
        """Return the log-probs between two tokens mixed with those within one; in place."""
        if not self._rows:
            return logp_NV
        device = logp_NV.device
        rows, whole = zip(*self._rows, strict=True)
        rows = torch.tensor(rows, device=device)
        logp_NV[rows] += torch.tensor(whole, device=device).log()[:, None]
        rows, pieces, masses = zip(*self._pieces, strict=True)
        at = torch.tensor(rows, device=device), torch.tensor(pieces, device=device)
        logp_NV[at] = torch.logaddexp(logp_NV[at], torch.tensor(masses, device=device).log())
        return logp_NV
