"""Which columns of a teacher's logits are ids, and which of those the student has.

N: positions, C: columns, as many as the teacher's head has rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    _on_device: dict[Any, "Tensor"] = field(default_factory=dict, init=False, repr=False)

    def known(self, logits_NC: "Tensor") -> "Tensor":
        """Return the logits of all ids that the teacher's tokenizer has; not a copy."""
        return logits_NC[:, : self.num_known]

    def boundaries_on(self, device: Any) -> "tuple[Tensor, Tensor]":
        """Return `boundary_ids` and `end_ids` as int64 on a device, where they stay."""
        return self._ids_on("boundary_ids", device), self._ids_on("end_ids", device)

    def _ids_on(self, name: str, device: Any) -> "Tensor":
        import torch

        key = name, device
        if key not in self._on_device:
            ids = getattr(self, name)
            self._on_device[key] = torch.tensor(ids, dtype=torch.int64, device=device)
        return self._on_device[key]
