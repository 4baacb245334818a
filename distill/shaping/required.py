"""The tokens that a trimmed vocabulary has whatever the texts are."""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill import chat
from distill.chat.template import thinking_of
from distill.errors import DistillError
from distill.models import find
from distill.models.json_files import read_json_object
from distill.recipe import Recipe
from distill.shaping.bpe import SPACE, BpeVocabulary

SPACES = ("", "Ġ", SPACE)  # as byte-level BPE and SentencePiece write one before a word
FILES = ("config.json", "generation_config.json")


def required_ids(recipe: Recipe, tokenizer: Any, vocabulary: BpeVocabulary) -> set[int]:
    """Return the ids that stay beside bytes and added tokens, which always do.

    Those of digits and ASCII punctuation, of all that the chat template writes of itself (names of
    roles and the like), and those that the student's config files name.
    """
    required = {number for token, number in vocabulary.ids.items() if _is_basic(token)}
    for text in _template_texts(recipe, tokenizer):
        required.update(tokenizer(text, add_special_tokens=False).input_ids)
    required.update(tokenizer.all_special_ids)
    unknown = vocabulary.content["model"].get("unk_token")
    required.update(number for token, number in vocabulary.ids.items() if token == unknown)
    required.update(_ids_in_files(recipe))
    return required & vocabulary.tokens.keys()


def _is_basic(token: str) -> bool:
    """Return whether a token is ASCII digits alone, or one ASCII character, a space before or not."""
    for space in SPACES:
        rest = token.removeprefix(space)
        if rest and set(rest) <= set(string.digits):
            return True
        if len(rest) == 1 and rest in string.punctuation + SPACE:
            return True
    return len(token) == 1 and token.isascii()


def _template_texts(recipe: Recipe, tokenizer: Any) -> Iterator[str]:
    """Yield what the chat template writes round texts of one digit, for each kind of conversation."""
    user, answer, system = (
        {"role": role, "content": "1"} for role in ("user", "assistant", "system")
    )
    if recipe.generate.system_prompt is not None:
        system["content"] = recipe.generate.system_prompt
    for turns in ([user], [system, user], [user, answer], [system, user, answer, user]):
        for thinking in (None, True, False):
            for begins_answer in (True, False):
                try:
                    yield chat.prompt_text(
                        tokenizer,
                        turns,
                        enable_thinking=thinking_of(tokenizer, thinking),
                        begin_answer=begins_answer,
                    )
                except DistillError:
                    continue  # it has no such conversations, and then nobody is asked so


def _ids_in_files(recipe: Recipe) -> set[int]:
    """Return the ids that the student's config files name: of ends, beginnings, padding."""
    if recipe.student.model is None:
        return set()
    location = recipe.model_location(recipe.student.model)
    folder = find.local_folder(location, recipe.student.revision, weights=False)
    ids: set[int] = set()
    for path in (folder / name for name in FILES):
        ids |= _token_ids_of(path)
    return ids


def _token_ids_of(path: Path) -> set[int]:
    if not path.is_file():
        return set()
    values = read_json_object(path)
    values = values | (values.get("text_config") or {})
    named = [value for name, value in values.items() if name.endswith("_token_id")]
    flat = [i for value in named for i in (value if isinstance(value, list) else [value])]
    return {i for i in flat if isinstance(i, int)}
