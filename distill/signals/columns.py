"""Which columns of a teacher's logits belong to the ids that teacher and student share.

N: positions, C: columns, as many as the teacher's head has rows, V: shared ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of the shared ids, in the order of the student's ids.

    num_known: how many ids the teacher's tokenizer has, 0 .. num_known-1. A padded head has more
        columns, which are nobody's.
    kept: where the student has only some of the teacher's tokens (a trimmed vocabulary), the
        teacher's id of each of its own, ascending; None: it has them all.
    boundary_ids, end_ids: the teacher's ids that begin a word or end an answer, and that end one;
        for the signal `chunks` alone.

    Raises ValueError for ids that the teacher's tokenizer does not have, or that do not ascend.
    """

    num_known: int
    kept: Sequence[int] | None = None
    boundary_ids: Sequence[int] = ()
    end_ids: Sequence[int] = ()
    _on_device: dict[Any, "Tensor"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kept is None:
            return
        ascends = all(a < b for a, b in zip(self.kept[:-1], self.kept[1:], strict=True))
        if not self.kept or not ascends or not 0 <= self.kept[0] <= self.kept[-1] < self.num_known:
            raise ValueError(f"the kept ids do not ascend from 0 to below {self.num_known}")

    def __len__(self) -> int:
        return self.num_known if self.kept is None else len(self.kept)

    def known(self, logits_NC: "Tensor") -> "Tensor":
        """Return the logits of all ids that the teacher's tokenizer has."""
        return logits_NC[:, : self.num_known]

    def shared(self, logits_NC: "Tensor") -> "Tensor":
        """Return the logits of the shared ids, [N, V]."""
        if self.kept is None:
            return self.known(logits_NC)
        return logits_NC.index_select(1, self.kept_on(logits_NC.device))

    def of_ids(self, ids: "Tensor") -> "Tensor":
        """Return the column of each shared id."""
        return ids if self.kept is None else self.kept_on(ids.device)[ids]

    def kept_on(self, device: Any) -> "Tensor":
        """Return `kept` as int64 [V] on a device, where it stays."""
        return self._ids_on("kept", device)

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
