"""A byte-level BPE `tokenizer.json` as GGUF's vocabulary keys.

llama.cpp does not read the tokenizer's split pattern; it has its own code for each pattern that it knows, chosen by
name. So the name is decided from the pattern itself, and a tokenizer that llama.cpp would run differently is refused.
One difference remains: llama.cpp does not normalise, so text that is not NFC is tokenized as it stands.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from distill.errors import MismatchError, MissingError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# split pattern -> (llama.cpp's name, whether it takes a whole word that is in the vocabulary before any merge)
PRE_TOKENIZERS = {
    _CONTRACTIONS + r"\p{N}" + _REST: ("qwen2", False),
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: ("llama-bpe", True),
}


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF stores of a tokenizer. `tokens` has one entry for each row of the embedding."""

    pre_tokenizer: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_vocabulary(folder: Path, num_ids: int) -> Vocabulary:
    """The vocabulary of a model folder whose embedding has `num_ids` rows.

    Raises MissingError (no tokenizer.json) and MismatchError (a tokenizer that llama.cpp would run differently, or
    with more tokens than rows).
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; save the model's fast tokenizer there")
    content = json.loads(path.read_text(encoding="utf-8"))
    model, added = content["model"], content.get("added_tokens") or []
    name = _pre_tokenizer(path, content)
    _check_added(path, added)
    tokens, types = _tokens(path, model["vocab"], added, num_ids)
    ids = {token: i for i, token in enumerate(tokens)}
    special_ids = _special_ids(folder, ids)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    add_bos, add_eos = _adds(path, special_ids)
    return Vocabulary(name, tokens, types, merges, special_ids, add_bos, add_eos, _chat_template(folder))


def _pre_tokenizer(path: Path, content: dict[str, Any]) -> str:
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
        raise MismatchError(f"{path}: a {model.get('type')} model; only byte-level BPE can be written to GGUF")
    for part in _parts(content.get("normalizer"), "normalizers"):
        if part["type"] != "NFC":
            raise MismatchError(f"{path}: normalizer {part['type']} is not in llama.cpp; only NFC or none can be")
    parts = _parts(content.get("pre_tokenizer"), "pretokenizers")
    kinds = [p["type"] for p in parts]
    byte_level = parts[-1] if kinds == ["Split", "ByteLevel"] else {}
    pattern = parts[0]["pattern"].get("Regex") if byte_level else None
    plain = byte_level.get("use_regex") is False and byte_level.get("add_prefix_space") is False
    if not plain or parts[0]["behavior"] != "Isolated" or parts[0]["invert"] or pattern not in PRE_TOKENIZERS:
        known = ", ".join(name for name, _ in PRE_TOKENIZERS.values())
        raise MismatchError(
            f"{path}: split pattern {pattern or kinds!r} is not one of those known here ({known}); llama.cpp would "
            "tokenize differently. Take a student with a Qwen or Llama-3 tokenizer, or the formats nf4 and int8"
        )
    name, ignore_merges = PRE_TOKENIZERS[pattern]
    if bool(model.get("ignore_merges")) != ignore_merges:
        raise MismatchError(
            f"{path}: ignore_merges is {model.get('ignore_merges')} but llama.cpp's {name} works with {ignore_merges}; "
            "it would tokenize differently"
        )
    return name


def _parts(value: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    return value[key] if value["type"] == "Sequence" else [value]


def _check_added(path: Path, added: list[dict[str, Any]]) -> None:
    for token in added:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
        if odd:
            raise MismatchError(f"{path}: added token {token['content']!r} has {odd[0]}, which GGUF cannot say")


def _tokens(
    path: Path, vocab: dict[str, int], added: list[dict[str, Any]], num_ids: int
) -> tuple[list[str], list[int]]:
    """Texts and types by id; an id that no token has becomes `[PAD id]`, which is never matched."""
    by_id = {i: (token, TokenType.NORMAL) for token, i in vocab.items()}
    for token in added:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        by_id[token["id"]] = (token["content"], kind)
    if max(by_id) >= num_ids:
        raise MismatchError(
            f"{path}: token {by_id[max(by_id)][0]!r} has id {max(by_id)}, but the model has only {num_ids} embedding "
            "rows; the folder mixes two models"
        )
    missing = 256 - sum(token in vocab for token in _byte_tokens())
    if missing:
        raise MismatchError(f"{path}: {missing} of the 256 byte tokens are missing; llama.cpp cannot spell every text")
    pairs = [by_id.get(i, (f"[PAD {i}]", TokenType.UNUSED)) for i in range(num_ids)]
    tokens = [token for token, _ in pairs]
    if len(set(tokens)) < len(tokens):
        twice = next(t for n, t in enumerate(tokens) if t in tokens[:n])
        raise MismatchError(f"{path}: the token {twice!r} has two ids; llama.cpp refuses such a file")
    return tokens, [int(kind) for _, kind in pairs]


def _byte_tokens() -> list[str]:
    """The 256 characters by which byte-level BPE writes bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _special_ids(folder: Path, ids: dict[str, int]) -> dict[str, int]:
    """bos, eos, pad by the tokenizer, else by the model; a second end token of the model becomes eot."""
    tokenizer_config = _json(folder / "tokenizer_config.json")
    model_config = {**_json(folder / "config.json"), **_json(folder / "generation_config.json")}
    ends = model_config.get("eos_token_id")
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    found = {}
    for name in ("bos", "eos", "pad"):
        text = tokenizer_config.get(f"{name}_token")
        text = text["content"] if isinstance(text, dict) else text
        number = ids.get(text) if text else model_config.get(f"{name}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if number is not None and 0 <= number < len(ids):
            found[name] = number
    others = [i for i in ends if i != found.get("eos") and i < len(ids)]
    if others:
        found["eot"] = others[0]
    return found


def _adds(path: Path, special_ids: dict[str, int]) -> tuple[bool, bool]:
    """Whether the tokenizer puts bos before, or eos after, a plain text: asked of the tokenizer itself."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for add_bos in (False, True):
        for add_eos in (False, True):
            before = [special_ids.get("bos")] if add_bos else []
            after = [special_ids.get("eos")] if add_eos else []
            if whole == before + bare + after:
                return add_bos, add_eos
    raise MismatchError(f"{path}: makes {bare} into {whole}; only bos before and eos after can be written to GGUF")


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t["name"] == "default"), None)
    return template


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
