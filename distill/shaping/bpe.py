"""The vocabulary of a BPE tokenizer as a graph: which tokens each one is made of.

A token is joined from two others by a merge. Where several merges make it (a vocabulary that came
from SentencePiece or tiktoken lists every pair that gives the same text), its parts are those that
it is joined from when it stands alone: the merge of lowest rank goes first. Within a longer text it
is joined from the same ones, since no merge crosses its ends. So what a token needs to be had are
its parts, and theirs, and no others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from distill.chat.template import name_of
from distill.errors import MismatchError
from distill.text.byte_tokens import SPACE, byte_level_tokens, sentencepiece_tokens


@dataclass(frozen=True)
class BpeVocabulary:
    """What a tokenizer.json says of its tokens.

    `content`: all of it. `ids`: those that merges make and are made of, by text. `added`: the
    others by id, special or not, some of which may be among `ids` too. `merges`: (left, right,
    joined) by rank. `byte_ids`: the tokens of single bytes.
    """

    content: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[int, str]
    merges: Sequence[tuple[int, int, int]]
    byte_ids: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "BpeVocabulary":
        """Return the vocabulary of a tokenizer of transformers.

        Raises MismatchError for one that is no BPE, or of a kind that joins by other rules.
        """
        require_bpe(tokenizer)
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        ids = content["model"]["vocab"]
        pairs = (m.split(" ") if isinstance(m, str) else m for m in content["model"]["merges"])
        merges = [(ids[left], ids[right], ids[left + right]) for left, right in pairs]
        spelled = sentencepiece_tokens() if _falls_back(content) else byte_level_tokens()
        byte_ids = frozenset(ids[token] for token in spelled if token in ids)
        added = {token["id"]: token["content"] for token in content["added_tokens"]}
        return cls(content, ids, added, merges, byte_ids)

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Return the text of each token, as the file writes it, by id; there may be holes."""
        return {number: token for token, number in self.ids.items()} | dict(self.added)

    @property
    def num_rows(self) -> int:
        """Return how many rows a table by id has."""
        return max(self.tokens) + 1

    @property
    def falls_back_to_bytes(self) -> bool:
        """Return whether a character without a token is written as its bytes, like SentencePiece's."""
        return _falls_back(self.content)

    @cached_property
    def parts(self) -> dict[int, tuple[int, ...]]:
        """Return what each token becomes where it is taken away, by id.

        () for an atom, and for an added token, which no merge has to make. Else it is the two tokens that it
        is joined from. Of a token that no merge can make it is what
        its text becomes without it, and of a character that can be written as bytes those.
        """
        made: dict[int, list[tuple[int, int]]] = {}
        for left, right, joined in self.merges:
            made.setdefault(joined, []).append((left, right))
        parts: dict[int, tuple[int, ...]] = {}
        for token, number in self.ids.items():
            pairs = made.get(number, [])
            if number in self.byte_ids or number in self.added:
                parts[number] = ()
            elif len(pairs) == 1:
                parts[number] = pairs[0]
            elif len(token) == 1 and not pairs:
                parts[number] = self._bytes_of_character(token)
            else:
                parts[number] = self._parts_alone(number, token)
        return parts

    @cached_property
    def rank(self) -> dict[int, int]:
        """Return the place of each token's first merge, by id; none for one without a merge."""
        ranks: dict[int, int] = {}
        for place, (_, _, joined) in enumerate(self.merges):
            ranks.setdefault(joined, place)
        return ranks

    def bytes_of(self, number: int) -> bytes:
        """Return the UTF-8 that the token stands for."""
        token = self.tokens[number]
        if number in self.added or number not in self.parts:
            return token.encode()
        if self.falls_back_to_bytes:
            if number in self.byte_ids:
                return bytes([int(token[3:5], 16)])
            return token.replace(SPACE, " ").encode()
        if self._is_byte_level:
            return bytes(self._byte_of_character[character] for character in token)
        return token.encode()

    @cached_property
    def _is_byte_level(self) -> bool:
        steps = [self.content["pre_tokenizer"], self.content["decoder"]]
        return '"ByteLevel"' in json.dumps(steps)

    @cached_property
    def _byte_of_character(self) -> dict[str, int]:
        return {character: byte for byte, character in enumerate(byte_level_tokens())}

    def _bytes_of_character(self, character: str) -> tuple[int, ...]:
        if not self.falls_back_to_bytes or character == SPACE:  # whose bytes are no space
            return ()
        spelled = [self.ids.get(f"<0x{byte:02X}>") for byte in character.encode()]
        return tuple(number for number in spelled if number is not None)

    @cached_property
    def _joined(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Return (rank, joined) by the pair that a merge joins."""
        return {(left, right): (rank, n) for rank, (left, right, n) in enumerate(self.merges)}

    def _parts_alone(self, number: int, token: str) -> tuple[int, ...]:
        """Return what the token's text is made of just before it would be joined to the token."""
        spelled = ([self.ids[c]] if c in self.ids else self._bytes_of_character(c) for c in token)
        ids = [part for piece in spelled for part in piece]
        while len(ids) > 1:
            joins = [
                (*self._joined[pair], place)
                for place, pair in enumerate(pairwise(ids))
                if pair in self._joined
            ]
            if not joins:
                break
            _, joined, place = min(joins, key=lambda join: (join[0], join[2]))
            if joined == number and len(ids) == 2:
                break
            ids[place : place + 2] = [joined]
        return tuple(ids)


def require_bpe(tokenizer: Any) -> None:
    """Raise MismatchError, with the way out, for a tokenizer that cannot be trimmed."""
    problem = _problem(getattr(tokenizer, "backend_tokenizer", None))
    if problem is not None:
        raise MismatchError(
            f"{name_of(tokenizer)}: {problem}, and student.vocabulary can trim only a plain BPE (as "
            "of Qwen, Llama, SmolLM, Mistral, ERNIE): set student.vocabulary=null, or take another "
            "student.model"
        )


def _problem(backend: Any | None) -> str | None:
    """Return what makes a tokenizer another kind than a plain BPE; None if nothing does."""
    if backend is None:
        return "no fast tokenizer"
    if type(backend.model).__name__ != "BPE":
        return f"a {type(backend.model).__name__} model"
    options = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    used = [name for name in options if getattr(backend.model, name, None)]
    return f"a BPE with {used[0]}" if used else None


def _falls_back(content: Mapping[str, Any]) -> bool:
    return bool(content["model"].get("byte_fallback"))
