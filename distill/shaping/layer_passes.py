"""The layers of a decoder run one by one, from hidden states that are kept.

Each layer is called as the model itself calls it (masks and positions by kind of attention), so that
leaving one out is what the model without that layer computes.
"""

from typing import TYPE_CHECKING, Any

from distill.errors import MismatchError
from distill.shaping.calibration import Batch, hidden_states

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-4  # of the largest number: what kernels may differ by from one call to the next


class LayerPasses:
    """One batch's hidden states before each of the layers that are left.

    They are [B, T, H] each, and stay in memory: to try the removal of a layer only those behind it
    are computed.
    """

    def __init__(self, model: Any, batch: Batch):
        """Raises MismatchError for a model that is more than its layers, one after the other."""
        self.layers: list[Any] = list(model.base_model.layers)
        self._norm: Any = getattr(model.base_model, "norm", None)
        self._calls: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._inputs: list[Tensor] = []
        last_BTH = self._recorded(model, batch)
        if self._norm is None or not _same(self._from(0, self._inputs[0]), last_BTH):
            raise MismatchError(
                f"{type(model).__name__}: its layers do not run one by one; set "
                "student.layers_by=block_influence, or even"
            )

    def without(self, place: int) -> "Tensor":
        """Return the hidden states behind the last norm without the layer at `place`."""
        return self._from(place + 1, self._inputs[place])

    def remove(self, place: int) -> None:
        """Remove the layer at `place` of those that are left."""
        hidden_BTH = self._inputs[place]
        del self.layers[place], self._inputs[place]
        for later in range(place, len(self.layers)):
            self._inputs[later] = hidden_BTH
            hidden_BTH = self._output(later, hidden_BTH)

    def _from(self, place: int, hidden_BTH: "Tensor") -> "Tensor":
        for later in range(place, len(self.layers)):
            hidden_BTH = self._output(later, hidden_BTH)
        return self._norm(hidden_BTH)

    def _output(self, place: int, hidden_BTH: "Tensor") -> "Tensor":
        layer = self.layers[place]
        others, named = self._calls[layer]
        return output_of(layer(hidden_BTH, *others, **named))

    def _recorded(self, model: Any, batch: Batch) -> "Tensor":
        """Run the model, note each layer's input and call, and return its last hidden states."""

        def note(layer: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._inputs.append(values[0])
            self._calls[layer] = values[1:], named

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        try:
            return hidden_states(model, batch)
        finally:
            for hook in hooks:
                hook.remove()


def output_of(returned: Any) -> "Tensor":
    """Return the hidden states that a layer returns, some families with more beside them."""
    return returned[0] if isinstance(returned, tuple) else returned


def _same(first: "Tensor", second: "Tensor") -> bool:
    difference = (first - second).abs().max()
    return bool(difference <= ROUNDING * second.abs().max())
