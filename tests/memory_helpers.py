"""What a piece of code holds in memory, tensor by tensor."""

import math
import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Memory(TorchDispatchMode):
    """Records every tensor that an operation makes.

    `shapes`, and the `peak` of bytes that were alive together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.alive = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [
            x.untyped_storage() for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)
        ]
        known = {storage.data_ptr() for storage in inputs}
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.shapes.add(tuple(tensor.shape))
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size

    @property
    def largest(self) -> int:
        return max(math.prod(shape) for shape in self.shapes)
