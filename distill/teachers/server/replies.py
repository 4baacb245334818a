"""What a server's reply means: the errors that it can be, read from its status and its words."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from distill.errors import ServerError
from distill.teachers.requests import Completion
from distill.teachers.server.key import KeyMask
from distill.text.surrogates import LONE_SURROGATE, without_lone_surrogates

LOAD = frozenset({408, 409, 425, 429, 503, 529})  # not this request's fault
LATE = frozenset({504})
NO_BALANCE_STATUS = 402
FATAL = {
    401: "refused the key",
    NO_BALANCE_STATUS: "has no balance left for this key",
    403: "forbids this key the model",
}
NO_BALANCE = re.compile(
    r"insufficient[_ ](account[_ ])?(quota|balance|credits?|funds)"
    r"|balance.{0,20}(insufficient|not enough)|arrear|account_?overdue"
    r"|exceeded_current_quota|余额不足|欠费",
    re.IGNORECASE,
)
RAW_LENGTH = 20_000  # characters that are kept of what could not be read
SHOWN_CHARACTERS = 200  # of what a server says
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class AuthError(ServerError):
    """The server refuses the key; or the path to this key, which only another path can tell."""


class RequestRejected(Exception):
    """The server answered that this one request is wrong; its text is recorded.

    `raw`: as it came, of which the message is the start.
    """

    def __init__(self, message: str, raw: str):
        super().__init__(message)
        self.raw = raw


class RetryableError(Exception):
    """Worth another try, after `wait` seconds at least where the server said so.

    `kind` is a key of BLAME. `completion`: what to take where it stays so. `raw`: as it came.
    """

    # how much a try speaks against its request: it is given up at 30. Refusals for load and lost
    # connections never do
    BLAME = {  # noqa: RUF012 - a constant
        "load": 0,
        "lost": 0,
        "late": 3,
        "broken": 6,
        "other": 6,
        "unfinished": 10,
        "useless": 30,
    }

    def __init__(
        self,
        message: str,
        kind: str,
        *,
        wait: float | None = None,
        raw: str = "",
        completion: Completion | None = None,
    ):
        super().__init__(message)
        self.kind, self.wait, self.raw, self.completion = kind, wait, raw, completion


class ServerAway(Exception):
    """Nothing answered: the network, the power or the whole server is away."""


@dataclass(frozen=True)
class Reply:
    """What a server said: its JSON, None where it is none, and its words without the key."""

    status: int
    headers: Mapping[str, str]
    text: str
    json: Any
    key: KeyMask

    @cached_property
    def start(self) -> str:
        """Return how its words begin, on one line."""
        return shown(self.key.start_of(self.text, RAW_LENGTH))

    @cached_property
    def raw(self) -> str:
        """Return what is kept of its words, and how many they were."""
        start = self.key.start_of(self.text, RAW_LENGTH)
        return shortened(without_lone_surrogates(start), len(self.text))


def json_of(content: bytes, text: str) -> Any:
    """Return the JSON of an answer; None where it is none, or nested beyond all use."""
    try:
        found = json.loads(content)
        return without_lone_surrogates(found) if LONE_SURROGATE.search(text) else found
    except (ValueError, RecursionError):
        return None


def shown(text: str) -> str:
    """Return the start of what others wrote, on one line: a terminal obeys none of it."""
    return " ".join(_CONTROL.sub(" ", without_lone_surrogates(text)).split())[:SHOWN_CHARACTERS]


def check_status(url: str, reply: Reply) -> None:
    """Raise what the status means, unless it means an answer."""
    status = reply.status
    if status < 300:
        return
    if status in (400, 403, 429):
        check_balance(url, reply, error_of(reply.json) or reply.start)
    if status in FATAL:
        error_type = ServerError if status == NO_BALANCE_STATUS else AuthError
        raise error_type(f"teacher.server: {url} {FATAL[status]} (status {status}): {reply.start}")
    if status < 400:  # not followed: it could lead the key anywhere
        location = shown(reply.key.mask(reply.headers.get("location", "nowhere")))
        raise RetryableError(
            f"status {status}: it sends on to {location}; name the server's own address",
            "other",
            raw=reply.raw,
        )
    kind = _kind_of(status)
    if kind is None:
        raise RequestRejected(f"status {status}: {reply.start}", reply.raw)
    wait = retry_after(reply.headers)
    raise RetryableError(f"status {status}: {reply.start}", kind, wait=wait, raw=reply.raw)


def _kind_of(status: int) -> str | None:
    """Return the kind of trouble that a status is; None where the request is at fault."""
    if status in LOAD:
        return "load"
    if status < 500:
        return None
    return "late" if status in LATE else "broken"


def check_balance(url: str, reply: Reply, message: str) -> None:
    """Raise ServerError where the message says that the account is empty."""
    if NO_BALANCE.search(message):
        problem = FATAL[NO_BALANCE_STATUS]
        raise ServerError(f"teacher.server: {url} {problem} (status {reply.status}): {reply.start}")


def error_of(reply: Any) -> str:
    """Return code, kind and words of the error that the JSON holds, or nothing.

    Not all of it: some servers repeat the prompt.
    """
    if not isinstance(reply, dict):
        return ""
    parts: list[Any] = []
    error, base = reply.get("error"), reply.get("base_resp")  # MiniMax has the second
    for holder in (reply, error, base):
        if isinstance(holder, dict):
            parts += [holder.get(name) for name in ("code", "type", "message", "status_msg")]
    parts.append(error)
    return " ".join(str(part) for part in parts if part and isinstance(part, str | int))


def says_load(reply: dict[str, Any]) -> bool:
    """Return whether the error in the JSON is one of load."""
    error = reply.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, int) and code in LOAD


def shortened(text: str, length: int | None = None) -> str:
    """Return the start of a text of so many characters."""
    length = length or len(text)
    if length <= RAW_LENGTH:
        return text[:RAW_LENGTH]
    return f"{text[:RAW_LENGTH]} ... {length} characters"


def join_url(url: str, path: str) -> str:
    """Return the address of a path on the server.

    A path with a version in it (/v1, /api/paas/v4, /v1beta/openai) is used as it is; else /v1 is
    added: `http://host:8000` and `http://host:8000/v1` mean the same server. llama.cpp's own paths
    lie beside the version.
    """
    base = url.rstrip("/")
    has_version = re.search(r"/v\d\w*(/|$)", urlsplit(base).path) is not None
    if path.startswith("v1/"):
        return f"{base}/{path.removeprefix('v1/')}" if has_version else f"{base}/{path}"
    return f"{re.sub(r'/v[0-9]+$', '', base)}/{path}" if has_version else f"{base}/{path}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None without one.

    They may be infinite: who waits decides how long.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return None if seconds is None or math.isnan(seconds) else max(0.0, seconds)


def _seconds_until(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
