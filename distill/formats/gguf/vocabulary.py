"""A BPE `tokenizer.json` as GGUF's vocabulary keys.

Byte-level (Qwen, Llama 3, ...) or from SentencePiece (ERNIE, Llama 2). llama.cpp does not read a
byte-level tokenizer's split patterns; it has its own code for each that it knows, chosen by name.
So the name is decided from the patterns, and a tokenizer that llama.cpp would run differently is
refused. Two differences remain: llama.cpp does not normalise, so text that is not NFC is tokenized
as it stands; and its tables of letters and digits end before Unicode 16, so it may split a word in
a script that was added in 2024 or later elsewhere.

A SentencePiece vocabulary has no patterns and no merges in GGUF, but a score for each token:
llama.cpp joins the pair of neighbours whose union scores best. The scores here are the ranks of the
merges, so that both join in one order.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import TokenType

from distill import chat
from distill.errors import MismatchError, MissingError
from distill.formats.gguf.byte_tokens import lack, missing_bytes
from distill.formats.gguf.chat_template import begins_with_bos
from distill.models import load
from distill.text.byte_tokens import SPACE, byte_level_tokens, sentencepiece_tokens

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WITH_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Left out, though llama.cpp has names for them: gpt-4o (gpt-oss, MiniMax M2) and kimi-k2; it cuts
# Indic words at vowel signs. llama.cpp's name -> (split patterns, in turn; whether it takes a whole
# word that is in the vocabulary before any merge)
PRE_TOKENIZERS = {
    "qwen2": ((_CONTRACTIONS + r"\p{N}" + _REST,), False),
    "llama-bpe": ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), True),
    "glm4": ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), False),
    "qwen35": ((_WITH_MARKS,), False),
    "minicpm5": ((r"\p{N}{1,3}", _CONTRACTIONS + r"\p{N}+" + _REST), True),
    "smollm": ((r"\p{N}", GPT2), False),
    "deepseek-v3": ((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK_V3), False),
}


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF stores of a tokenizer. `tokens` has one entry for each row of the embedding.

    `model` is GGUF's word: gpt2 = byte-level BPE, with `merges`; llama = SentencePiece, with
    `scores`, one for each token. `add_bos`, `add_eos`: what goes around a conversation that the
    chat template has written.
    """

    model: str
    pre_tokenizer: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None


def read_vocabulary(folder: Path, num_ids: int) -> Vocabulary:
    """Return the vocabulary of a model folder whose embedding has `num_ids` rows.

    Raises MissingError (no tokenizer.json) and MismatchError (a tokenizer that llama.cpp would run
    differently, or with more tokens than rows).
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; save the model's fast tokenizer there")
    content = json.loads(path.read_text(encoding="utf-8"))
    model, added = content["model"], content.get("added_tokens") or []
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix"):
        raise MismatchError(f"{path}: a {model.get('type')} model; only BPE can be written to GGUF")
    is_sentencepiece = bool(model.get("byte_fallback"))
    name = "default" if is_sentencepiece else _pre_tokenizer(path, content)
    space_prefix = is_sentencepiece and _adds_space_prefix(path, content)
    _check_added(path, added)
    byte_tokens = sentencepiece_tokens() if is_sentencepiece else byte_level_tokens()
    missing = missing_bytes(model["vocab"], byte_tokens)
    if is_sentencepiece and missing:
        raise MismatchError(
            f"{path}: {lack(missing)}; llama.cpp cannot read a text with one of them in a "
            "SentencePiece vocabulary. Take the formats nf4 and int8"
        )
    tokens, types = _tokens(path, model["vocab"], added, num_ids)
    ids = {token: i for i, token in enumerate(tokens)}
    special_ids = _special_ids(folder, ids)
    template = _chat_template(folder)
    if template is None:
        add_bos, add_eos = _adds(path, special_ids)
    else:
        # A server adds them to what the template has written; so that decides, not what the
        # tokenizer adds to a plain text
        add_bos, add_eos = begins_with_bos(load.load_tokenizer(str(folder))), False
    vocabulary = Vocabulary(
        model="gpt2",
        pre_tokenizer=name,
        tokens=tokens,
        types=types,
        merges=[m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        scores=[],
        special_ids=special_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=space_prefix,
        chat_template=template,
    )
    return _sentencepiece(vocabulary, model, byte_tokens) if is_sentencepiece else vocabulary


def absent_bytes(folder: Path) -> list[int]:
    """Return the bytes of a text that a folder's byte-level tokenizer has no token for."""
    model = _json(folder / "tokenizer.json")["model"]
    if model.get("byte_fallback"):
        return []  # `read_vocabulary` refuses a SentencePiece vocabulary that lacks one
    return missing_bytes(model["vocab"], byte_level_tokens())


def _sentencepiece(
    vocabulary: Vocabulary, model: dict[str, Any], byte_tokens: list[str]
) -> Vocabulary:
    """Return the vocabulary as GGUF stores one from SentencePiece, with scores for merges."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    types = list(vocabulary.types)
    for token in byte_tokens:
        if token in ids:
            types[ids[token]] = int(TokenType.BYTE)
    special_ids = dict(vocabulary.special_ids)
    if model.get("unk_token") in ids:
        special_ids["unk"] = ids[model["unk_token"]]
    return replace(
        vocabulary,
        model="llama",
        types=types,
        merges=[],
        scores=_scores(vocabulary.tokens, types, model["merges"]),
        special_ids=special_ids,
    )


def _adds_space_prefix(path: Path, content: dict[str, Any]) -> bool:
    """Return whether a SentencePiece tokenizer puts a space before a text.

    Raises MismatchError if it does more than write spaces as ▁.
    """
    normalizers = _parts(content.get("normalizer"), "normalizers")
    splits = _parts(content.get("pre_tokenizer"), "pretokenizers")
    prefix = {"type": "Prepend", "prepend": SPACE}
    to_space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "never",
        "split": False,
    }
    if (normalizers == [to_space] and not splits) or (not normalizers and splits == [metaspace]):
        return False
    if normalizers == [prefix, to_space] and not splits:
        return True
    steps = [step["type"] for step in normalizers + splits]
    raise MismatchError(
        f"{path}: a SentencePiece tokenizer with {', '.join(steps) or 'no step'} before its "
        "merges; llama.cpp only writes spaces as ▁, with or without one before the text, and "
        "would tokenize differently. Take the formats nf4 and int8"
    )


def _scores(tokens: list[str], types: list[int], merges: list[Any]) -> list[float]:
    """Return the score of each id: minus the rank of the first merge that makes the token.

    Special tokens come after all merges.
    """
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault(left + right, number)
    joined = (TokenType.NORMAL, TokenType.BYTE)
    return [
        -float(rank.get(t, 0) if kind in joined else len(merges))
        for t, kind in zip(tokens, types, strict=True)
    ]


def _pre_tokenizer(path: Path, content: dict[str, Any]) -> str:
    """Return llama.cpp's name for the split patterns. Raises MismatchError if it has none."""
    model = content["model"]
    for part in _parts(content.get("normalizer"), "normalizers"):
        if part["type"] != "NFC":
            raise MismatchError(
                f"{path}: normalizer {part['type']} is not in llama.cpp; only NFC or none can be"
            )
    parts = _parts(content.get("pre_tokenizer"), "pretokenizers")
    patterns = tuple(_pattern(part) for part in parts)
    if patterns and patterns[-1] == "":  # ByteLevel that only writes bytes
        patterns = patterns[:-1]
    names = {ignore: name for name, (known, ignore) in PRE_TOKENIZERS.items() if known == patterns}
    if not names or parts[-1]["type"] != "ByteLevel":
        pattern: Any = [part["type"] for part in parts]
        if len(patterns) == 1 and patterns[0]:
            pattern = patterns[0]
        raise MismatchError(
            f"{path}: split pattern {pattern!r} is not one of those known here "
            f"({', '.join(PRE_TOKENIZERS)}); llama.cpp would tokenize differently. Take a student "
            "with a Qwen or Llama-3 tokenizer, or the formats nf4 and int8"
        )
    ignore_merges = bool(model.get("ignore_merges"))
    if ignore_merges not in names:
        raise MismatchError(
            f"{path}: ignore_merges is {ignore_merges} but llama.cpp's {', '.join(names.values())} "
            f"works with {not ignore_merges}; it would tokenize differently"
        )
    return names[ignore_merges]


def _pattern(part: dict[str, Any]) -> str | None:
    """Return the regular expression by which a step splits a text, each match a part of its own.

    "" = it does not split; None = it does something else.
    """
    match part:
        case {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }:
            # DeepSeek's has the characters themselves
            return pattern.replace("\r", r"\r").replace("\n", r"\n")
        case {"type": "Digits", "individual_digits": True}:
            return r"\p{N}"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return GPT2 if use_regex else ""
    return None


def _parts(value: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    return value[key] if value["type"] == "Sequence" else [value]


def _check_added(path: Path, added: list[dict[str, Any]]) -> None:
    for token in added:
        flags = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
        if flags:
            raise MismatchError(
                f"{path}: added token {token['content']!r} has {flags[0]}, which GGUF cannot say"
            )


def _tokens(
    path: Path, vocab: dict[str, int], added: list[dict[str, Any]], num_ids: int
) -> tuple[list[str], list[int]]:
    """Return texts and types by id.

    An id that no token has becomes `[PAD id]`, which is never matched. Raises MismatchError for ids
    beyond the embedding, holes between ids, and tokens with two ids.
    """
    by_id = {i: (token, TokenType.NORMAL) for token, i in vocab.items()}
    for token in added:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        by_id[token["id"]] = (token["content"], kind)
    if max(by_id) >= num_ids:
        raise MismatchError(
            f"{path}: token {by_id[max(by_id)][0]!r} has id {max(by_id)}, but the model has only "
            f"{num_ids} embedding rows; the folder mixes two models"
        )
    if holes := [i for i in range(max(by_id)) if i not in by_id]:
        raise MismatchError(
            f"{path}: no token has id {holes[0]} ({len(holes)} such), though "
            f"{by_id[max(by_id)][0]!r} has {max(by_id)}; a file's ids are compared with the "
            "tokenizer's one by one. Add tokens for them, or take the formats nf4 and int8"
        )
    pairs = [by_id.get(i, (f"[PAD {i}]", TokenType.UNUSED)) for i in range(num_ids)]
    tokens = [token for token, _ in pairs]
    if len(set(tokens)) < len(tokens):
        twice = next(t for n, t in enumerate(tokens) if t in tokens[:n])
        raise MismatchError(
            f"{path}: the token {twice!r} has two ids; llama.cpp refuses such a file"
        )
    return tokens, [int(kind) for _, kind in pairs]


def _special_ids(folder: Path, ids: dict[str, int]) -> dict[str, int]:
    """Return the ids of GGUF's special tokens.

    bos, eos, pad by the tokenizer, else by the model; what else ends an answer is eot and eom:
    first what the chat template writes after one, then what the model names.
    """
    tokenizer_config = _json(folder / "tokenizer_config.json")
    model_config = {**_json(folder / "config.json"), **_json(folder / "generation_config.json")}
    special_ids: dict[str, int] = {}
    for name in ("bos", "eos", "pad"):
        number = _special_id(name, tokenizer_config, model_config, ids)
        if number is not None and 0 <= number < len(ids):
            special_ids[name] = number
    ends = _as_list(model_config.get("eos_token_id"))
    if _chat_template(folder):
        tokenizer = load.load_tokenizer(str(folder))
        ends = [chat.end_of_turn(tokenizer, ends or [special_ids.get("eos", -1)]), *ends]
    others = [i for i in dict.fromkeys(ends) if i != special_ids.get("eos") and 0 <= i < len(ids)]
    special_ids.update(zip(("eot", "eom"), others, strict=False))
    return special_ids


def _special_id(
    name: str, tokenizer_config: dict[str, Any], model_config: dict[str, Any], ids: dict[str, int]
) -> int | None:
    token = tokenizer_config.get(f"{name}_token")
    text = token["content"] if isinstance(token, dict) else token
    if text:
        return ids.get(text)
    numbers = _as_list(model_config.get(f"{name}_token_id"))
    return numbers[0] if numbers else None


def _as_list(value: Any) -> list[int]:
    """Return the ids of a config's field, which holds one, several or none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _adds(path: Path, special_ids: dict[str, int]) -> tuple[bool, bool]:
    """Return whether the tokenizer puts bos before, and eos after, a plain text: by asking it.

    Raises MismatchError if it adds anything else.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    complete = tokenizer.encode("a", add_special_tokens=True).ids
    for add_bos in (False, True):
        for add_eos in (False, True):
            before = [special_ids.get("bos")] if add_bos else []
            after = [special_ids.get("eos")] if add_eos else []
            if complete == before + bare + after:
                return add_bos, add_eos
    raise MismatchError(
        f"{path}: makes {bare} into {complete}; "
        "only bos before and eos after can be written to GGUF"
    )


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
