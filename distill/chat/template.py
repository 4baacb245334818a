"""Write conversations in a model's chat template: the one place that applies one.

A tokenizer is passed in; nothing here imports transformers.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from distill.core.digests import canonical_json
from distill.errors import DataError, MismatchError, MissingError, shown

Messages = Sequence[Mapping[str, str]]

# Templates call their switch by one of these names: Qwen, GLM and MiniCPM by the first, DeepSeek
# V3.1 and Kimi K2.5 by the second
SWITCHES = ("enable_thinking", "thinking")
# Llama 3.1 and gpt-oss write today's date into every prompt: then the same recipe would ask another
# question tomorrow
PROMPT_DATE = datetime(2026, 1, 1)
LONGEST_END = 100  # tokens that a template writes after an answer
LONGEST_FRAME = 10_000  # tokens that it writes round a user's text
LONE_SURROGATE_CHARACTER = re.compile(r"[\ud800-\udfff]")
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def prompt_ids(
    tokenizer: Any,
    prompt_or_messages: str | Messages,
    *,
    system_prompt: str | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Return the token ids of the prompt, up to where the answer begins.

    `system_prompt` goes before the messages; `enable_thinking` sets the template's switch, None
    leaves its default. Raises DataError if the messages bring a system message too, MissingError if
    the tokenizer has no chat template, and MismatchError if the template refuses the messages or
    has no such switch.
    """
    if isinstance(prompt_or_messages, str):
        messages = [{"role": "user", "content": prompt_or_messages}]
    else:
        messages = [dict(message) for message in prompt_or_messages]
    messages = with_system_prompt(messages, system_prompt)
    switches = {} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)
    return apply_template(tokenizer, messages, add_generation_prompt=True, **switches)


def with_system_prompt(messages: Messages, system_prompt: str | None) -> list[dict[str, str]]:
    """Return the messages, after the system prompt if there is one.

    Raises DataError if the messages bring a system message too.
    """
    turns = [dict(message) for message in messages]
    if system_prompt is None:
        return turns
    if turns[0]["role"] == "system":
        raise DataError(
            f"generate.system_prompt is set, and a prompt has a system message of its own "
            f"({turns[0]['content'][:60]!r}): remove one of them"
        )
    return [{"role": "system", "content": system_prompt}, *turns]


def user_turn(tokenizer: Any, system_prompt: str | None = None) -> tuple[list[int], int]:
    """Return (token ids up to where a user's text begins, the id that ends that text).

    Given the first, a chat model writes what a user might say (Magpie: Xu et al. 2024, arXiv
    2406.08464). Found by what the template makes of two different texts. Raises MismatchError,
    naming the tokenizer, where it puts a user's text in more than one place, changes more than that
    place with it, or ends it with plain text.
    """
    before, after = _around_users_text(tokenizer, "zebra", system_prompt)
    other = _around_users_text(tokenizer, "giraffe", system_prompt)
    added = tokenizer.added_tokens_decoder
    end = next((i for i, token in enumerate(after) if token in added), None)
    if (before, after) != other or end is None or tokenizer.decode(after[:end]).strip():
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template ends a user's text with "
            f"{tokenizer.decode(after)[:40]!r}, no token to stop at: {_NO_MAGPIE}"
        )
    return before, after[end]


def _around_users_text(
    tokenizer: Any, text: str, system_prompt: str | None
) -> tuple[list[int], list[int]]:
    """Return the ids that the template writes before and after a user's text."""
    messages = with_system_prompt([{"role": "user", "content": text}], system_prompt)
    ids = apply_template(tokenizer, messages, add_generation_prompt=True)
    if len(ids) > LONGEST_FRAME or tokenizer.decode(ids).count(text) != 1:
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template does not write a user's text once: {_NO_MAGPIE}"
        )
    start = max(i for i in range(len(ids)) if text in tokenizer.decode(ids[i:]))
    end = min(i for i in range(len(ids) + 1) if text in tokenizer.decode(ids[:i]))
    return ids[:start], ids[end:]


_NO_MAGPIE = (
    "expand: magpie cannot be had from this teacher; take expand: self_instruct or personas"
)


def thinking_switch(tokenizer: Any, enable_thinking: bool) -> dict[str, bool]:
    """Return the template's variable that turns thinking on or off: {"enable_thinking": True}.

    Found by its effect on a prompt. Raises MismatchError where no name has one: the setting would
    be ignored.
    """
    hello = [{"role": "user", "content": "hi"}]
    for name in SWITCHES:
        if name not in template_of(tokenizer):
            continue
        on, off = (
            apply_template(tokenizer, hello, add_generation_prompt=True, **{name: value})
            for value in (True, False)
        )
        if on != off:
            return {name: enable_thinking}
    raise MismatchError(
        f"{name_of(tokenizer)}: generate.enable_thinking is {str(enable_thinking).lower()}, but its chat "
        f"template has no {' and no '.join(SWITCHES)} that changes a prompt: set "
        "generate.enable_thinking to null"
    )


def thinking_of(tokenizer: Any, enable_thinking: bool | None) -> bool | None:
    """Return the same setting for a model that need not have the teacher's switch.

    None where its template has none.
    """
    if enable_thinking is None:
        return None
    try:
        thinking_switch(tokenizer, enable_thinking)
    except MismatchError:
        return None
    return enable_thinking


def prompt_text(
    tokenizer: Any,
    messages: Messages,
    *,
    enable_thinking: bool | None = None,
    begin_answer: bool = True,
) -> str:
    """Return what the chat template writes for `messages`, as text.

    `begin_answer` adds what comes before the answer. Raises what `prompt_ids` raises.
    """
    switches = {} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)
    return _render(tokenizer, messages, add_generation_prompt=begin_answer, **switches)


def apply_template(tokenizer: Any, messages: Messages, **options: Any) -> list[int]:
    return tokenizer(_render(tokenizer, messages, **options), add_special_tokens=False).input_ids


def _render(
    tokenizer: Any, messages: Messages, *, add_generation_prompt: bool = False, **switches: bool
) -> str:
    """Return what the template writes, as transformers' apply_chat_template does.

    Raises MismatchError, naming the template's file, where it refuses the messages, fails, or does
    more than any template has to do.
    """
    from jinja2 import TemplateError

    from distill.chat.bounds import TooMuch
    from distill.chat.rendering import render

    variables = {
        **tokenizer.special_tokens_map,
        **switches,
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    roles = ", ".join(message["role"] for message in messages[:8])
    template = _default_template(tokenizer)
    try:
        text = render(template, variables, PROMPT_DATE.strftime)
    except TooMuch as error:
        problem = f"{error}, more than any chat template has to: {_MEND}"
    except TemplateError as error:
        problem = f"refuses messages of roles {roles}: {shown(error)}"
    except Exception as error:  # whatever code that came with a model can raise
        problem = (
            f"fails on messages of roles {roles}: {type(error).__name__}: {shown(error)}: {_MEND}"
        )
    else:
        if text and not LONE_SURROGATE_CHARACTER.search(text):
            return text
        what = "half a character" if text else "nothing"
        problem = f"writes {what} for messages of roles {roles}: {_MEND}"
    raise MismatchError(f"{name_of(tokenizer)}{_file_of(tokenizer)}: its chat template {problem}")


_MEND = "put a chat_template.jinja that works into the model's folder"


def _file_of(tokenizer: Any) -> str:
    """Return the file of the template, in brackets, where it is in a folder on this machine."""
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or ""))
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if folder.name and (folder / name).is_file():
            return f" ({name})"
    return ""


def _default_template(tokenizer: Any) -> str:
    """Return the template that a conversation without tools is written in.

    Raises MissingError where there is none, or several named ones and none by default.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if isinstance(template, str) and template:
        return template
    given = template_of(tokenizer)
    raise MissingError(f"{name_of(tokenizer)}: no chat template to use in {given[:80]!r}: {_MEND}")


def dated(template: str) -> str:
    """Return the template with PROMPT_DATE in place of its clock.

    What is passed to a template may be text only.
    """
    return _CLOCK.sub(lambda m: repr(PROMPT_DATE.strftime(m[2])), template)


def template_of(tokenizer: Any) -> str:
    """Return the template's source; of several named ones all, as JSON."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise MissingError(
            f"{name_of(tokenizer)}: no chat template; take a chat model, "
            "or add chat_template.jinja to its folder"
        )
    return template if isinstance(template, str) else canonical_json(template)


def name_of(tokenizer: Any) -> str:
    return f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"


def stop_ids(tokenizer: Any, generation_config_eos: int | Sequence[int] | None) -> list[int]:
    """Return the ids that end an answer, ascending.

    Those are the generation config's, the tokenizer's, and what its chat template puts after an
    assistant's message (a base model's config often names only <|endoftext|>). Raises MismatchError
    if there is none: the model could never stop.
    """
    ids: set[int] = set()
    if isinstance(generation_config_eos, int):
        ids.add(generation_config_eos)
    elif generation_config_eos is not None:
        ids.update(generation_config_eos)
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    if getattr(tokenizer, "chat_template", None):
        ids.update(_end_of_turn(tokenizer))
    if not ids:
        raise MismatchError(
            f"{name_of(tokenizer)}: no end-of-answer token; set eos_token in tokenizer_config.json"
        )
    return sorted(int(i) for i in ids)


def end_of_turn(tokenizer: Any, stop_ids: Sequence[int]) -> int:
    """Return the id that ends an answer whose text came without one.

    It is the template's own, else the first of `stop_ids`.
    """
    if getattr(tokenizer, "chat_template", None):
        for token in _end_of_turn(tokenizer):
            return token
    return stop_ids[0]


def _end_of_turn(tokenizer: Any) -> list[int]:
    """Return the special token that the template writes after an assistant's message, if any."""
    text = "zebra"
    ids = apply_template(
        tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
    )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tail: list[int] = []
    while ids and text not in tokenizer.decode(tail):
        if len(tail) == LONGEST_END:
            return []
        tail.insert(0, ids.pop())
    return [i for i in tail if i in special][:1]
