"""A W4A16 folder: 4-bit weights in groups, 16-bit activations, as `compressed-tensors` packs them.

vLLM reads it as it is (compressed-tensors is a part of vLLM), transformers where the package is
installed; on a CPU transformers unpacks the weights to 16 bits at the first forward, so there it
saves disk, not memory. On the quickstart's teacher the KL to the unquantized model was 0.0045, by
rounding alone (no search, no calibration) 0.0072, of nf4 0.0070.

A value is q * s with q in -8 .. 7 and one s for 32 neighbours of a row. Each s is the one of a few
candidates with the least squared rounding error, every input weighed by its mean square over
calibration texts. No error is carried over from one column to the next, as GPTQ does.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.errors import MismatchError, MissingError
from distill.formats.base import FolderFormat
from distill.formats.export import Export
from distill.formats.folders import (
    copy_tokenizer,
    sixteen_bits,
    unquantized_config,
    weight_bytes,
    written_config,
)
from distill.formats.input_squares import input_square_sums
from distill.formats.planned_student import PlannedStudent
from distill.models import load
from distill.models.saving import save_model

GROUP = 32
LARGEST = 8.0  # the largest magnitude of a group is coded near -8 or 7
CANDIDATES = 20
INSTALL = "the format w4a16 needs the package compressed-tensors: pip install 'distill[w4a16]'"


def write_w4a16(
    model_folder: Path, out_folder: Path, sequences: Sequence[Sequence[int]] = ()
) -> int:
    """Quantize the linear layers of `model_folder` into `out_folder`, tokenizer included.

    Returns the bytes of its weights. `sequences` are token ids of calibration texts; with none,
    every input counts the same. Embedding, head and norms stay 16-bit: float16 if the model is
    float16, else bfloat16. Raises MissingError (no such model, or the package is not installed) and
    MismatchError (quantized already, widths that are no multiple of 32, experts).
    """
    import torch

    compressed = _package()
    dtype = sixteen_bits(unquantized_config(model_folder))
    model = load.from_folder(model_folder, dtype=torch.float32)
    layers = _layers(model_folder, model)
    importance = _mean_squares(model, layers, sequences) if sequences else {}
    settings = _settings(model, layers)
    compressed.apply_quantization_config(model, settings, show_progress=False)
    for name, layer in layers.items():
        layer.weight_scale.data = best_scales(layer.weight.data, importance.get(name), dtype)
        compressed.compress_module(layer)
    save_model(model.to(dtype), out_folder)
    settings.quantization_status = compressed.QuantizationStatus.COMPRESSED
    compressed.ModelCompressor(quantization_config=settings).update_config(str(out_folder))
    copy_tokenizer(model_folder, out_folder)
    return weight_bytes(out_folder)


def load_w4a16(folder: Path) -> Any:
    """Load a folder of `write_w4a16` in evaluation mode, on the CPU.

    Raises MissingError if it, or the package, is not there.
    """
    from transformers import CompressedTensorsConfig

    _package()
    config = written_config(folder)
    quantization = getattr(config, "quantization_config", None) or {}
    if quantization.get("quant_method") != "compressed-tensors":
        raise MissingError(
            f"{folder}: its config.json has no compressed-tensors quantization_config"
        )
    # that only the way of loading is taken from this config: it is all we want
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        return load.from_folder(
            folder,
            dtype=config.dtype,
            device_map={"": "cpu"},
            quantization_config=CompressedTensorsConfig(dequantize=True),
        )


def best_scales(weight_OC: Any, importance_C: Any | None, dtype: Any) -> Any:
    """Return the scale of each group of 32 inputs, float32 [O, C / 32].

    Each is exactly representable in `dtype`.
    """
    import torch

    groups_OGN = weight_OC.unflatten(1, (-1, GROUP))
    weight_of_GN = torch.ones_like(groups_OGN[0])
    if importance_C is not None:
        weight_of_GN = importance_C.unflatten(0, (-1, GROUP)).float()
    largest_OG1 = groups_OGN.abs().amax(-1, keepdim=True).clamp(min=1e-8)
    best_OG = torch.zeros_like(largest_OG1[..., 0])
    least_OG = torch.full_like(best_OG, torch.inf)
    for step in range(CANDIDATES):
        scale_OG1 = (largest_OG1 / (LARGEST - 1.5 + 0.2 * step)).to(dtype).float()
        error_OGN = groups_OGN - (groups_OGN / scale_OG1).round().clamp(-8, 7) * scale_OG1
        error_OG = (error_OGN.square() * weight_of_GN).sum(-1)
        better_OG = error_OG < least_OG
        best_OG = torch.where(better_OG, scale_OG1[..., 0], best_OG)
        least_OG = torch.where(better_OG, error_OG, least_OG)
    return best_OG


def _layers(folder: Path, model: Any) -> dict[str, Any]:
    """Return the linear layers to quantize, by name: all but the head.

    Raises MismatchError for experts, and for widths that are no multiple of 32.
    """
    experts = [name for name, p in model.named_parameters() if p.ndim == 3]
    if experts:
        raise MismatchError(
            f"{folder}: w4a16 packs linear layers, but {experts[0]} holds experts; "
            "leave the format out"
        )
    head = model.get_output_embeddings()
    layers = {name: module for name, module in _linear(model).items() if module is not head}
    for name, layer in layers.items():
        if layer.in_features % GROUP:
            raise MismatchError(
                f"{folder}: {name} has {layer.in_features} inputs; "
                f"w4a16 needs multiples of {GROUP}. Use int8 or GGUF"
            )
    return layers


def _linear(model: Any) -> dict[str, Any]:
    import torch

    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def _settings(model: Any, layers: Mapping[str, Any]) -> Any:
    """Return compressed-tensors' description of how `layers` of the model are quantized."""
    compressed = _package()
    weights = compressed.QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP
    )
    scheme = compressed.QuantizationScheme(targets=["Linear"], weights=weights)
    ignored = [name for name in _linear(model) if name not in layers]
    return compressed.QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=ignored, format="pack-quantized"
    )


def _mean_squares(
    model: Any, layers: Mapping[str, Any], sequences: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return the mean square of each input of each layer over all tokens, float64 [C] by name."""
    num_tokens = sum(map(len, sequences))
    sums = input_square_sums(model, layers, sequences)
    return {name: total_C / num_tokens for name, total_C in sums.items()}


def _package() -> Any:
    """Return what we use of compressed-tensors, under one name. Raises MissingError without it."""
    try:
        from compressed_tensors import compressors, quantization
    except ImportError:
        raise MissingError(INSTALL) from None
    from types import SimpleNamespace

    return SimpleNamespace(
        QuantizationArgs=quantization.QuantizationArgs,
        QuantizationConfig=quantization.QuantizationConfig,
        QuantizationScheme=quantization.QuantizationScheme,
        QuantizationStatus=quantization.QuantizationStatus,
        apply_quantization_config=quantization.apply_quantization_config,
        ModelCompressor=compressors.ModelCompressor,
        compress_module=compressors.compress_module,
    )


def require_package(student: PlannedStudent, names: Sequence[str]) -> None:
    """Raise MissingError if compressed-tensors is not installed."""
    if find_spec("compressed_tensors") is None:
        raise MissingError(f"{student.recipe.source}: quantize.formats: {INSTALL}")


@dataclass(frozen=True, kw_only=True)
class PackedFourBits(FolderFormat):
    """A folder that compressed-tensors packed."""

    load = staticmethod(load_w4a16)
    check = staticmethod(require_package)

    def fill(self, export: Export, model_folder: Path, folder: Path) -> None:
        count = export.recipe.quantize.importance_sequences
        sequences = [sequence.ids for sequence in export.training_sequences(count)]
        write_w4a16(model_folder, folder, sequences)


W4A16 = PackedFourBits(
    name="w4a16",
    runtime="transformers + compressed-tensors",
    bytes_per_weight=0.7,
    row_multiple=GROUP,
    in_vllm=True,
)
