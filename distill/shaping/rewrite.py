"""A tokenizer with some of its tokens: the same file, with other ids.

What is kept has new ids in the old order, 0 to n-1. Everything else (normaliser, patterns, decoder,
chat template, special tokens by name) is as it was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.chat.template import name_of
from distill.errors import MismatchError
from distill.models import load
from distill.models.json_files import read_json_object
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.trimmed import TrimmedVocabulary

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"


def trimmed_tokenizer(
    tokenizer: Any, vocabulary: BpeVocabulary, kept: Sequence[int]
) -> TrimmedVocabulary:
    """Return the tokenizer with the tokens `kept` (ids, ascending) alone.

    Raises MismatchError, naming a token, where one is then written otherwise than it was.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        content = json.dumps(_rewritten(vocabulary, new_ids), ensure_ascii=False)
        (folder / FILE).write_text(content, encoding="utf-8")
        config = read_json_object(folder / CONFIG)
        if decoder := config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = {
                str(new_ids[int(old)]): token for old, token in decoder.items()
            }
            (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        trimmed = load.load_tokenizer(name)
    trimmed.name_or_path = f"{tokenizer.name_or_path}, trimmed to {len(kept):,} tokens"
    made = TrimmedVocabulary(trimmed, tuple(kept))
    _require_same_tokens(tokenizer, vocabulary, made)
    return made


def _rewritten(vocabulary: BpeVocabulary, new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return the content of tokenizer.json with the new ids."""
    content = dict(vocabulary.content)
    model = dict(content["model"])
    added = [
        token | {"id": new_ids[token["id"]]}
        for token in sorted(content["added_tokens"], key=lambda token: token["id"])
    ]
    vocab = {token: new_ids[n] for token, n in vocabulary.ids.items() if n in new_ids}
    if _have_other_ids(added, vocab):
        vocab |= {token["content"]: token["id"] for token in added}
    model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    model["merges"] = [
        [vocabulary.tokens[left], vocabulary.tokens[right]]
        for left, right, joined in vocabulary.merges
        if left in new_ids and right in new_ids and joined in new_ids
    ]
    content |= {"model": model, "added_tokens": added}
    if content.get("post_processor"):
        content["post_processor"] = _with_new_ids(content["post_processor"], vocabulary, new_ids)
    return content


def _have_other_ids(added: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]) -> bool:
    """Return whether the library would number some added tokens otherwise.

    It numbers those that are not in the model's vocabulary on from its size, whatever ids the file
    gives them.
    """
    beyond = [token["id"] for token in added if token["content"] not in vocab]
    return beyond != list(range(len(vocab), len(vocab) + len(beyond)))


def _with_new_ids(value: Any, vocabulary: BpeVocabulary, new_ids: Mapping[int, int]) -> Any:
    """Return a post-processor with the new ids of the special tokens that it writes.

    TemplateProcessing lists them ({"id": "<s>", "ids": [1], "tokens": ["<s>"]}), BERT's and
    RoBERTa's name them in pairs (["</s>", 2]).
    """
    if isinstance(value, dict) and value.keys() == {"id", "ids", "tokens"}:
        return value | {"ids": [new_ids[number] for number in value["ids"]]}
    if isinstance(value, dict):
        return {key: _with_new_ids(item, vocabulary, new_ids) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    is_pair = len(value) == 2 and isinstance(value[1], int)
    if is_pair and vocabulary.tokens.get(value[1]) == value[0]:
        return [value[0], new_ids[value[1]]]
    return [_with_new_ids(item, vocabulary, new_ids) for item in value]


def _require_same_tokens(
    tokenizer: Any, vocabulary: BpeVocabulary, trimmed: TrimmedVocabulary
) -> None:
    """Raise MismatchError unless every kept token has its text, its new id, and encodes to itself.

    The last only where it did so before: some vocabularies have tokens that no text becomes.
    """
    ids = trimmed.tokenizer.get_vocab()
    before, after = (t.backend_tokenizer.model for t in (tokenizer, trimmed.tokenizer))
    for new, old in enumerate(trimmed.parent_ids):
        text = vocabulary.tokens[old]
        is_same = ids.get(text) == new
        if is_same and old not in vocabulary.added and _ids(before, text) == [old]:
            is_same = _ids(after, text) == [new]
        if not is_same:
            raise MismatchError(
                f"{name_of(tokenizer)}: its token {text!r} (id {old}) would be another one in the "
                "trimmed vocabulary: set student.vocabulary=null, or take another student.model"
            )
    if len(ids) != len(trimmed):
        raise MismatchError(
            f"{name_of(tokenizer)}: {len(trimmed):,} tokens are kept, and transformers gives the "
            f"trimmed tokenizer {len(ids):,}: set student.vocabulary=null"
        )


def _ids(model: Any, text: str) -> list[int]:
    return [token.id for token in model.tokenize(text)]
