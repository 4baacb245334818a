"""Cut the feed-forward of a dense decoder: which neurons stay, and the model that has only those.

A neuron counts as much as what it hands to the output projection: sqrt of the sum over samples of
(mean over tokens of |a|)², in float32 (Minitron, Muralidharan et al. 2024, arXiv 2407.14679). Each
layer ranks its own; the hidden width and the attention stay whole.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.errors import MismatchError
from distill.models import on_disk
from distill.models.families import EXPERTS, first_of
from distill.shaping.calibration import Calibration, read_with
from distill.shaping.layers import layers_of, require_config_of_its_weights

if TYPE_CHECKING:
    from torch import Tensor

WAY_OUT = "set student.ffn_width=null, and cut layers (student.method: layers) instead"


def keep_strongest(model: Any, width: int, calibration: Calibration) -> None:
    """Keep the `width` strongest neurons of each layer's feed-forward, in place.

    Its config follows. Raises MismatchError where it has not so many, or is no such feed-forward.
    """
    before = refuse_other_widths(type(model).__name__, _config(model).to_dict(), width)
    blocks = _feed_forwards(model)
    for block, strengths_I in zip(blocks, strengths(model, calibration), strict=True):
        # of equals the first, so that a width of its own is the model as it is
        kept_K = strengths_I.sort(descending=True, stable=True).indices[:width].sort().values
        on_disk.keep(model, block)
        _keep_neurons(block, kept_K, before)
    _config(model).intermediate_size = width
    require_config_of_its_weights(model, f"a feed-forward of {width}", WAY_OUT)


def not_dense(family: str) -> MismatchError:
    """Return the error of a mixture that is to lose neurons."""
    return MismatchError(
        f"{family}: its feed-forward is a mixture of experts, and student.ffn_width cuts dense "
        "ones: set student.ffn_width=null, and student.num_experts to fewer experts"
    )


def refuse_other_widths(family: str, config: Mapping[str, Any], width: int) -> int:
    """Return the feed-forward's width by a config. Raises MismatchError where it cannot be cut so."""
    if first_of(config, EXPERTS):
        raise not_dense(family)
    before = config.get("intermediate_size")
    if not isinstance(before, int):
        raise MismatchError(f"{family}: its config has no one intermediate_size; {WAY_OUT}")
    if width > before:
        raise MismatchError(
            f"student.ffn_width {width} is more than the {before} neurons of {family}: set it to "
            "fewer, or to null"
        )
    return before


def strengths(model: Any, calibration: Calibration) -> "list[Tensor]":
    """Return how strong each neuron [I] of each layer is on the text, float32."""
    import torch

    blocks = _feed_forwards(model)
    numbers = {block.down_proj: number for number, block in enumerate(blocks)}
    squares: list[Any] = [0.0] * len(blocks)
    mask_BT: Tensor | None = None

    def note(projection: Any, values: tuple[Any, ...]) -> None:
        assert mask_BT is not None  # set before each pass
        size_BTI = values[0].float().abs()
        sum_BI = torch.einsum("bti,bt->bi", size_BTI, mask_BT.float())
        mean_BI = sum_BI / mask_BT.sum(1, keepdim=True)
        squares[numbers[projection]] += (mean_BI**2).sum(0)

    hooks = [block.down_proj.register_forward_pre_hook(note) for block in blocks]
    for batch in read_with(model, calibration, hooks):
        mask_BT = batch.mask_BT
    return [square_I.sqrt() for square_I in squares]


def _config(model: Any) -> Any:
    return model.config.get_text_config()


def _feed_forwards(model: Any) -> list[Any]:
    """Return each layer's feed-forward. Raises MismatchError unless it is one that is gated."""
    import torch

    def is_one(module: Any) -> bool:
        return all(
            isinstance(getattr(module, name, None), torch.nn.Linear) for name in _names(module)
        )

    found = []
    for number, layer in enumerate(layers_of(model)):
        blocks = [module for module in layer.modules() if is_one(module)]
        if len(blocks) != 1:
            raise MismatchError(
                f"{type(model).__name__}: layer {number} has no gated feed-forward (gate_proj, "
                f"up_proj, down_proj) that student.ffn_width could cut; {WAY_OUT}"
            )
        found += blocks
    return found


def _names(block: Any) -> tuple[str, ...]:
    """Return the projections of a feed-forward: gate and up are one matrix in some families."""
    if hasattr(block, "gate_up_proj"):
        return "gate_up_proj", "down_proj"
    return "gate_proj", "up_proj", "down_proj"


def _keep_neurons(block: Any, kept_K: "Tensor", before: int) -> None:
    import torch

    for name in _names(block)[:-1]:
        # both halves of a fused matrix: the gate's rows, then those of up
        rows_R = torch.cat([kept_K, kept_K + before]) if name == "gate_up_proj" else kept_K
        _keep_rows(getattr(block, name), rows_R)
    _keep_columns(block.down_proj, kept_K)
    if hasattr(block, "intermediate_size"):
        block.intermediate_size = len(kept_K)


def _keep_rows(projection: Any, rows_R: "Tensor") -> None:
    """Keep some outputs of a linear layer."""
    import torch

    for name in ("weight", "bias"):
        if (parameter := getattr(projection, name, None)) is not None:
            setattr(projection, name, torch.nn.Parameter(parameter.detach()[rows_R]))
    projection.out_features = len(rows_R)


def _keep_columns(projection: Any, columns_C: "Tensor") -> None:
    """Keep some inputs of a linear layer."""
    import torch

    projection.weight = torch.nn.Parameter(projection.weight.detach()[:, columns_C].contiguous())
    projection.in_features = len(columns_C)
