"""Qwen2.5's two paddings: a teacher of 152,064 logits, a student of 151,936, one real tokenizer of 151,669 ids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QWEN_BUILDER

from distill import chat
from distill.formats.gguf.vocabulary import read_vocabulary
from distill.losses.linear_head import linear_head_loss
from distill.models.head import Head
from distill.signals.collate import targets
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of

TEACHER_ROWS, STUDENT_ROWS, WIDTH = 152_064, 151_936, 8


@pytest.fixture(scope="module")
def tokenizer(qwen_tokenizer):
    if qwen_tokenizer is None:
        pytest.skip(f"{QWEN_BUILDER} is not here: it builds the real Qwen tokenizer")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(qwen_tokenizer)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
def test_two_paddings_of_one_tokenizer_meet_at_its_real_ids(tokenizer, tmp_path, kind):
    num_ids = len(tokenizer)
    assert num_ids == 151_669 and chat.same_tokenizer(tokenizer, tokenizer) is None
    text = "Habari ya asubuhi! 你好 <|im_end|>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text and tokenizer.convert_tokens_to_ids("<|im_end|>") in ids
    generator = torch.Generator().manual_seed(1)
    heads = [torch.randn(rows, WIDTH, generator=generator) for rows in (TEACHER_ROWS, STUDENT_ROWS)]
    hidden_NH, student_NH = (torch.randn(len(ids), WIDTH, generator=generator) for _ in range(2))
    for head in heads:
        head[num_ids:] *= 100  # phantom logits that would win everywhere

    said, losses, gradients = [], [], []
    for name, rows in (("padded", None), ("cut", num_ids)):
        teacher, student = (head[:rows].clone() for head in heads)
        header = SignalHeader(
            kind,
            num_ids,
            **{"sampled": {"num_draws": 50}, "top_k": {"top_k": 8}, "dense": {}}[kind],
        )
        key = sequence_key(ids, 0)
        with SignalWriter(tmp_path / name, header) as writer:
            for record in records_of(header, Head(teacher), [hidden_NH], [ids], [key]):
                writer.add(key, record)
        said.append(SignalStore(tmp_path / name, header).read(key))
        student.requires_grad_()
        loss, _ = linear_head_loss(
            student_NH,
            Head(student),
            torch.tensor(ids),
            targets(said[-1:], "cpu"),
            soft_weight=0.7,
            hard_weight=0.4,
            vocab_size=num_ids,
        )
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(gradients[0][:num_ids], gradients[1], rtol=1e-4, atol=1e-6)
    assert (gradients[0][num_ids:] == 0).all() and gradients[1].abs().max() > 0.1


CONVERTER = Path(os.environ.get("DISTILL_CONVERTER") or f"{sys.prefix}/converter")
HASHED = """
import sys
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from conversion.base import TextModel
from transformers import AutoTokenizer
print(TextModel.get_vocab_base_pre(SimpleNamespace(), AutoTokenizer.from_pretrained(sys.argv[2])))
"""


def test_gguf_has_the_name_that_llama_cpps_converter_knows_the_tokenizer_by(tokenizer):
    """By its hash of what the real tokenizer makes of a text."""
    if not (CONVERTER / "conversion").is_dir():
        pytest.skip(f"{CONVERTER} does not hold llama.cpp's converter: run scripts/setup test")
    folder = tokenizer.name_or_path
    command = [sys.executable, "-c", HASHED, str(CONVERTER), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        done.stdout.split()[-1]
        == read_vocabulary(Path(folder), STUDENT_ROWS).pre_tokenizer
        == "qwen2"
    )
