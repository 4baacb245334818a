"""How far a file is from the student: KL as the formula says, at the positions that were promised, alike in both runtimes."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from format_helpers import TEACHER
from result_helpers import file_check
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.conduct.gates import judged
from distill.data.samples import Sample
from distill.errors import MismatchError
from distill.formats import compare
from distill.formats.compare import TransformersModel
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.llama_cpp.process import LlamaProcess
from distill.llama_cpp.reference_rows import ReferenceRows
from distill.recipe.sections import Gates


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder("qwen3", trained=True)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def samples(tokenizer: Any, sentences: list[str]) -> list[Sample]:
    ids = [tokenizer(text).input_ids for text in sentences]
    return [
        Sample(str(n), str(n), "?", "en", None, "!", row[: 2 + n], row[2 + n :])
        for n, row in enumerate(ids)
    ]


def student(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def disturbed(folder: Path) -> Any:
    model = student(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def expected_kl(whole: Any, other: Any, samples: list[Sample], num_ids: int, every: int) -> float:
    """Over every `every`-th of all answer tokens, by the formula and one forward pass each."""
    rows = []
    for sample in samples:
        p, q = (
            m(torch.tensor([sample.ids]))
            .logits[0, len(sample.prompt_ids) - 1 : -1, :num_ids]
            .double()
            .log_softmax(-1)
            for m in (whole, other)
        )
        rows.append((p.exp() * (p - q)).sum(-1).detach())
    return float(torch.cat(rows)[::every].mean())


@pytest.mark.parametrize("every", [1, 4])
def test_kl_is_that_of_the_formula_at_evenly_taken_positions(
    folder: Path,
    tokenizer: Any,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
) -> None:
    num_tokens = sum(len(s.answer_ids) for s in samples)
    monkeypatch.setattr(compare, "REFERENCE_VALUES", -(-num_tokens // every) * len(tokenizer))
    model, other = student(folder), disturbed(folder)
    path = tmp_path / "whole.npy"
    reference = compare.refer_to(TransformersModel(model, tokenizer, 64), samples, path)
    found = compare.in_transformers(reference, TransformersModel(other, tokenizer, 512))
    assert reference.every == every
    assert (tmp_path / "whole.npy").stat().st_size <= 4 * compare.REFERENCE_VALUES + 128
    assert found.num_kl_tokens == -(-num_tokens // every) and found.num_tokens == num_tokens
    assert found.kl == pytest.approx(
        expected_kl(model, other, samples, len(tokenizer), every), abs=2e-5
    )
    assert found.kl > 0.01 and found.top_token_agreement < 1 and found.nll_change > 0
    itself = compare.in_transformers(reference, TransformersModel(model, tokenizer, 512))
    assert itself.kl < 1e-6 and itself.top_token_agreement == 1 and abs(itself.nll_change) < 1e-5


def test_llama_cpp_and_transformers_find_the_same(
    folder: Path,
    tokenizer: Any,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare, "REFERENCE_VALUES", 60 * len(tokenizer))
    model = TransformersModel(student(folder), tokenizer, 512)
    reference = compare.refer_to(model, samples, tmp_path / "whole.npy")
    assert reference.every > 1
    other = disturbed(folder)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    write_gguf(tmp_path / "other", tmp_path / "other.gguf", "f32")
    with LlamaProcess(tmp_path / "other.gguf", num_threads=1, context_length=256) as llama:
        found = compare.in_llama_cpp(reference, llama)
    expected = compare.in_transformers(reference, TransformersModel(other, tokenizer, 512))
    assert found.num_kl_tokens == expected.num_kl_tokens <= 60
    assert found.kl == pytest.approx(expected.kl, rel=1e-3)
    assert found.nll == pytest.approx(expected.nll, abs=1e-4)


def bilingual_samples(tokenizer: Any, num: int) -> list[Sample]:
    """The quickstart's problems in English and Chinese, each scored after its first words."""
    found = []
    for language in ("en", "zh"):
        lines = (TEACHER.parent / "eval.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["language"] == language][:num]
        for row in rows:
            ids = tokenizer(row["prompt"]).input_ids
            key = str(len(found))
            found.append(Sample(key, key, "?", language, None, "!", ids[:8], ids[8:]))
    return found


def deaf_to_chinese(tokenizer: Any, samples: list[Sample], path: Path) -> None:
    """Write the quickstart's teacher as q8_0, and take from the file what it knows of Chinese tokens."""
    write_gguf(TEACHER, path, "q8_0")
    tokens = {
        language: {i for s in samples if s.language == language for i in s.ids}
        for language in ("en", "zh")
    }
    (table,) = [t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "token_embd.weight"]
    for token in tokens["zh"] - tokens["en"]:
        table.data[token] = 0  # the scales of its blocks, too: all its weights are zero


def test_a_file_made_worse_in_one_language_passes_on_average_and_fails_there(
    tmp_path: Path,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    samples = bilingual_samples(tokenizer, 40)
    samples = [s for s in samples if s.language == "en"] + samples[-4:]
    model = TransformersModel(student(TEACHER), tokenizer, 2048)
    reference = compare.refer_to(model, samples, tmp_path / "whole.npy")
    deaf_to_chinese(tokenizer, samples, tmp_path / "q8_0.gguf")
    with LlamaProcess(tmp_path / "q8_0.gguf", num_threads=1, context_length=512) as llama:
        found = compare.in_llama_cpp(reference, llama)
    check = file_check(**(asdict(found) | {"by_language": found.by_language}))
    english, chinese = found.by_language["en"], found.by_language["zh"]
    assert english.kl is not None and chinese.kl is not None
    assert english.num_tokens + chinese.num_tokens == found.num_tokens
    limit = 2 * found.kl
    assert english.kl < found.kl < limit < chinese.kl
    failed = judged(Gates(max_kl=limit), {"q8_0": check}, []).failed["q8_0"]
    assert failed.startswith("in zh ") and "in en" not in failed and "in all" not in failed
    share = found.top_token_agreement
    failed = judged(Gates(min_top_token_share=share), {"q8_0": check}, []).failed["q8_0"]
    assert failed.startswith("in zh ") and "in en" not in failed


def test_distributions_of_another_tokenizer_are_refused(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "student.gguf", "f16")
    np.save(tmp_path / "whole.npy", np.zeros((2, 7), np.float32))
    with (
        LlamaModel(tmp_path / "student.gguf", num_threads=1, context_length=64) as llama,
        pytest.raises(MismatchError, match=r"has \d+ ids with a text, .*whole.npy 7"),
    ):
        llama.score([5, 6, 7, 8], 1, ReferenceRows(tmp_path / "whole.npy", 0, [0, 2]))
