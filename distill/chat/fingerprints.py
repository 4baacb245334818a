"""Fingerprints of tokenizers and chat templates, and the proof that two tokenizers are the same."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.chat.probes import PROBES
from distill.chat.template import template_of
from distill.core.digests import canonical_json, digest
from distill.errors import MismatchError
from distill.recipe import Recipe


def fingerprint_of_template(tokenizer: Any) -> str:
    """Return 32 hex characters over the chat template and the special tokens that it may write."""
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest(template_of(tokenizer), canonical_json(special_tokens))


def fingerprint_of_format(tokenizer: Any) -> str:
    """Return the same over the ids of a text and the chat template.

    What the special tokens are called does not count.
    """
    return digest(fingerprint_of_tokenizer(tokenizer), template_of(tokenizer))


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """Return 32 hex characters over all that decides the ids of a text.

    Those are vocabulary, merges, added tokens and normalisation; not padding, truncation, the width
    of a model's embedding, or the order of entries in the file.
    """
    return digest(canonical_json(_canonical(tokenizer)))


def _canonical(tokenizer: Any) -> dict[str, Any]:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        # not of the tokenizers library, e.g. tiktoken: by its effect
        probes = {
            name: tokenizer.encode(text, add_special_tokens=False) for name, text in PROBES.items()
        }
        return {"vocabulary": dict(tokenizer.get_vocab()), "probes": probes}
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("padding", "truncation", "version"):
        parts.pop(name, None)
    parts["added_tokens"] = sorted(parts.get("added_tokens", []), key=lambda token: token["id"])
    merges = parts["model"].get("merges")
    if merges:  # written "a b" by old files, ["a", "b"] by new ones
        parts["model"]["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in merges
        ]
    return parts


def same_tokenizer(a: Any, b: Any, probes: Mapping[str, str] = PROBES) -> str | None:
    """Return None if both give the same ids, else a sentence naming the first difference.

    Compares the vocabularies, not the widths of embeddings, then how each probe text is encoded.
    """
    size_a, size_b = len(a), len(b)
    if size_a != size_b:
        return f"vocabulary of {size_a:,} and of {size_b:,} tokens"
    vocabulary_a, vocabulary_b = a.get_vocab(), b.get_vocab()
    if vocabulary_a != vocabulary_b:
        token = _first_difference(vocabulary_a, vocabulary_b)
        id_a, id_b = vocabulary_a.get(token), vocabulary_b.get(token)
        return f"token {token!r} has id {id_a} in one, {id_b} in the other"
    for name, text in probes.items():
        ids_a, ids_b = (t.encode(text, add_special_tokens=False) for t in (a, b))
        if ids_a != ids_b:
            where = _where_they_part(ids_a, ids_b)
            return f"probe {name!r} is encoded differently ({where}): {text[:40]!r}"
    return None


def same_template(a: Any, b: Any) -> bool:
    """Return whether two tokenizers write conversations by the same chat template."""
    return template_of(a) == template_of(b)


def _first_difference(vocabulary_a: dict[str, int], vocabulary_b: dict[str, int]) -> str:
    """Return the token of lowest id that the other vocabulary has not, or has another id for."""
    differing = [
        token for token, number in vocabulary_a.items() if vocabulary_b.get(token) != number
    ]
    if differing:
        return min(differing, key=vocabulary_a.__getitem__)
    return min(vocabulary_b.keys() - vocabulary_a.keys())


def _where_they_part(ids_a: Sequence[int], ids_b: Sequence[int]) -> str:
    for position, (id_a, id_b) in enumerate(zip(ids_a, ids_b, strict=False)):
        if id_a != id_b:
            return f"from token {position}"
    return f"{len(ids_a)} tokens and {len(ids_b)}"


def require_same_tokenizer(recipe: Recipe, teacher: Any, student: Any) -> None:
    """Raise MismatchError, naming the first difference, unless both give the same ids."""
    difference = same_tokenizer(teacher, student)
    if difference is None:
        return
    raise MismatchError(
        f"{recipe.source}: teacher {recipe.teacher.model!r} and student {recipe.student.model!r} have "
        f"different tokenizers ({difference}), and capture.signal {recipe.capture.signal} is about the "
        "teacher's tokens: take a student of the teacher's family, or student.method: random, or learn "
        "from the pieces that both cut alike: capture.signal=chunks train.hard_weight=1, or "
        "from its text alone: capture.signal=none train.soft_weight=0 train.hard_weight=1"
    )
