"""A W4A16 folder: 4-bit weights in groups, 16-bit activations, in the layout of `compressed-tensors` (pack-quantized).

vLLM reads it as it is (compressed-tensors is a part of vLLM), transformers where the package is installed; on a CPU
transformers unpacks the weights to 16 bits at the first forward, so there it saves disk, not memory. On the quickstart's
teacher the KL to the unquantized model was 0.0045, by rounding alone (no search, no calibration) 0.0072, of nf4 0.0070.

A value is q * s with q in -8 .. 7 and one s for 32 neighbours of a row. Each s is the one of a few candidates with
the least squared rounding error, every input weighed by its mean square over calibration texts. No error is carried
over from one column to the next, as GPTQ does.
"""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.errors import MismatchError, MissingError
from distill.formats.bitsandbytes import COPIED

GROUP = 32
LARGEST = 8.0  # the largest magnitude of a group is coded near -8 or 7
CANDIDATES = 20
INSTALL = "the format w4a16 needs the package compressed-tensors: pip install 'distill[w4a16]'"


def write_w4a16(
    model_folder: Path, out_folder: Path, sequences: Sequence[Sequence[int]] = ()
) -> int:
    """Quantize the linear layers of `model_folder` into `out_folder`, tokenizer included; bytes of its weights.

    `sequences` are token ids of calibration texts; with none, every input counts the same. Embedding, head and norms
    stay 16-bit: float16 where the model is float16, else bfloat16. Raises MissingError (no such model, or the package
    is not installed) and MismatchError (quantized already, widths that are no multiple of 32, experts).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    compressed = _package()
    if not (model_folder / "config.json").is_file() or not any(model_folder.glob("*.safetensors")):
        raise MissingError(
            f"{model_folder}: no config.json with *.safetensors; a transformers model folder is needed"
        )
    config = AutoConfig.from_pretrained(model_folder)
    if getattr(config, "quantization_config", None) is not None:
        raise MismatchError(f"{model_folder}: is quantized already; quantize the 16-bit model")
    dtype = torch.float16 if config.dtype == torch.float16 else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, use_safetensors=True
    )
    layers = _layers(model_folder, model.eval())
    importance = _mean_squares(model, layers, sequences) if sequences else {}
    weights = compressed.QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP
    )
    scheme = compressed.QuantizationScheme(targets=["Linear"], weights=weights)
    ignored = [
        n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n not in layers
    ]
    settings = compressed.QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=ignored, format="pack-quantized"
    )
    compressed.apply_quantization_config(model, settings, show_progress=False)
    for name, layer in layers.items():
        scale_OG = best_scales(layer.weight.data, importance.get(name), dtype)
        layer.weight_scale.data = scale_OG
        compressed.compress_module(layer)
    model.to(dtype).save_pretrained(out_folder)
    settings.quantization_status = compressed.QuantizationStatus.COMPRESSED
    compressed.ModelCompressor(quantization_config=settings).update_config(str(out_folder))
    for name in COPIED:
        if (model_folder / name).is_file():
            shutil.copy2(model_folder / name, out_folder / name)
    return sum(p.stat().st_size for p in out_folder.glob("*.safetensors"))


def load_w4a16(folder: Path, device: str = "cpu") -> Any:
    """A folder of `write_w4a16` in evaluation mode. Raises MissingError where it, or the package, is not there."""
    from transformers import AutoConfig, AutoModelForCausalLM, CompressedTensorsConfig

    _package()
    if not (folder / "config.json").is_file():
        raise MissingError(
            f"{folder}: no config.json; write the folder with `distill quantize` first"
        )
    config = AutoConfig.from_pretrained(folder)
    if (getattr(config, "quantization_config", None) or {}).get(
        "quant_method"
    ) != "compressed-tensors":
        raise MissingError(
            f"{folder}: its config.json has no compressed-tensors quantization_config"
        )
    with (
        warnings.catch_warnings()
    ):  # that only the way of loading is taken from this config: it is all we want
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=config.dtype,
            device_map={"": device},
            use_safetensors=True,
            quantization_config=CompressedTensorsConfig(dequantize=True),
        )
    return model.eval()


def best_scales(weight_OC: Any, importance_C: Any | None, dtype: Any) -> Any:
    """Scale of each group of 32 inputs, float32 [O, C / 32], each exactly representable in `dtype`."""
    import torch

    groups_OGN = weight_OC.unflatten(1, (-1, GROUP))
    weight_of_GN = (
        torch.ones_like(groups_OGN[0])
        if importance_C is None
        else importance_C.unflatten(0, (-1, GROUP)).float()
    )
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
    """The linear layers to quantize, by name: all but the head."""
    import torch

    experts = [name for name, p in model.named_parameters() if p.ndim == 3]
    if experts:
        raise MismatchError(
            f"{folder}: w4a16 packs linear layers, but {experts[0]} holds experts; leave the format out"
        )
    head = model.get_output_embeddings()
    layers = {
        n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }
    for name, layer in layers.items():
        if layer.in_features % GROUP:
            raise MismatchError(
                f"{folder}: {name} has {layer.in_features} inputs; w4a16 needs multiples of {GROUP}. Use int8 or GGUF"
            )
    return layers


def _mean_squares(
    model: Any, layers: dict[str, Any], sequences: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Mean square of each input of each layer over all tokens, float64 [C] by name."""
    import torch

    sums: dict[str, Any] = {}
    hooks = []
    for name, layer in layers.items():

        def add(_module: Any, inputs: tuple[Any, ...], name: str = name) -> None:
            total_C = inputs[0].double().square().flatten(0, -2).sum(0)
            sums[name] = sums[name] + total_C if name in sums else total_C

        hooks.append(layer.register_forward_pre_hook(add))
    with torch.no_grad():
        for ids in sequences:  # one at a time: padding would be counted
            model.base_model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: total_C / sum(map(len, sequences)) for name, total_C in sums.items()}


def _package() -> Any:
    """What we use of compressed-tensors, under one name."""
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
