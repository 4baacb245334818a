"""A model whose layers stay in its files: each is read when it runs, and let go afterwards.

In memory are the embedding, the norms outside of the layers, the head, and the layer that runs. A
layer that is kept (`keep`) is read for good, and is then like any other; so a model can be cut layer
by layer that does not fit into memory. The numbers are those of a model that is loaded whole: both
come by transformers' own loader, with its conversions (experts that are stacked, names that differ
from the file's). Nothing is written to the disk.
"""

import copy
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import DataError, shown
from distill.models.loaded_weights import refuse_not_finite
from distill.models.model_files import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

OF_A_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")  # in a tensor's name; the layer's number
ATTRIBUTE = "layers_on_disk"  # of a model: its LayersOnDisk


def without_layers(folder: Path, config: Any, stored: Mapping[str, StoredTensor]) -> Any:
    """Return (model of a folder in float32 on the CPU, its layers without weights; the loader's notes).

    Names, shapes and conversions of the layers' weights are those that the loader found.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    model, notes = type(made).from_pretrained(
        None,
        config=made.config,
        state_dict={name: ToLoad(tensor, name) for name, tensor in stored.items()},
        dtype=torch.float32,
        device_map={"": "cpu"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    # what it does only where it reads the files itself
    model.config.name_or_path = str(folder)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        model.generation_config = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True
        )
    return model, notes


@dataclass(frozen=True)
class ToLoad:
    """A tensor of the files as transformers' loader takes it: its numbers are asked for by [...]."""

    stored: StoredTensor
    name: str

    def __getitem__(self, _: Any) -> "Tensor":
        """Return it; of a layer a shape alone, which becomes a weight without memory."""
        import torch
        from safetensors import safe_open

        if OF_A_LAYER.search(self.name):
            return torch.empty(self.stored.shape, device="meta").as_subclass(_staying_out())
        with safe_open(self.stored.file, framework="pt") as file:
            return file.get_tensor(self.name)


@cache
def _staying_out() -> Any:
    """Return the class of tensors without memory that stay so when they are sent to a device."""
    import torch

    class StayingOut(torch.Tensor):
        def to(self, *_: Any, dtype: Any, **__: Any) -> "Tensor":
            return super().to(dtype)

    return StayingOut


def can_be_read(model: Any) -> bool:
    """Return whether what a model was loaded without are its layers' own weights, none of them shared.

    Elsewhere (a part that sees or hears may have layers, too) it has to be loaded whole.
    """
    layers = getattr(model.base_model, "layers", ())
    within = {id(p) for layer in layers for p in layer.parameters()}
    elsewhere = any(p.is_meta and id(p) not in within for p in model.parameters())
    return not elsewhere and not any(map(OF_A_LAYER.search, model.all_tied_weights_keys))


def attach(folder: Path, model: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Have the layers of a model that was loaded without them read when they run."""
    if getattr(model.base_model, "layers", None) is not None:
        setattr(model, ATTRIBUTE, LayersOnDisk(folder, model, stored))


def are_on_disk(model: Any) -> bool:
    """Return whether some of the model's layers are read when they run."""
    return getattr(model, ATTRIBUTE, None) is not None


def keep(model: Any, part: Any = None) -> None:
    """Read the layer that has `part` (a module; None: every layer that is left) for good.

    Nothing is done where the layers are in memory. Raises DataError for files that changed since.
    """
    layers = getattr(model, ATTRIBUTE, None)
    if layers is None:
        return
    if part is not None:
        layers.keep(layers.layer_of[part])
        return
    for layer in model.base_model.layers:
        layers.keep(layer)
    delattr(model, ATTRIBUTE)


def move(model: Any, device: str) -> None:
    """Move what is in memory to a device, where layers are then read to as well."""
    layers = getattr(model, ATTRIBUTE, None)
    if layers is None:
        model.to(device)
        return
    model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
    layers.device = device


class LayersOnDisk:
    """What reads a model's layers. `layer_of`: the layer of each module that is a part of one."""

    def __init__(self, folder: Path, model: Any, stored: Mapping[str, StoredTensor]):
        import torch

        layers = list(model.base_model.layers)
        self.device = "cpu"
        self.layer_of = {part: layer for layer in layers for part in layer.modules()}
        self._folder = folder
        self._stored: dict[Any, dict[str, StoredTensor]] = {layer: {} for layer in layers}
        for name, tensor in stored.items():
            number = OF_A_LAYER.search(name)
            if number and int(number[1]) < len(layers):  # there may be more, which guess tokens
                self._stored[layers[int(number[1])]][name] = tensor
        # The loader fills a model by its weights' names: this one keeps the layers, and their
        # numbers, when the other loses some.
        with torch.device("meta"):
            self._whole = type(model)(copy.deepcopy(model.config))
        self._whole.base_model.layers = model.base_model.layers
        self._conversions = model._weight_conversions
        # what the file has under a name that is no layer's is in memory, and stays
        self._empty = {
            layer: [name for name, value in layer.state_dict().items() if value.is_meta]
            for layer in layers
        }
        self._hooks = {layer: self._hooks_of(layer) for layer in layers}

    def keep(self, layer: Any) -> None:
        """Read a layer for good, if it was not."""
        if layer in self._hooks:
            for hook in self._hooks.pop(layer):
                hook.remove()
            self._read(layer)

    def _hooks_of(self, layer: Any) -> list[Any]:
        return [
            layer.register_forward_pre_hook(lambda layer, _: self._read(layer)),
            layer.register_forward_hook(lambda layer, *_: self._let_go(layer), always_call=True),
        ]

    def _let_go(self, layer: Any) -> None:
        """Give back the memory of what was read of a layer."""
        import torch

        values = layer.state_dict()
        empty = {
            name: torch.empty(values[name].shape, dtype=values[name].dtype, device="meta")
            for name in self._empty[layer]
        }
        layer.load_state_dict(empty, assign=True, strict=False)

    def _read(self, layer: Any) -> None:
        """Fill a layer, in float32.

        Raises DataError for files that changed, MismatchError for numbers beyond float32.
        """
        import torch
        from safetensors import SafetensorError, safe_open
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        stored = self._stored[layer]
        options = LoadStateDictConfig(
            device_map={"": self.device, "nothing": "disk"},  # with which it reads without threads
            dtype=torch.float32,
            weight_mapping=self._conversions,
        )
        try:
            with ExitStack() as opened:
                files = {
                    path: opened.enter_context(safe_open(path, framework="pt"))
                    for path in {tensor.file for tensor in stored.values()}
                }
                tensors = {n: files[tensor.file].get_slice(n) for n, tensor in stored.items()}
                convert_and_load_state_dict_in_model(self._whole, tensors, options)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self._folder}: {self._name(layer)} can no longer be read ({shown(error)}); "
                "fetch the whole folder again"
            ) from None
        missing = [name for name, value in layer.state_dict().items() if value.is_meta]
        if missing:
            raise DataError(
                f"{self._folder}: {self._name(layer)} lacks {missing[0]}, or has it in another shape "
                "than when it was opened; fetch the whole folder again"
            )
        refuse_not_finite(f"{self._folder}: {self._name(layer)}", layer, stored)

    def _name(self, layer: Any) -> str:
        return f"layer {list(self._stored).index(layer)}"
