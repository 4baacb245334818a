"""Token ids that are asked for on one device after another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class DeviceIds:
    """Ids that stay on each device on which they were asked for."""

    def __init__(self, ids: "Sequence[int] | NDArray[np.int64]"):
        self._ids = ids
        self._on_device: dict[Any, Tensor] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def on(self, device: Any) -> "Tensor":
        """Return them as int64 on a device."""
        import torch

        if device not in self._on_device:
            self._on_device[device] = torch.as_tensor(self._ids, dtype=torch.int64).to(device)
        return self._on_device[device]
