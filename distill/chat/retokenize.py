"""Write an answer again: without its reasoning, or in another tokenizer and chat template."""

from collections.abc import Sequence
from typing import Any

from distill.chat.reasoning import (
    answer_marks,
    opens_thinking,
    split_thinking,
    text_of,
)
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
    with_system_prompt,
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
    """Return what a student learns of the teacher's answer.

    It is all of it, or by `generate.reasoning: drop` what is not reasoning.
    """
    options = recipe.generate
    if options.reasoning != "drop":
        return list(answer_ids)
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
    """Return the answer's ids as the template writes an answer without reasoning after this prompt.

    That is what a student reads that is not to think. It ends with the same token, and has none of
    the marks that a family writes round an answer; one without reasoning and marks comes back as it
    is. Some templates write an empty block then, which stays.
    Where the prompt itself opens the reasoning, the answer closes it at once. Raises MismatchError
    where the template writes another prompt before an answer than before its question.
    """
    text = text_of(tokenizer, answer_ids)
    is_opened = opens_thinking(tokenizer, prompt_ids)
    marks = answer_marks(tokenizer)
    reasoning, answer, _ = split_thinking(text, opened=is_opened, marks=marks)
    is_marked = any(opening in text for opening, _ in marks)
    if reasoning is None and not is_marked:
        return list(answer_ids)
    end = answer_ids[-1]
    if is_opened:
        after = f"\n\n{answer}" if is_marked else text.rpartition("</think>")[2]
        return [*tokenizer(f"</think>{after}", add_special_tokens=False).input_ids, end]
    turns = [*with_system_prompt(messages, system_prompt), {"role": "assistant", "content": answer}]
    switch = {} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)
    rendered = apply_template(tokenizer, turns, **switch)
    if rendered[: len(prompt_ids)] != list(prompt_ids):
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template writes another prompt before an answer than "
            "before its question, so an answer without reasoning cannot be told from it: set "
            "generate.reasoning to keep or short"
        )
    rest = rendered[len(prompt_ids) :]
    if end in rest:
        rest = rest[: rest.index(end)]
    return [*rest, end]


def retokenize_answer(
    recipe: Recipe, tokenizer: Any, messages: Messages, reasoning: str | None, answer: str
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, answer ids) of another model's answer in this tokenizer and template.

    The answer has its end token: a student with a tokenizer of its own learns after the very prompt
    that it will be asked with.
    """
    options = recipe.generate
    enable_thinking = thinking_of(tokenizer, options.enable_thinking)
    asked_ids = prompt_ids(
        tokenizer, messages, system_prompt=options.system_prompt, enable_thinking=enable_thinking
    )
    turns = with_system_prompt(messages, options.system_prompt)
    asked = prompt_text(tokenizer, turns, enable_thinking=enable_thinking)
    end = end_of_turn(tokenizer, stop_ids(tokenizer, None))
    if opens_thinking(tokenizer, asked_ids):
        written = f"{reasoning}\n</think>\n\n{answer}" if reasoning else f"</think>\n\n{answer}"
    elif reasoning:
        written = f"<think>\n{reasoning}\n</think>\n\n{answer}"
    else:
        turns = [*turns, {"role": "assistant", "content": answer}]
        rendered = prompt_text(
            tokenizer, turns, enable_thinking=enable_thinking, begin_answer=False
        )
        written = _answer_in(rendered, asked, tokenizer.decode([end]), answer)
    # in one piece with the prompt: SentencePiece would put a space before an answer that stands
    # alone
    ids = tokenizer(asked + written, add_special_tokens=False).input_ids
    if ids[: len(asked_ids)] == asked_ids:
        answer_ids = ids[len(asked_ids) :]
    else:
        answer_ids = tokenizer(written, add_special_tokens=False).input_ids
    return asked_ids, [*answer_ids, end]


def _answer_in(rendered: str, asked: str, end: str, answer: str) -> str:
    """Return the answer as the template writes it after `asked`, up to the end token.

    Some templates write an empty block, or a channel, before an answer.
    """
    if not rendered.startswith(asked):
        return answer
    written = rendered.removeprefix(asked).partition(end)[0]
    return written.rstrip("\n") if answer in written else answer
