"""Text and token ids of what a server gave: each from the other, and where they agree."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distill import chat
from distill.teachers.requests import Completion


def with_token_ids(
    completion: Completion, tokenizer: Any, prompt_ids: Sequence[int], stop_ids: Sequence[int]
) -> Completion:
    """Return a completion with text and token ids, its end token among them where it has an end.

    Where the server gives text only, the ids are the tokenizer's for that text, and the end token: the
    same text, but not always the very tokens that were drawn.
    """
    if completion.error is not None:
        return completion
    is_exact = completion.token_ids is not None
    if is_exact:
        completion = cut_at_stop(completion, stop_ids)
    text = completion.text
    if chat.opens_thinking(tokenizer, prompt_ids):
        text = _after_opened_thinking(completion)
    ids = completion.token_ids
    if ids is None:
        ids = tokenizer(text, add_special_tokens=False).input_ids
    log_probs = completion.log_probs
    if completion.finish_reason == "stop" and (not ids or ids[-1] not in stop_ids):
        ids = [*ids, chat.end_of_turn(tokenizer, stop_ids)]
        log_probs = None if log_probs is None else [*log_probs, None]
    if is_exact:
        text = chat.text_of(tokenizer, ids)
    return replace(completion, text=text, token_ids=ids, log_probs=log_probs)


def cut_at_stop(completion: Completion, stop_ids: Sequence[int]) -> Completion:
    """Cut after the first of `stop_ids`.

    llama.cpp knows its model's own ends only, and wrote on after another.
    """
    ids = completion.token_ids or []
    end = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), None)
    if end is None:
        return completion
    log_probs = completion.log_probs and completion.log_probs[:end]
    return replace(completion, token_ids=ids[:end], finish_reason="stop", log_probs=log_probs)


def _after_opened_thinking(completion: Completion) -> str:
    """Return the text after a prompt that opens the reasoning.

    The template's own tag is in the prompt already, and where the server keeps the reasoning to itself
    it ends at once.
    """
    is_text_only = completion.token_ids is None
    if is_text_only and completion.finish_reason == "stop" and "</think>" not in completion.text:
        return f"</think>\n\n{completion.text}"
    return completion.text.removeprefix("<think>\n")


def other_vocabulary(tokenizer: Any, completion: Completion) -> str | None:
    """Return what is wrong where the server's token ids are not the tokenizer's.

    All that is learnt from them would be another text.
    """
    known = [i for i in completion.token_ids or [] if 0 <= i < len(tokenizer)]
    text, decoded = completion.text, chat.text_of(tokenizer, known)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            text = text.replace(token.content, "")
            decoded = decoded.replace(token.content, "")
    if text.strip("\ufffd \n") == decoded.strip("\ufffd \n"):
        return None
    return (
        f"its token ids say {decoded[:40]!r} in the tokenizer of teacher.model, "
        f"and its text {text[:40]!r}: another vocabulary"
    )
