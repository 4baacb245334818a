"""What a row of prompts asks: its conversation, in whichever of the usual forms it is written.

`prompt`: text, or a list of turns (TRL, verl). `messages`, or `conversations` (ShareGPT): a list of
turns. A turn has role and content, or from and value; a content is text or a list of parts.
"""

from dataclasses import dataclass
from typing import Any

from distill.core.jsonl import BadRow, Row
from distill.errors import shown

FIELDS = ("prompt", "messages", "conversations")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_TOOL_ROLES = {"tool", "function", "function_call", "observation", "tool_call", "tool_response"}
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Conversation:
    """Turns of role and content, the last one the user's.

    `answers`: the assistant's turns that stood after it.
    """

    turns: list[dict[str, str]]
    answers: tuple[str, ...] = ()


def conversation(row: Row, where: str) -> Conversation:
    """Return what the row asks; a user's turn without content is an empty text.

    Raise BadRow for what is no conversation, or one with tools or pictures.
    """
    given = [name for name in FIELDS if row.get(name) is not None]
    if len(given) > 1:
        raise BadRow(
            "two_prompts",
            f"{where}: both {given[0]} and {given[1]}: give one of them, or map it by columns",
        )
    if not given:
        return Conversation([{"role": "user", "content": _nothing(row, where)}])
    value = row[given[0]]
    if isinstance(value, str) and given[0] == "prompt":
        return Conversation([{"role": "user", "content": value}])
    if not isinstance(value, list):
        raise BadRow("no_prompt", f"{where}: {given[0]} {shown(value)} is no {_form(given[0])}")
    return _of_turns([_turn(turn, f"{where}: turn {n}") for n, turn in enumerate(value, 1)], where)


def _form(name: str) -> str:
    turns = "list of turns with role (system, user, assistant) and content"
    return f"text, or {turns}" if name == "prompt" else turns


def _nothing(row: Row, where: str) -> str:
    """Return an empty text for a prompt that is null. Raise BadRow for a row without a prompt."""
    if any(name in row for name in FIELDS):
        return ""
    raise BadRow(
        "no_prompt",
        f"{where}: no prompt: give either `prompt` (text) or `messages` (a list of role and content)",
    )


Turn = tuple[str, str | None]  # role, and content if it has one


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise BadRow("no_turn", f"{where}: {shown(turn)} is no role and content")
    name = turn.get("role") or turn.get("from")
    if name in _TOOL_ROLES or any(turn.get(call) for call in _CALLS):
        raise BadRow(
            "tool_turn",
            f"{where}: calls a tool or is what one returned, and the teacher has no tools here; "
            "take such conversations out",
        )
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadRow(
            "unknown_role", f"{where}: role {shown(name)}; known: {', '.join(ROLES)}, of tools none"
        )
    content = turn.get("content")
    return role, _text(turn.get("value") if content is None else content, where)


def _text(content: Any, where: str) -> str | None:
    """Return a turn's text; the parts of one are joined by line ends, as vLLM and llama.cpp do."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("no_text", f"{where}: content {shown(content)} is no text")
    return "\n".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str) or part.get("type", "text") not in ("text", "input_text"):
        raise BadRow("no_text", f"{where}: a part of its content is no text: {shown(part)}")
    return text


def _of_turns(turns: list[Turn], where: str) -> Conversation:
    """Return the turns up to the user's last one."""
    asked = list(turns)
    while asked and asked[-1][0] == "assistant":
        asked.pop()
    if not asked or asked[-1][0] != "user":
        last = f"ends with the {asked[-1][0]}'s" if asked else "has no user's"
        raise BadRow("no_user_turn", f"{where}: the conversation {last} turn: nothing is asked")
    asked[-1] = ("user", asked[-1][1] or "")
    # a system message that is null is none
    said = [(role, content) for role, content in asked if (role, content) != ("system", None)]
    for number, (role, content) in enumerate(said, 1):
        if content is None:
            raise BadRow("null_content", f"{where}: turn {number}, the {role}'s, has no content")
    return Conversation(
        [{"role": role, "content": content or ""} for role, content in said],
        answers=tuple(content or "" for _, content in turns[len(asked) :]),
    )
