"""Whether llama.cpp reads a text, and a conversation, as the tokens that the student has learnt."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill import chat
from distill.errors import MismatchError
from distill.formats.export import Export
from distill.formats.gguf.byte_tokens import lack, texts_with
from distill.formats.gguf.vocabulary import absent_bytes
from distill.llama_cpp.process import LlamaProcess

TURNS = (
    ("Habari? 你好!",),
    ("How much are 3 mangoes?", "12 shillings.", "And\n\nfour?"),
)
SHOWN_IDS = 5  # from the first that differs on


def require_same_tokens(export: Export, path: Path, llama: LlamaProcess) -> str:
    """Return what was found the same, as the file's check says it.

    Raises MismatchError if llama.cpp makes of a text, or its server of a conversation, other tokens
    than the student was trained on.
    """
    # llama.cpp does not normalise text, the tokenizer does: the two agree on text that is NFC
    # already
    absent = absent_bytes(export.student)
    texts = [_nfc(text) for text in [*export.probes, *texts_with(absent)]]
    for text, found in zip(texts, llama.tokenize(texts), strict=True):
        ids = export.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        _require_same(path, "llama.cpp", text, found, ids)
    conversations = list(_conversations(export))
    prompts = [_rendered(export, messages) for messages in conversations]
    served = llama.tokenize_prompts(prompts)
    for messages, text, found in zip(conversations, prompts, served, strict=True):
        _require_same(path, "a llama.cpp server", text, found, _trained_ids(export, messages))
    what = f"identical on {len(texts)} probes (NFC) and {len(prompts)} conversations"
    return f"{what}; {lack(absent)}" if absent else what


def _conversations(export: Export) -> Iterator[list[dict[str, str]]]:
    """Yield messages of known kinds, and of this run's own prompts.

    Without those that hold a special token: there a server cannot tell a user's text from a mark.
    """
    marks = list(export.tokenizer.get_added_vocab())
    for turns in [*TURNS, *((text,) for text in export.probes)]:
        if not any(mark in text for mark in marks for text in turns):
            yield [
                {"role": ("user", "assistant")[number % 2], "content": _nfc(text)}
                for number, text in enumerate(turns)
            ]


def _rendered(export: Export, messages: chat.Messages) -> str:
    system = _system_prompt(export)
    before = [] if system is None else [{"role": "system", "content": system}]
    thinking = _enable_thinking(export)
    return chat.prompt_text(export.tokenizer, [*before, *messages], enable_thinking=thinking)


def _trained_ids(export: Export, messages: chat.Messages) -> list[int]:
    return chat.prompt_ids(
        export.tokenizer,
        messages,
        system_prompt=_system_prompt(export),
        enable_thinking=_enable_thinking(export),
    )


def _system_prompt(export: Export) -> str | None:
    system = export.recipe.generate.system_prompt
    return None if system is None else _nfc(system)


def _enable_thinking(export: Export) -> bool | None:
    # a student with a template of its own need not have the teacher's switch
    return chat.thinking_of(export.tokenizer, export.recipe.generate.enable_thinking)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _require_same(
    path: Path, who: str, text: str, found: Sequence[int], expected: Sequence[int]
) -> None:
    if list(found) == list(expected):
        return
    pairs = enumerate(zip(found, expected, strict=False))
    shortest = min(len(found), len(expected))
    first = next((number for number, (a, b) in pairs if a != b), shortest)
    raise MismatchError(
        f"{path}: {who} reads {text[:80]!r} as {len(found)} tokens, the student as "
        f"{len(expected)}; from token {first} on {_shown(found, first)} instead of "
        f"{_shown(expected, first)}. The file would answer wrongly. Take the formats nf4 and int8, "
        "and please report this tokenizer"
    )


def _shown(ids: Sequence[int], first: int) -> list[int]:
    return [int(number) for number in ids[first : first + SHOWN_IDS]]
