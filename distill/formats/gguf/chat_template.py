"""The chat template of a GGUF file: it writes the prompt of training, whatever a server passes.

llama.cpp sets variables that our rendering leaves out (enable_thinking=true, today's date), so that
a template with a choice would write a prompt there that the student has never seen. The lines
before it here take the choice away.
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from distill import chat
from distill.errors import MismatchError
from distill.recipe.sections import Generate

MARK = "{# the prompt of training #}\n"  # a template that begins so is as it should be
CLOCKS = ("date_string", "datetime")  # llama.cpp sets them to today
ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
Conversation = Sequence[Mapping[str, str]]
CONVERSATIONS: tuple[Conversation, ...] = (
    [{"role": "user", "content": "hi"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
        {"role": "user", "content": "d"},
    ],
)


def as_trained(template: str, options: Generate) -> str:
    """Return `template` with the choices of training written into it.

    They are `generate.enable_thinking`, the date of training and, before a conversation without a
    system message, `generate.system_prompt`. Nothing is rendered; `require_same` says whether it
    came out right.
    """
    if template.startswith(MARK):
        return template
    # a name that nobody sets: whatever stood there counts as not given
    value = "not_given" if options.enable_thinking is None else str(options.enable_thinking).lower()
    lines = [f"{{%- set {name} = {value} %}}\n" for name in chat.SWITCHES if _has(template, name)]
    lines += [f"{{%- set {name} = not_given %}}\n" for name in CLOCKS if _has(template, name)]
    if options.system_prompt is not None:
        text = "".join(ESCAPES.get(c, c) for c in options.system_prompt)
        message = f"{{'role': 'system', 'content': '{text}'}}"
        lines.append(
            "{%- if messages[0].role != 'system' %}"
            f"{{%- set messages = [{message}] + messages %}}{{%- endif %}}\n"
        )
    return MARK + "".join(lines) + chat.dated(template)


def require_same(tokenizer: Any, options: Generate) -> str:
    """Return the template of `tokenizer` as trained.

    Raises MismatchError if it does not write what the student was trained on.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        template = template["default"]
    fixed = copy(tokenizer)
    fixed.chat_template = as_trained(template, options)
    system = []
    if options.system_prompt is not None:
        system = [{"role": "system", "content": options.system_prompt}]
    for messages in CONVERSATIONS:
        # a student with a template of its own need not have the teacher's switch
        expected = chat.prompt_text(
            tokenizer,
            [*system, *messages],
            enable_thinking=chat.thinking_of(tokenizer, options.enable_thinking),
        )
        written = chat.prompt_text(fixed, messages)
        if written != expected:
            raise MismatchError(
                f"{tokenizer.name_or_path}: its chat template cannot be fixed to "
                "generate.enable_thinking and generate.system_prompt for GGUF: it writes "
                f"{written[-80:]!r} instead of {expected[-80:]!r}. Please report this template, or "
                "take the formats nf4 and int8"
            )
    return fixed.chat_template


def begins_with_bos(tokenizer: Any) -> bool:
    """Return whether the conversations that the student learns begin with the tokenizer's bos.

    A file then says that it is to be added: llama.cpp's server takes away the one that the template
    has written and adds its own, Ollama adds one to a template without.
    """
    return chat.prompt_ids(tokenizer, "hi")[:1] == [tokenizer.bos_token_id]


def _has(template: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", template) is not None
