"""bitsandbytes folders come back as they were written, whoever loads them; widths that break on CPUs are refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16

from distill.errors import MismatchError, MissingError
from distill.formats import bitsandbytes
from distill.models.load import keep_unpacked, quantization_config

FolderMaker = Callable[..., Path]
IDS = torch.arange(40)[None] * 13 % 600
LARGEST_CHANGE = 1e-4  # of a log-prob, between the model that was saved and the folder loaded back


@torch.no_grad()
def log_probs(model: Any) -> torch.Tensor:
    return model(IDS).logits.float().log_softmax(-1)


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


@pytest.fixture(scope="module", params=["nf4", "int8"])
def written(
    request: Any, model_folder: FolderMaker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    folder, out = (
        model_folder("qwen3", trained=True),
        tmp_path_factory.mktemp("bnb") / request.param,
    )
    num_bytes = bitsandbytes.write_bnb(folder, out, request.param)
    assert num_bytes == (out / "model.safetensors").stat().st_size
    return request.param, folder, out


def test_reloaded_logits_are_those_before_saving(written: tuple[str, Path, Path]) -> None:
    kind, folder, out = written
    saved = load(
        folder,
        quantization_config=quantization_config(kind, torch.bfloat16),
        device_map={"": "cpu"},
    )
    keep_unpacked(saved)
    assert (log_probs(bitsandbytes.load_bnb(out)) - log_probs(saved)).abs().max() <= LARGEST_CHANGE


def test_plain_from_pretrained_gives_the_same_logits(written: tuple[str, Path, Path]) -> None:
    kind, _, out = written
    expected, found = log_probs(bitsandbytes.load_bnb(out)), log_probs(load(out))
    if (
        kind == "nf4" and has_avx512bf16()
    ):  # repacked at the first forward, scales rounded to bfloat16
        assert (expected.exp() * (expected - found)).sum(-1).mean() <= 1e-3
    else:
        assert (found - expected).abs().max() <= LARGEST_CHANGE


def test_quantized_predictions_are_near_the_source(written: tuple[str, Path, Path]) -> None:
    kind, folder, out = written
    exact, found = log_probs(load(folder)), log_probs(bitsandbytes.load_bnb(out))
    divergence = (exact.exp() * (exact - found)).sum(-1).mean()
    assert 0 < divergence < {"nf4": 0.1, "int8": 0.01}[kind]


def test_linear_layers_shrink_and_the_tied_embedding_stays(written: tuple[str, Path, Path]) -> None:
    kind, folder, out = written
    model = bitsandbytes.load_bnb(out)
    layer, embedding = model.model.layers[0].mlp.up_proj, model.get_input_embeddings()
    assert layer.weight.dtype == {"nf4": torch.uint8, "int8": torch.int8}[kind]
    assert layer.weight.numel() == 256 * 512 // {"nf4": 2, "int8": 1}[kind]
    assert (
        model.get_output_embeddings().weight is embedding.weight
        and embedding.weight.dtype == torch.bfloat16
    )
    assert torch.equal(embedding.weight, load(folder).get_input_embeddings().weight)
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_repacking_is_off(written: tuple[str, Path, Path]) -> None:
    flags = [
        getattr(m, "support_avx512bf16_for_cpu", False)
        for m in bitsandbytes.load_bnb(written[2]).modules()
    ]
    assert not any(flags)


def test_an_untied_head_stays_16_bit(model_folder: FolderMaker, tmp_path: Path) -> None:
    folder = model_folder("llama", trained=True, tie_word_embeddings=False)
    bitsandbytes.write_bnb(folder, tmp_path / "nf4", "nf4")
    head = bitsandbytes.load_bnb(tmp_path / "nf4").get_output_embeddings().weight
    assert torch.equal(head, load(folder).get_output_embeddings().weight)


@pytest.mark.parametrize(
    ("num_inputs", "num_outputs", "fits"),
    [(256, 512, True), (224, 512, False), (800, 256, False), (256, 40, False)],
)
def test_refused_widths_are_those_that_the_packed_form_cannot_hold(
    num_inputs: int, num_outputs: int, fits: bool
) -> None:
    """bitsandbytes' own repacking, which runs at the first forward on CPUs with AVX512-bf16."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu, quantize_4bit

    packed, state = quantize_4bit(
        torch.randn(num_outputs, num_inputs), compress_statistics=True, quant_type="nf4"
    )
    assert fits == (
        num_inputs % bitsandbytes.BLOCK == 0 and num_outputs % bitsandbytes.PACKED_ROWS == 0
    )
    if fits:
        _convert_weight_packed_for_cpu(packed, state)
    else:
        with pytest.raises((RuntimeError, AssertionError)):
            _convert_weight_packed_for_cpu(packed, state)


def test_odd_widths_are_refused_for_nf4_with_the_reason(
    model_folder: FolderMaker, tmp_path: Path
) -> None:
    with pytest.raises(
        MismatchError, match=r"self_attn.q_proj is 224 -> 256; nf4 needs inputs in multiples of 64"
    ):
        bitsandbytes.write_bnb(model_folder("qwen3", hidden_size=224), tmp_path / "nf4", "nf4")


def test_folders_that_cannot_be_quantized_or_loaded_are_named(
    written: tuple[str, Path, Path], tmp_path: Path
) -> None:
    _, folder, out = written
    with pytest.raises(MissingError, match=r"no config\.json"):
        bitsandbytes.write_bnb(tmp_path, tmp_path / "out", "nf4")
    with pytest.raises(MismatchError, match="is quantized already"):
        bitsandbytes.write_bnb(out, tmp_path / "out", "nf4")
    with pytest.raises(MismatchError, match="'int4' is not a bitsandbytes format"):
        bitsandbytes.write_bnb(folder, tmp_path / "out", "int4")
    with pytest.raises(MissingError, match="no quantization_config"):
        bitsandbytes.load_bnb(folder)
