"""Write conversations in a model's chat template: the one place that applies one.

A tokenizer is passed in; nothing here imports transformers.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from distill.core.digests import canonical_json
from distill.errors import DataError, MismatchError, MissingError

Messages = Sequence[Mapping[str, str]]

# Templates call their switch by one of these names: Qwen, GLM and MiniCPM by the first, DeepSeek V3.1 and Kimi K2.5 by the second
SWITCHES = ("enable_thinking", "thinking")
# Llama 3.1 and gpt-oss write today's date into every prompt: then the same recipe would ask another question tomorrow
PROMPT_DATE = datetime(2026, 1, 1)
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def prompt_ids(
    tokenizer: Any,
    prompt_or_messages: str | Messages,
    *,
    system_prompt: str | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Token ids of the prompt, up to where the answer begins.

    `system_prompt` goes before the messages; `thinking` sets the template's switch, None leaves its default.
    Raises DataError if the messages bring a system message too, MissingError if the tokenizer has no chat template, and
    MismatchError if the template refuses the messages or has no such switch.
    """
    if isinstance(prompt_or_messages, str):
        messages = [{"role": "user", "content": prompt_or_messages}]
    else:
        messages = [dict(message) for message in prompt_or_messages]
    if system_prompt is not None:
        if messages[0]["role"] == "system":
            raise DataError(
                f"generate.system_prompt is set, and a prompt has a system message of its own "
                f"({messages[0]['content'][:60]!r}): remove one of them"
            )
        messages.insert(0, {"role": "system", "content": system_prompt})
    switches = {} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)
    return apply_template(tokenizer, messages, add_generation_prompt=True, **switches)


def user_turn(tokenizer: Any, system_prompt: str | None = None) -> tuple[list[int], int]:
    """(token ids up to where a user's text begins, the id that ends that text): given the first, a chat model writes what
    a user might say (Magpie: Xu et al. 2024, arXiv 2406.08464).

    Found by what the template makes of two different texts. Raises MismatchError, naming the tokenizer, where it puts a
    user's text in more than one place, changes more than that place with it, or ends it with plain text.
    """
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    found = []
    for said in ("zebra", "giraffe"):
        ids = apply_template(
            tokenizer, [*system, {"role": "user", "content": said}], add_generation_prompt=True
        )
        if tokenizer.decode(ids).count(said) != 1:
            raise MismatchError(
                f"{name_of(tokenizer)}: its chat template does not write a user's text once: {_NO_MAGPIE}"
            )
        start = max(i for i in range(len(ids)) if said in tokenizer.decode(ids[i:]))
        end = min(i for i in range(len(ids) + 1) if said in tokenizer.decode(ids[:i]))
        found.append((ids[:start], ids[end:]))
    (before, after), other = found
    added = tokenizer.added_tokens_decoder
    place = next((i for i, token in enumerate(after) if token in added), None)
    if (before, after) != other or place is None or tokenizer.decode(after[:place]).strip():
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template ends a user's text with {tokenizer.decode(after)[:40]!r}, no token to stop at: "
            f"{_NO_MAGPIE}"
        )
    return before, after[place]


_NO_MAGPIE = (
    "expand: magpie cannot be had from this teacher; take expand: self_instruct or personas"
)


def thinking_switch(tokenizer: Any, enable_thinking: bool) -> dict[str, bool]:
    """The template's variable that turns thinking on or off, as it is passed to it: {"enable_thinking": True}.

    Found by its effect on a prompt. Raises MismatchError where no name has one: the setting would be ignored.
    """
    for name in SWITCHES:
        if name in template_of(tokenizer):
            hello = [{"role": "user", "content": "hi"}]
            on, off = (
                apply_template(tokenizer, hello, add_generation_prompt=True, **{name: v})
                for v in (True, False)
            )
            if on != off:
                return {name: enable_thinking}
    raise MismatchError(
        f"{name_of(tokenizer)}: generate.enable_thinking is {str(enable_thinking).lower()}, but its chat template has no "
        f"{' and no '.join(SWITCHES)} that changes a prompt: set generate.enable_thinking to null"
    )


def thinking_of(tokenizer: Any, enable_thinking: bool | None) -> bool | None:
    """The same setting for a model that need not have the teacher's switch: None where its template has none."""
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
    """What the chat template writes for `messages`, as text; `begin_answer` adds what comes before the answer.

    Raises what `prompt_ids` raises.
    """
    switches = {} if enable_thinking is None else thinking_switch(tokenizer, enable_thinking)
    return _render(
        tokenizer, messages, tokenize=False, add_generation_prompt=begin_answer, **switches
    )


def apply_template(tokenizer: Any, messages: Messages, **options: Any) -> list[int]:
    result = _render(tokenizer, messages, tokenize=True, **options)
    ids = (
        result["input_ids"]
        if isinstance(result, Mapping) or hasattr(result, "input_ids")
        else result
    )
    return [int(i) for i in ids]


def _render(tokenizer: Any, messages: Messages, **options: Any) -> Any:
    from jinja2 import TemplateError

    if "strftime_now(" in template_of(tokenizer) and isinstance(tokenizer.chat_template, str):
        options["chat_template"] = dated(tokenizer.chat_template)
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise MismatchError(
            f"{name_of(tokenizer)}: its chat template refuses messages of roles {roles}: {error}"
        ) from None


def dated(template: str) -> str:
    """The template with PROMPT_DATE in place of its clock: what is passed to a template may be text only."""
    return _CLOCK.sub(lambda m: repr(PROMPT_DATE.strftime(m[2])), template)


def template_of(tokenizer: Any) -> str:
    """The template's source; of several named ones all, as JSON."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise MissingError(
            f"{name_of(tokenizer)}: no chat template; take a chat model, or add chat_template.jinja to its folder"
        )
    return template if isinstance(template, str) else canonical_json(template)


def name_of(tokenizer: Any) -> str:
    return f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"


def stop_ids(tokenizer: Any, generation_config_eos: int | Sequence[int] | None) -> list[int]:
    """Ids that end an answer, ascending: the generation config's, the tokenizer's, and what its chat template puts
    after an assistant's message (a base model's config often names only <|endoftext|>).

    Raises MismatchError if there is none: the model could never stop.
    """
    found: set[int] = set()
    if isinstance(generation_config_eos, int):
        found.add(generation_config_eos)
    elif generation_config_eos is not None:
        found.update(generation_config_eos)
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if getattr(tokenizer, "chat_template", None):
        found.update(_end_of_turn(tokenizer))
    if not found:
        raise MismatchError(
            f"{name_of(tokenizer)}: no end-of-answer token; set eos_token in tokenizer_config.json"
        )
    return sorted(int(i) for i in found)


def end_of_turn(tokenizer: Any, stop_ids: Sequence[int]) -> int:
    """The id that ends an answer whose text came without one: the template's own, else the first of `stop_ids`."""
    found = _end_of_turn(tokenizer) if getattr(tokenizer, "chat_template", None) else []
    return found[0] if found else stop_ids[0]


def _end_of_turn(tokenizer: Any) -> list[int]:
    """The special token that the template writes right after an assistant's message, if it writes one."""
    said = "zebra"
    ids = apply_template(
        tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]
    )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tail: list[int] = []
    while ids and said not in tokenizer.decode(tail):
        tail.insert(0, ids.pop())
    return [i for i in tail if i in special][:1]
