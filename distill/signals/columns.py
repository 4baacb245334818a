"""Which columns of a teacher's logits are ids, and which of those the student has.

N: positions, C: columns, as many as the teacher's head has rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from distill.signals.device_ids import DeviceIds

if TYPE_CHECKING:
    from torch import Tensor

    from distill.signals.pieces import Pieces


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a teacher's logits.

    num_known: how many ids its tokenizer has, 0 .. num_known-1. A padded head has more columns,
        which are nobody's.
    pieces: where the student has only some of the teacher's tokens (a trimmed vocabulary); None: it
        has them all.
    boundary_ids, end_ids: the teacher's ids that begin a word or end an answer, and that end one;
        for the signal `chunks` alone.
    """

    num_known: int
    pieces: "Pieces | None" = None
    boundary_ids: Sequence[int] = ()
    end_ids: Sequence[int] = ()

    def known(self, logits_NC: "Tensor") -> "Tensor":
        """Return the logits of all ids that the teacher's tokenizer has; not a copy."""
        return logits_NC[:, : self.num_known]

    def boundaries_on(self, device: Any) -> "tuple[Tensor, Tensor]":
        """Return `boundary_ids` and `end_ids` as int64 on a device, where they stay."""
        boundaries, ends = self._boundaries
        return boundaries.on(device), ends.on(device)

    @cached_property
    def _boundaries(self) -> tuple[DeviceIds, DeviceIds]:
        return DeviceIds(self.boundary_ids), DeviceIds(self.end_ids)
