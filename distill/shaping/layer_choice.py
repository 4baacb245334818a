"""Which layers of a decoder stay: four criteria.

even              evenly spaced, the first and the last among them
last              the first ones: the last are dropped, as in "drop the last 25 %"
block_influence   those that turn the hidden states most: 1 - E[cos(before, after)] over all
                  tokens (Men et al. 2024, ShortGPT, arXiv 2403.03853)
nll               greedily: layer after layer goes whichever costs least NLL of the answers
                  (Song et al. 2024, SLEB, arXiv 2402.09025, by perplexity)
"""

import math
from typing import Any

from distill.core import shutdown
from distill.core.progress import Progress
from distill.models import on_disk
from distill.shaping.calibration import Calibration, nats, read_with
from distill.shaping.layer_passes import LayerPasses, output_of
from distill.shaping.layers import evenly_spaced, layers_of, num_kept_of

# the search runs the layers hundreds of times, and as many sequences rank them well
SEARCH_SEQUENCES = 16


def chosen_layers(
    model: Any, share: float, layers_by: str, calibration: Calibration | None
) -> list[int]:
    """Return the numbers of the layers to keep, ascending. `calibration`: of the last two criteria.

    Raises MismatchError for a model whose layers are not to be found.
    """
    num_layers = len(layers_of(model))
    num_kept = num_kept_of(num_layers, share)
    if layers_by == "even":
        return evenly_spaced(num_layers, share)
    if layers_by == "last":
        return list(range(num_kept))
    assert calibration is not None  # the caller reads it for these
    if layers_by == "block_influence":
        influences = block_influences(model, calibration)
        order = sorted(range(num_layers), key=lambda layer: (influences[layer], layer))
        return sorted(order[num_layers - num_kept :])
    return least_nll(model, calibration.first(SEARCH_SEQUENCES), num_kept)


def block_influences(model: Any, calibration: Calibration) -> list[float]:
    """Return 1 - mean cosine between the hidden states before and after each layer."""
    from torch.nn.functional import cosine_similarity

    layers = layers_of(model)
    numbers = {layer: number for number, layer in enumerate(layers)}
    sums = [0.0] * len(layers)
    mask_BT: Any = None  # of the batch that runs

    def note(layer: Any, values: tuple[Any, ...], returned: Any) -> None:
        cosine_BT = cosine_similarity(values[0].float(), output_of(returned).float(), dim=-1)
        sums[numbers[layer]] += (cosine_BT * mask_BT).double().sum().item()

    hooks = [layer.register_forward_hook(note) for layer in layers]
    num_tokens = 0
    for batch in read_with(model, calibration, hooks):
        mask_BT = batch.mask_BT
        num_tokens += int(mask_BT.sum())
    return [1 - total / num_tokens for total in sums]


def least_nll(model: Any, calibration: Calibration, num_kept: int) -> list[int]:
    """Return the layers that a greedy search leaves, ascending; of equals the earlier one goes.

    What stands before a layer that is tried is computed once, not again for each trial. Raises Stopped
    where a signal asks for it: of a model of 30 layers the search takes many minutes on a CPU.
    """
    import torch

    from distill.models.head import head_of

    on_disk.keep(model)  # each layer runs hundreds of times
    head, vocab_size = head_of(model), calibration.vocab_size
    left = list(range(len(layers_of(model))))
    with torch.no_grad():
        batches = list(calibration.batches(model.device))
        passes = [LayerPasses(model, batch) for batch in batches]
        num_runs = sum(math.comb(num, 2) for num in range(num_kept + 1, len(left) + 1))
        with Progress("layers by nll", num_runs, "runs of a layer") as bar:
            while len(left) > num_kept:
                costs = []
                for place in range(len(left)):
                    shutdown.check()
                    costs.append(
                        sum(
                            nats(head, passing.without(place), batch, vocab_size)
                            for passing, batch in zip(passes, batches, strict=True)
                        )
                    )
                    behind = len(left) - 1 - place
                    bar.advance(behind, note=f"{len(left)} layers are left")
                worst = costs.index(min(costs))
                del left[worst]
                for passing in passes:
                    passing.remove(worst)
    return left
