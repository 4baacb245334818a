"""Cut a mixture of experts to fewer of them a layer, and the model that has only those.

An expert counts as much as it adds: how often the router takes it, times the mean norm of its output
there (the criterion of NVIDIA's ModelOpt; its cut of Qwen3-30B-A3B from 128 to 96 experts cost far
less than as many parameters taken as layers or width). Each layer ranks its own. Layers without
experts, and experts that every token shares, stay as they are.
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

WAY_OUT = "set student.num_experts=null, and cut layers (student.method: layers) instead"
SHARED = "shared_expert"  # what the names of those that every token has begin with


def keep_busiest(model: Any, num_kept: int, calibration: Calibration) -> None:
    """Keep the `num_kept` experts of each layer that add most, in place.

    Its config follows, and no token is sent to more experts than there are. Raises MismatchError for
    a model without experts, or whose routing cannot be told of so many.
    """
    config = model.config.get_text_config()
    values = config.to_dict()
    before = refuse_other_experts(type(model).__name__, values, num_kept)
    blocks = _mixtures(model)
    shares = contributions(model, calibration)
    num_groups = values.get("n_group") or 1
    for block, shares_E in zip(blocks, shares, strict=True):
        on_disk.keep(model, block)
        _keep_experts(block, _largest(shares_E, num_kept, num_groups), before)
    setattr(config, next(name for name in EXPERTS if values.get(name)), num_kept)
    config.num_experts_per_tok = min(config.num_experts_per_tok, num_kept)
    require_config_of_its_weights(model, f"{num_kept} experts a layer", WAY_OUT)


def no_experts(family: str) -> MismatchError:
    """Return the error of a dense model that is to lose experts."""
    return MismatchError(
        f"{family}: it has no experts: set student.num_experts=null, and student.ffn_width to cut "
        "its feed-forward"
    )


def refuse_other_experts(family: str, config: Mapping[str, Any], num_kept: int) -> int:
    """Return how many experts a layer has by a config. Raises MismatchError where it cannot be cut so."""
    before = first_of(config, EXPERTS)
    if not before:
        raise no_experts(family)
    if num_kept > before:
        raise MismatchError(
            f"student.num_experts {num_kept} is more than the {before} of {family}: set it to fewer, "
            "or to null"
        )
    groups = config.get("n_group") or 1
    if groups > 1 and (num_kept % groups or num_kept < 2 * groups):
        raise MismatchError(
            f"student.num_experts {num_kept}: {family} routes by {groups} groups, each as large and of "
            f"two experts at least: set a multiple of {groups}, {2 * groups} or more"
        )
    return before


def contributions(model: Any, calibration: Calibration) -> "list[Tensor]":
    """Return for each mixture the sum of the norms of what each expert puts out [E], float64."""
    import torch

    blocks = _mixtures(model)
    sums = {block.experts: torch.zeros(block.experts.num_experts).double() for block in blocks}
    mask_BT: Tensor | None = None

    def note(experts: Any, values: tuple[Any, ...]) -> None:
        assert mask_BT is not None  # set before each pass
        is_token_N = mask_BT.reshape(-1).bool()
        hidden_NH = values[0].reshape(-1, values[0].shape[-1])[is_token_N]
        chosen_NK = values[1].reshape(len(is_token_N), -1)[is_token_N]
        for expert in chosen_NK.unique().tolist():
            here_MH = hidden_NH[(chosen_NK == expert).any(1)]
            index_M1 = torch.full((len(here_MH), 1), expert, device=here_MH.device)
            output_MH = experts.forward(here_MH, index_M1, torch.ones_like(here_MH[:, :1]))
            sums[experts][expert] += output_MH.double().norm(dim=-1).sum().cpu()

    hooks = [block.experts.register_forward_pre_hook(note) for block in blocks]
    for batch in read_with(model, calibration, hooks):
        mask_BT = batch.mask_BT
    return [sums[block.experts] for block in blocks]


def _mixtures(model: Any) -> list[Any]:
    """Return the mixtures of experts. Raises MismatchError where they are of no known form."""
    found = [
        module
        for layer in layers_of(model)
        for module in layer.modules()
        if hasattr(getattr(module, "experts", None), "gate_up_proj") and _router_of(module)
    ]
    if not found:
        raise MismatchError(
            f"{type(model).__name__}: its experts are not the tensors (experts.gate_up_proj, and a "
            f"router) that student.num_experts cuts; {WAY_OUT}"
        )
    return found


def _router_of(block: Any) -> Any:
    return getattr(block, "gate", None) or getattr(block, "router", None)


def _largest(shares_E: "Tensor", num_kept: int, num_groups: int) -> "Tensor":
    """Return the ids of the largest, ascending, equally many of each group; of equals the first."""
    import torch

    size = len(shares_E) // num_groups
    kept = []
    for group, shares_G in enumerate(shares_E.split(size)):
        order = shares_G.sort(descending=True, stable=True).indices[: num_kept // num_groups]
        kept.append(order.sort().values + group * size)
    return torch.cat(kept)


def _keep_experts(block: Any, kept_K: "Tensor", before: int) -> None:
    """Slice all that has a row for each expert: the experts, the router, its corrections."""
    import torch

    for prefix, module in block.named_modules():
        if prefix.startswith(SHARED):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            sliced = torch.nn.Parameter(
                _sliced(parameter.detach(), kept_K, before), parameter.requires_grad
            )
            setattr(module, name, sliced)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, _sliced(buffer, kept_K, before))
        if hasattr(module, "num_experts"):
            module.num_experts = len(kept_K)
        if hasattr(module, "top_k"):
            module.top_k = min(module.top_k, len(kept_K))


def _sliced(values: "Tensor", kept_K: "Tensor", before: int) -> "Tensor":
    """Return the rows of some experts; corrections may have their experts in the second place."""
    if values.shape[0] == before:
        return values[kept_K]
    return values[:, kept_K] if values.shape == (1, before) else values
