"""The exact bytes that each token stands for, whatever its tokenizer writes them as."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from distill.chat.reasoning import dropped_tokens
from distill.chat.template import name_of
from distill.errors import MismatchError
from distill.text.byte_tokens import SPACE, byte_level_tokens, sentencepiece_tokens

# A word begins where the next byte is one of these: white space, or the first byte of a character
# of U+3000 to U+9FFF, Chinese or Japanese, which are written without spaces. That is told by the
# next byte alone, so that it means the same in every tokenizer.
WORD_BEGINNINGS = frozenset(b" \t\n\v\f\r") | frozenset(range(0xE3, 0xEA))


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """What the tokens of a tokenizer are in an answer.

    by_id: the bytes of each id; none for special tokens (but those that mark reasoning), for the
    unknown token and for ids without a token. stop_ids: the ids that end an answer, as one class.
    """

    by_id: Sequence[bytes]
    stop_ids: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any, stop_ids: Sequence[int]) -> "TokenBytes":
        """Return those of a tokenizer of transformers.

        Raises MismatchError, with the way out, for one whose tokens are not bytes of the text.
        """
        content = _content_of(tokenizer)
        spell = _spelling(content)
        if spell is None:
            raise MismatchError(_no_bytes(tokenizer, "its tokens are not bytes of the text"))
        dropped = dropped_tokens(tokenizer)
        added = tokenizer.added_tokens_decoder
        unknown = content["model"].get("unk_token")
        by_id = [b""] * len(tokenizer)
        for token, number in tokenizer.get_vocab().items():
            is_text = number not in dropped and token != unknown and number < len(by_id)
            if is_text:
                by_id[number] = token.encode() if number in added else spell(token)
        return cls(by_id, frozenset(stop_ids))

    @cached_property
    def boundary_ids(self) -> list[int]:
        """Return the ids that begin a word, or end the answer."""
        begins = (i for i, token in enumerate(self.by_id) if token and token[0] in WORD_BEGINNINGS)
        return sorted({*begins, *self.stop_ids})

    @cached_property
    def closed_ids(self) -> frozenset[int]:
        """Return the ids whose bytes no other token begins with: a digit where numbers are cut into digits.

        The probability of such a token is that of its bytes, whatever comes after; of `ap` it is
        that of no longer token, such as `apple`, and differs between vocabularies.
        """
        ids = sorted((i for i, token in enumerate(self.by_id) if token), key=self.by_id.__getitem__)
        return frozenset(
            i
            for i, after in zip_longest(ids, ids[1:])
            if after is None or not self.by_id[after].startswith(self.by_id[i])
        )

    def of_answer(self, ids: Sequence[int]) -> tuple[list[bytes], bool]:
        """Return (the bytes of each token but the one that ends the answer, whether one does)."""
        is_ended = bool(ids) and ids[-1] in self.stop_ids
        return [self.by_id[i] for i in (ids[:-1] if is_ended else ids)], is_ended


def _content_of(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise MismatchError(_no_bytes(tokenizer, "it has no tokenizer.json (no fast tokenizer)"))
    return json.loads(backend.to_str())


def _no_bytes(tokenizer: Any, problem: str) -> str:
    return (
        f"{name_of(tokenizer)}: {problem}, and capture.signal chunks compares two tokenizers by the "
        "bytes of their tokens: learn from the text alone (capture.signal=none train.soft_weight=0 "
        "train.hard_weight=1), or take another model"
    )


def _spelling(content: dict[str, Any]) -> Any | None:
    """Return the function from a token, as its file writes it, to its bytes; None if there is none."""
    steps = json.dumps([content["pre_tokenizer"], content["decoder"]], ensure_ascii=False)
    if '"ByteLevel"' in steps:
        return _byte_level_speller()
    if '"Metaspace"' in steps or SPACE in steps:
        return _sentencepiece_speller() if '"ByteFallback"' in steps else _spell_spaces
    return None


def _byte_level_speller() -> Any:
    bytes_of = {character: byte for byte, character in enumerate(byte_level_tokens())}

    def spell(token: str) -> bytes:
        try:
            return bytes([bytes_of[character] for character in token])
        except KeyError:  # it is no token of bytes: what it is called is what it says
            return token.encode()

    return spell


def _sentencepiece_speller() -> Any:
    bytes_of = {token: bytes([byte]) for byte, token in enumerate(sentencepiece_tokens())}
    return lambda token: bytes_of.get(token) or _spell_spaces(token)


def _spell_spaces(token: str) -> bytes:
    return token.replace(SPACE, " ").encode()
