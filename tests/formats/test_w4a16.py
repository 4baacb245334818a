"""W4A16 folders: written by us in compressed-tensors' layout, read back by transformers; scales chosen by calibration."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.errors import MismatchError, MissingError
from distill.formats import w4a16

FolderMaker = Callable[..., Path]
IDS = torch.arange(40)[None] * 13 % 600
TEXTS = [(torch.arange(50) * step % 600).tolist() for step in (7, 11, 17)]


@torch.no_grad()
def log_probs(model: Any) -> torch.Tensor:
    return model(IDS).logits.float().log_softmax(-1)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def written(
    model_folder: FolderMaker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    pytest.importorskip("compressed_tensors", reason=w4a16.INSTALL)
    folder, out = model_folder("qwen3", trained=True), tmp_path_factory.mktemp("w4a16") / "out"
    assert w4a16.write_w4a16(folder, out, TEXTS) == (out / "model.safetensors").stat().st_size
    return folder, out


def test_ours_and_plain_transformers_load_the_same_model_near_the_source(
    written: tuple[Path, Path],
) -> None:
    folder, out = written
    found, exact = log_probs(w4a16.load_w4a16(out)), log_probs(load(folder))
    assert torch.equal(found, log_probs(load(out)))
    assert 0 < (exact.exp() * (exact - found)).sum(-1).mean() < 0.1


def test_a_layer_holds_codes_of_four_bits_and_a_scale_for_32(written: tuple[Path, Path]) -> None:
    folder, out = written
    stored, exact = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    packed, scale = stored[f"{name}.weight_packed"], stored[f"{name}.weight_scale"].float()
    weight = exact[f"{name}.weight"]
    assert (
        packed.dtype == torch.int32
        and packed.shape == (256, 512 // 8)
        and scale.shape == (256, 512 // 32)
    )
    codes = (
        torch.stack([(packed >> (4 * i)) & 15 for i in range(8)], -1).reshape(256, 512) - 8
    )  # lowest bits first
    values = (codes.unflatten(1, (-1, 32)) * scale[..., None]).flatten(1)
    assert ((values - weight).square().mean() / weight.square().mean()).sqrt() < 0.12
    assert (
        stored["model.embed_tokens.weight"].dtype == torch.bfloat16
        and f"{name}.weight" not in stored
    )
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scales_lose_least_where_the_inputs_are_large(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OC = torch.randn(16, 128, generator=generator)
    importance_C = torch.rand(128, generator=generator) ** 4

    def error(scale_OG: torch.Tensor, importance_C: torch.Tensor) -> float:
        scale_OC = scale_OG.repeat_interleave(32, 1)
        rounded_OC = (weight_OC / scale_OC).round().clamp(-8, 7) * scale_OC
        return float(((weight_OC - rounded_OC).square() * importance_C).sum())

    plain_OG = weight_OC.unflatten(1, (-1, 32)).abs().amax(-1) / 7.5
    even_OG = w4a16.best_scales(weight_OC, None, dtype)
    weighed_OG = w4a16.best_scales(weight_OC, importance_C, dtype)
    assert torch.equal(weighed_OG, weighed_OG.to(dtype).float())
    assert error(even_OG, torch.ones(128)) < 0.95 * error(plain_OG, torch.ones(128))
    assert error(weighed_OG, importance_C) < error(even_OG, importance_C)


def test_what_cannot_be_written_is_named(
    written: tuple[Path, Path], model_folder: FolderMaker, tmp_path: Path
) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder, out = written
    with pytest.raises(MissingError, match=r"no config\.json"):
        w4a16.write_w4a16(tmp_path, tmp_path / "out")
    with pytest.raises(MismatchError, match="is quantized already"):
        w4a16.write_w4a16(out, tmp_path / "out")
    with pytest.raises(
        MismatchError,
        match=r"layers\.0\.self_attn\.q_proj has 200 inputs; w4a16 needs multiples of 32",
    ):
        w4a16.write_w4a16(model_folder("qwen3", hidden_size=200), tmp_path / "out")
    with pytest.raises(MissingError, match="no compressed-tensors quantization_config"):
        w4a16.load_w4a16(folder)
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "vocab_size": 50,
    }
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).save_pretrained(tmp_path / "moe")
    with pytest.raises(MismatchError, match=r"layers\.0\.mlp\.experts\..* holds experts"):
        w4a16.write_w4a16(tmp_path / "moe", tmp_path / "out")


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(MissingError, match=r"pip install 'distill\[w4a16\]'"):
        w4a16.write_w4a16(tmp_path, tmp_path / "out")
