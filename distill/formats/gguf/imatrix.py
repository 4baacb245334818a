"""The importance matrix: how strongly each input of each matrix is used, for ggml's quantizer.

For a matrix with inputs x the importance of input c is the mean of x_c^2 over the tokens of calibration texts; ggml
weighs the rounding error of column c with it. The file is llama.cpp's own (GGUF of type `imatrix`: sums and counts),
so `llama-quantize --imatrix` takes it too. Like llama.cpp's collector, only the matrices of the layers are measured.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Importance = dict[str, np.ndarray]


def collect(
    model: Any, sequences: Sequence[Sequence[int]], architecture: gguf.MODEL_ARCH
) -> tuple[Importance, int]:
    """(GGUF tensor name -> sums of squared inputs, float64 [C]; number of tokens) over token `sequences`."""
    import torch

    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    sums: dict[str, Any] = {}

    def add(name: str, _module: Any, inputs: tuple[Any, ...]) -> None:
        total_C = inputs[0].detach().double().square().flatten(0, -2).sum(0)
        sums[name] = sums[name] + total_C if name in sums else total_C

    hooks = []
    for source, module in model.named_modules():
        name = names.get_name(source)
        if isinstance(module, torch.nn.Linear) and name and name.startswith("blk."):
            hooks.append(module.register_forward_pre_hook(partial(add, f"{name}.weight")))
    try:
        with torch.no_grad():
            for ids in sequences:  # one at a time: padding would be counted
                model.base_model(
                    input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False
                )
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total_C.cpu().numpy() for name, total_C in sums.items()}, sum(map(len, sequences))


def write(path: Path, sums: Importance, num_tokens: int, num_sequences: int, dataset: str) -> None:
    """llama.cpp's file, whole or not at all. `dataset` names where the texts came from."""
    temporary = path.with_name(f".{path.name}.tmp")
    writer = gguf.GGUFWriter(temporary, "")
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", num_sequences)
    writer.add_uint32("imatrix.chunk_size", max(1, num_tokens // num_sequences))
    for name, total_C in sums.items():
        writer.add_tensor(f"{name}.in_sum2", total_C.astype(np.float32)[None])
        writer.add_tensor(f"{name}.counts", np.array([[num_tokens]], np.float32))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    temporary.replace(path)


def read(path: Path) -> Importance:
    """GGUF tensor name -> mean squared inputs, float32 [C]: what `ggml.quantize` takes."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    means = {
        name.removesuffix(".in_sum2"): data.reshape(-1)
        / tensors[name.removesuffix("in_sum2") + "counts"].reshape(-1)
        for name, data in tensors.items()
        if name.endswith(".in_sum2")
    }
    return {name: np.ascontiguousarray(mean, np.float32) for name, mean in means.items()}
