"""A tokenizer in GGUF's terms, and the tokenizers that are refused because llama.cpp would run them differently."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from distill.errors import MismatchError, MissingError
from distill.formats.gguf.vocabulary import read_vocabulary

ROWS = 640


@pytest.fixture
def editable(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a Qwen-like folder's small files."""
    for path in model_folder("qwen3", trained=True).iterdir():
        if path.suffix != ".safetensors":
            shutil.copy2(path, tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_row_has_a_token_and_a_type(editable: Path) -> None:
    vocabulary = read_vocabulary(editable, ROWS)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert len(vocabulary.tokens) == ROWS == len(kinds)
    assert kinds["<|im_end|>"] == TokenType.CONTROL
    assert kinds["<think>"] == TokenType.USER_DEFINED
    assert kinds["Ġ"] == TokenType.NORMAL
    assert vocabulary.tokens[-1] == f"[PAD {ROWS - 1}]" and vocabulary.types[-1] == TokenType.UNUSED


def test_special_ids_come_from_tokenizer_and_model(editable: Path) -> None:
    vocabulary = read_vocabulary(editable, ROWS)
    named = {name: vocabulary.tokens[i] for name, i in vocabulary.special_ids.items()}
    assert named == {"eos": "<|im_end|>", "pad": "<|endoftext|>", "eot": "<|endoftext|>"}
    assert not vocabulary.add_bos and not vocabulary.add_eos


@pytest.mark.parametrize("tokenizer_adds", [False, True])
@pytest.mark.parametrize("bos", ["<|im_start|>", "<|endoftext|>"])
def test_a_bos_is_added_where_a_conversation_begins_with_it(
    editable: Path, bos: str, tokenizer_adds: bool
) -> None:
    """The template begins with <|im_start|>; what the tokenizer adds to plain text does not count."""
    ids = dict(zip(read_vocabulary(editable, ROWS).tokens, range(ROWS), strict=True))
    edit(editable / "tokenizer_config.json", lambda c: c.update(bos_token=bos))
    if tokenizer_adds:
        special = {"SpecialToken": {"id": bos, "type_id": 0}}
        processor = {
            "type": "TemplateProcessing",
            "pair": [],
            "single": [special, {"Sequence": {"id": "A", "type_id": 0}}, special],
            "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}},
        }
        edit(editable / "tokenizer.json", lambda c: c.update(post_processor=processor))
    vocabulary = read_vocabulary(editable, ROWS)
    assert vocabulary.add_bos == (bos == "<|im_start|>") and not vocabulary.add_eos
    assert vocabulary.tokens[vocabulary.special_ids["bos"]] == bos


def test_the_pattern_decides_the_name(model_folder: Callable[..., Path]) -> None:
    assert read_vocabulary(model_folder("qwen3", trained=True), ROWS).pre_tokenizer == "qwen2"
    assert read_vocabulary(model_folder("llama", trained=True), ROWS).pre_tokenizer == "llama-bpe"


def split(content: dict[str, Any]) -> dict[str, Any]:
    return content["pre_tokenizer"]["pretokenizers"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: split(c)["pattern"].update(Regex=r"\w+"),
            "split pattern '\\\\\\\\w\\+' is not one of those known",
        ),
        (
            lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
            "split pattern \\['Whitespace'\\] is not one",
        ),
        (lambda c: split(c).update(behavior="Removed"), "is not one of those known"),
        (lambda c: c.update(normalizer={"type": "NFKC"}), "normalizer NFKC is not in llama.cpp"),
        (
            lambda c: c["model"].update(ignore_merges=True),
            "ignore_merges is True but llama.cpp's qwen2",
        ),
        (
            lambda c: c["model"].update(byte_fallback=True),
            "SentencePiece tokenizer with NFC, Split, ByteLevel before",
        ),
        (lambda c: c["model"].update(type="Unigram"), "a Unigram model; only BPE"),
        (
            lambda c: c["model"]["vocab"].pop(
                max(c["model"]["vocab"], key=c["model"]["vocab"].get)
            ),
            r"no token has id \d+ \(1 such\)",
        ),
        (
            lambda c: c["added_tokens"][0].update(lstrip=True),
            "'<|endoftext|>' has lstrip".replace("|", "\\|"),
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_run_differently_is_refused(
    editable: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(editable / "tokenizer.json", change)
    with pytest.raises(MismatchError, match=message):
        read_vocabulary(editable, ROWS)


@pytest.fixture
def sentencepiece(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    for path in model_folder("ernie").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy2(path, tmp_path)
    return tmp_path


def test_sentencepiece_scores_follow_the_merges(sentencepiece: Path) -> None:
    vocabulary = read_vocabulary(sentencepiece, ROWS)
    merges = json.loads((sentencepiece / "tokenizer.json").read_text())["model"]["merges"]
    score = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    made = list(dict.fromkeys(left + right for left, right in merges))
    assert vocabulary.model == "llama" and not vocabulary.merges and len(vocabulary.scores) == ROWS
    assert sorted(made, key=lambda token: -score[token]) == made
    assert score["<|im_end|>"] < score[made[-1]]  # what a special token spells is joined last
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert kinds["<0x0A>"] == TokenType.BYTE and kinds["<|im_end|>"] == TokenType.CONTROL
    assert vocabulary.tokens[vocabulary.special_ids["unk"]] == "<unk>"


def test_a_sentencepiece_vocabulary_lacks_no_byte_that_a_text_holds(sentencepiece: Path) -> None:
    def rename(byte: int) -> None:
        def change(content: dict[str, Any]) -> None:
            vocab = content["model"]["vocab"]
            vocab[f"<none {byte}>"] = vocab.pop(f"<0x{byte:02X}>")

        edit(sentencepiece / "tokenizer.json", change)

    rename(0xC0)
    assert len(read_vocabulary(sentencepiece, ROWS).tokens) == ROWS
    rename(0x04)
    with pytest.raises(MismatchError, match=r"no token for 0x04, .* Take the formats nf4 and int8"):
        read_vocabulary(sentencepiece, ROWS)


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "prefix"),
    [
        (REPLACE, None, False),
        (None, METASPACE, False),
        (
            {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]},
            None,
            True,
        ),
        (None, METASPACE | {"prepend_scheme": "first"}, None),
        ({"type": "Sequence", "normalizers": [{"type": "NFKC"}, REPLACE]}, None, None),
    ],
)
def test_what_sentencepiece_does_with_spaces_is_said_or_refused(
    sentencepiece: Path, normalizer: Any, pre_tokenizer: Any, prefix: bool | None
) -> None:
    edit(
        sentencepiece / "tokenizer.json",
        lambda c: c.update(normalizer=normalizer, pre_tokenizer=pre_tokenizer),
    )
    if prefix is None:
        with pytest.raises(MismatchError, match="only writes spaces as ▁"):
            read_vocabulary(sentencepiece, ROWS)
    else:
        assert read_vocabulary(sentencepiece, ROWS).add_space_prefix is prefix


def test_more_tokens_than_rows_is_refused(editable: Path) -> None:
    with pytest.raises(MismatchError, match="the model has only 300 embedding rows"):
        read_vocabulary(editable, 300)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"tokenizer\.json: no such file"):
        read_vocabulary(tmp_path, ROWS)
