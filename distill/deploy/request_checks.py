"""What a request to `distill serve` may hold: known fields of the right type, in bounds.

llama.cpp trusts its clients: a grammar of 50,000 parentheses ends the process, and so may what its
many other fields hold. So a field that is not in the tables below is refused by name, and what is
passed on is written anew from what was checked.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from distill.text.surrogates import LONE_SURROGATE

MAX_DEPTH = 16  # lists and objects within each other
MAX_TOKENS = 1_000_000  # no context is longer; llama.cpp ends an answer at its own
MAX_MESSAGES = 10_000
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
REQUIRED = ("messages", "prompt", "content")  # where a request or a message may have them
ROLES = ("system", "user", "assistant")
SHOWN_CHARACTERS = 60  # of a value that is refused

Check = Callable[[Any], Any]  # returns the value to pass on; raises Refusal


class Refusal(Exception):
    """What a client gets instead of an answer: an HTTP status, and a message that says why."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises Refusal if it is none, or is one that parsers read in different ways.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {_shortened(str(error))}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, not {_shown(value)}")
    _require_shallow(value)
    return value


def checked(body: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """Return the fields of a request as they are passed on; one that is null is not said.

    Raises Refusal, naming the field, if one is unknown or its value cannot be.
    """
    passed = {}
    for name, value in body.items():
        if value is None or (name in EMPTY_IS_NONE and value in ([], {}, "none")):
            continue
        if name in TURNED_OFF:
            raise Refusal(400, f"{name}: {TURNED_OFF[name]}; llama.cpp's own llama-server has it")
        if name not in fields:
            known = ", ".join(fields)
            raise Refusal(400, f"{_shown(name)} is no field of this request; it takes {known}")
        passed[name] = _named(name, fields[name], value)
    if missing := [name for name in REQUIRED if name in fields and name not in passed]:
        raise Refusal(400, f"{missing[0]} is missing")
    return passed


def _named(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except Refusal as error:
        raise Refusal(error.status, f"{name}{error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"{_shown(twice)} stands twice in one object")
    return found


def _no_number(text: str) -> None:
    raise Refusal(400, f"{text} is not a number of JSON")


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        parts = [part for part in level if isinstance(part, (dict, list))]
        level = [
            inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)
        ]
        if not parts:
            return
    raise _too_deep()


def _too_deep() -> Refusal:
    return Refusal(400, f"lists and objects stand in each other more than {MAX_DEPTH} deep")


def _shown(value: Any) -> str:
    return _shortened(json.dumps(value, ensure_ascii=True))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def text(value: Any) -> str:
    """Return a text as training had it: NFC, which llama.cpp does not do by itself."""
    if not isinstance(value, str):
        raise Refusal(400, f" must be a text, not {_shown(value)}")
    if LONE_SURROGATE.search(value) and any("\ud800" <= c <= "\udfff" for c in value):
        raise Refusal(400, " holds half a character (a lone surrogate)")
    return unicodedata.normalize("NFC", value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(400, f" must be true or false, not {_shown(value)}")
    return value


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Refusal(400, f" must be a whole number from {low} to {high}, not {_shown(value)}")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise Refusal(400, f" must be a number from {low} to {high}, not {_shown(value)}")
        return value

    return check


def _stops(value: Any) -> list[str]:
    stops = value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS:
        raise Refusal(400, f" has {len(stops)} texts; {MAX_STOPS} are the most")
    checked_stops = [text(stop) for stop in stops]
    if not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in checked_stops):
        raise Refusal(400, f" must hold texts of 1 to {MAX_STOP_LENGTH} characters")
    return checked_stops


def _one(value: Any) -> int:
    """Check the number of answers."""
    if type(value) is not int or value != 1:
        raise Refusal(400, f" must be 1, not {_shown(value)}: one answer a request; ask once more")
    return value


def _logprobs(value: Any) -> bool | int:
    """Check a flag, as chats have it, or a number, as completions have it."""
    return flag(value) if isinstance(value, bool) else whole(0, 20)(value)


def _stream_options(value: Any) -> dict[str, Any]:
    return _object(value, {"include_usage": flag})


def _response_format(value: Any) -> dict[str, Any]:
    """Check that the answer is asked for as text, or as any JSON; a schema would be a grammar."""
    found = _object(value, {"type": text})
    if found.get("type") not in ("text", "json_object"):
        raise Refusal(400, f'.type must be "text" or "json_object", not {_shown(value)}')
    return found


def _object(value: Any, fields: Mapping[str, Check]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(400, f" must be an object, not {_shown(value)}")
    try:
        return checked(value, fields)
    except Refusal as error:
        raise Refusal(error.status, f".{error}") from None


def _messages(value: Any) -> list[dict[str, str]]:
    """Check a conversation. Each content becomes one text."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise Refusal(400, f" must be a list of 1 to {MAX_MESSAGES} messages, not {_shown(value)}")
    messages = []
    for index, message in enumerate(value):
        try:
            messages.append(_message(message))
        except Refusal as error:
            raise Refusal(error.status, f"[{index}]{error}") from None
    return messages


def _message(value: Any) -> dict[str, str]:
    message = _object(value, {"role": text, "content": _content, "reasoning_content": text})
    if message.get("role") == "developer":  # what OpenAI calls the system prompt now
        message["role"] = "system"
    if message.get("role") not in ROLES:
        given = _shown(message.get("role"))
        raise Refusal(400, f".role must be one of {', '.join((*ROLES, 'developer'))}, not {given}")
    if message["role"] == "user" and not any(map(_is_visible, message["content"])):
        raise Refusal(400, ".content is empty: there is nothing to answer")
    return message


def _is_visible(character: str) -> bool:
    return character.isprintable() and not character.isspace()


def _content(value: Any) -> str:
    """Return a content, or the text of its parts, one a line as llama.cpp joins them."""
    if not isinstance(value, list):
        return text(value)
    parts = [_object(part, {"type": text, "text": text}) for part in value]
    if not all(part.get("type") == "text" and "text" in part for part in parts):
        raise Refusal(400, " may have parts of the type text alone")
    return "\n".join(part["text"] for part in parts)


TURNED_OFF = {
    "grammar": "grammars are off, for a few kilobytes of them end llama.cpp",
    "json_schema": "schemas are off, for llama.cpp makes grammars of them",
    "tools": "tools are off, for the student was not trained on them",
    "tool_choice": "tools are off, for the student was not trained on them",
    "chat_template_kwargs": "the switches of the template are those of training",
}
# clients send these empty, too, which asks for nothing
EMPTY_IS_NONE = ("tools", "tool_choice", "functions", "logit_bias")
LENGTHS = ("max_tokens", "max_completion_tokens", "n_predict")
SAMPLING: dict[str, Check] = {
    "model": text,
    "user": text,
    **dict.fromkeys(LENGTHS, whole(1, MAX_TOKENS)),
    "temperature": number(0, 10),
    "top_p": number(0, 1),
    "top_k": whole(0, 1_000_000),
    "min_p": number(0, 1),
    "repeat_penalty": number(0.1, 10),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "seed": whole(-1, 2**32 - 1),
    "stop": _stops,
    "stream": flag,
    "stream_options": _stream_options,
    "response_format": _response_format,
    "n": _one,
    "logprobs": _logprobs,
    "top_logprobs": whole(0, 20),
    "cache_prompt": flag,
}
CHAT = {"messages": _messages, **SAMPLING}
COMPLETION = {"prompt": text, **SAMPLING}
TEMPLATE: dict[str, Check] = {"model": text, "messages": _messages}
TOKENIZE: dict[str, Check] = {
    "model": text,
    "content": text,
    "add_special": flag,
    "parse_special": flag,
    "with_pieces": flag,
}
