"""Write an answer again: without its reasoning, or in the tokenizer and the chat template of another model."""

from collections.abc import Sequence
from typing import Any

from distill.chat.reasoning import THINK_TAGS, opens_thinking, split_thinking, text_of
from distill.chat.template import (
    Messages,
    apply_template,
    end_of_turn,
    name_of,
    prompt_ids,
    prompt_text,
    stop_ids,
    thinking_of,
    thinking_switch,
)
from distill.errors import MismatchError
from distill.recipe import Recipe


def target_ids(
    recipe: Recipe,
    tokenizer: Any,
    messages: Messages,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
) -> list[int]:
    """What a student learns of the teacher's answer: all of it, or by `generate.reasoning: drop` what is not reasoning."""
    if recipe.generate.reasoning != "drop":
        return list(answer_ids)
    options = recipe.generate
    return without_reasoning(
        tokenizer,
        messages,
        prompt_ids,
        answer_ids,
        system_prompt=options.system_prompt,
        enable_thinking=options.enable_thinking,
    )


def without_reasoning(
    tokenizer: Any,
    messages: Messages,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    *,
    system_prompt: str | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """The answer's ids as the template writes an answer without reasoning after this prompt: what a student reads that is
    not to think. Ends with the same token; an answer that has no reasoning comes back as it is.

    Some templates write an empty block then, which stays. Where the prompt itself opens the reasoning, the answer closes
    it at once. Raises MismatchError where the template writes another prompt before an answer than before its question.
    """
    text = text_of(tokenizer, answer_ids)
    reasoning, answer, _ = split_thinking(text, opened=opens_thinking(tokenizer, prompt_ids))
    if reasoning is None:
        return list(answer_ids)
    end = answer_ids[-1]
    if opens_thinking(tokenizer, prompt_ids):
        return [
            *tokenizer(
                "</think>" + text.rpartition("</think>")[2], add_special_tokens=False
            ).input_ids,
            end,
        ]
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    turns = [*system, *map(dict, messages), {"role": "assistant", "content": answer}]
    whole = apply_template(
        tokenizer,
        turns,
        **({} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)),
    )
    if whole[: len(prompt_ids)] != list(prompt_ids):
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template writes another prompt before an answer than before its question, so an answer "
            "without reasoning cannot be told from it: set generate.reasoning to keep or short"
        )
    rest = whole[len(prompt_ids) :]
    return [*(rest[: rest.index(end)] if end in rest else rest), end]


def retokenize_answer(
    recipe: Recipe, tokenizer: Any, messages: Messages, reasoning: str | None, answer: str
) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of another model's answer in this tokenizer and by its chat template, with its end token: a
    student with a tokenizer of its own learns after the very prompt that it will be asked with."""
    options = recipe.generate
    enable_thinking = thinking_of(tokenizer, options.enable_thinking)
    before = prompt_ids(
        tokenizer, messages, system_prompt=options.system_prompt, enable_thinking=enable_thinking
    )
    system = (
        []
        if options.system_prompt is None
        else [{"role": "system", "content": options.system_prompt}]
    )
    turns = [*system, *map(dict, messages)]
    asked = prompt_text(tokenizer, turns, enable_thinking=enable_thinking)
    end = end_of_turn(tokenizer, stop_ids(tokenizer, None))
    if opens_thinking(tokenizer, before):
        written = f"{reasoning}\n</think>\n\n{answer}" if reasoning else f"</think>\n\n{answer}"
    elif reasoning:
        written = f"<think>\n{reasoning}\n</think>\n\n{answer}"
    else:  # some templates write an empty block, or a channel, before an answer
        whole = prompt_text(
            tokenizer,
            [*turns, {"role": "assistant", "content": answer}],
            enable_thinking=enable_thinking,
            begin_answer=False,
        )
        written = (
            whole.removeprefix(asked).partition(tokenizer.decode([end]))[0]
            if whole.startswith(asked)
            else ""
        )
        written = written.rstrip("\n") if answer in written else answer
    # in one piece with the prompt: SentencePiece would put a space before an answer that stands alone
    together = tokenizer(asked + written, add_special_tokens=False).input_ids
    is_whole = together[: len(before)] == before
    return before, [
        *(
            together[len(before) :]
            if is_whole
            else tokenizer(written, add_special_tokens=False).input_ids
        ),
        end,
    ]


def own_mark(tokenizer: Any, text: str) -> str | None:
    """A special token of this tokenizer that a text of another model holds: it would become that token, and could end the answer."""
    found = (
        t.content
        for t in tokenizer.added_tokens_decoder.values()
        if t.special and t.content not in THINK_TAGS
    )
    return next((content for content in found if content in text), None)
