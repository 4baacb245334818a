"""The importance matrix: how strongly each input of each matrix is used, for ggml's quantizer.

For a matrix with inputs x the importance of input c is the mean of x_c^2 over the tokens of
calibration texts; ggml weighs the rounding error of column c with it. The file is llama.cpp's own
(GGUF of type `imatrix`: sums and counts), so `llama-quantize --imatrix` takes it too. Like
llama.cpp's collector, only the matrices of the layers are measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from distill.formats.export import Export
from distill.formats.gguf.architectures import ARCHITECTURES
from distill.formats.input_squares import input_square_sums

Importance = dict[str, np.ndarray]
FILE_NAME = "imatrix.gguf"


def importance_of(export: Export) -> Importance | None:
    """Return the student's importance matrix, measured once; None if the recipe wants none."""
    count = export.recipe.quantize.importance_sequences
    if not count:
        return None
    path = export.stage / FILE_NAME
    if not path.is_file():
        sequences, model = export.training_sequences(count), export.load_student()
        architecture = ARCHITECTURES.get(model.config.architectures[0])
        if architecture is None:
            return None  # write_gguf refuses it, and says why
        sums, num_tokens = collect(model, [s.ids for s in sequences], architecture)
        write(path, sums, num_tokens, len(sequences), export.samples_name)
    return read(path)


def collect(
    model: Any, sequences: Sequence[Sequence[int]], architecture: gguf.MODEL_ARCH
) -> tuple[Importance, int]:
    """Return (GGUF tensor name -> sums of squared inputs, float64 [C]; number of tokens)."""
    import torch

    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    layers = {}
    for source, module in model.named_modules():
        name = names.get_name(source)
        if isinstance(module, torch.nn.Linear) and name and name.startswith("blk."):
            layers[f"{name}.weight"] = module
    sums = input_square_sums(model, layers, sequences)
    num_tokens = sum(map(len, sequences))
    return {name: total_C.cpu().numpy() for name, total_C in sums.items()}, num_tokens


def write(path: Path, sums: Importance, num_tokens: int, num_sequences: int, dataset: str) -> None:
    """Write llama.cpp's file, whole or not at all. `dataset` names where the texts came from."""
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
    """Return mean squared inputs, float32 [C], by GGUF tensor name: what `ggml.quantize` takes."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    means = {}
    for key, sums in tensors.items():
        name, _, kind = key.rpartition(".")
        if kind == "in_sum2":
            mean_C = sums.reshape(-1) / tensors[f"{name}.counts"].reshape(-1)
            means[name] = np.ascontiguousarray(mean_C, np.float32)
    return means
