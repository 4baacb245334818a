"""What a server's reply means: the errors that it can be, read from its status and its words."""

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from distill.errors import ServerError
from distill.teachers.requests import Completion

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
    BLAME = {"load": 0, "lost": 0, "late": 3, "broken": 6, "other": 6, "unfinished": 10}  # noqa: RUF012 - a constant

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


def check_status(url: str, response: Any, reply: Any, start: str, raw: str) -> None:
    """Raise what the status means, unless it means an answer.

    reply: the response's JSON, if it is JSON. start, raw: how its text begins, and all of it.
    """
    status = response.status_code
    if status < 300:
        return
    if status in (400, 403, 429):
        check_balance(url, status, error_of(reply) if isinstance(reply, dict) else start, start)
    if status in FATAL:
        error_type = ServerError if status == NO_BALANCE_STATUS else AuthError
        raise error_type(f"teacher.server: {url} {FATAL[status]} (status {status}): {start}")
    if status < 400:  # not followed: it could lead the key anywhere
        location = response.headers.get("location")
        raise RetryableError(
            f"status {status}: it sends on to {location}; name the server's own address",
            "other",
            raw=raw,
        )
    kind = _kind_of(status)
    if kind is None:
        raise RequestRejected(f"status {status}: {start}", raw)
    wait = retry_after(response.headers)
    raise RetryableError(f"status {status}: {start}", kind, wait=wait, raw=raw)


def _kind_of(status: int) -> str | None:
    """Return the kind of trouble that a status from 400 on is; None where the request is at fault."""
    if status in LOAD:
        return "load"
    if status < 500:
        return None
    return "late" if status in LATE else "broken"


def check_balance(url: str, status: int, message: str, start: str) -> None:
    """Raise ServerError where the message says that the account is empty."""
    if NO_BALANCE.search(message):
        problem = FATAL[NO_BALANCE_STATUS]
        raise ServerError(f"teacher.server: {url} {problem} (status {status}): {start}")


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
    if isinstance(error, str):
        parts.append(error)
    return " ".join(str(part) for part in parts if part)


def code_of(reply: dict[str, Any]) -> Any:
    error = reply.get("error")
    return error.get("code") if isinstance(error, dict) else None


def shortened(text: str) -> str:
    if len(text) <= RAW_LENGTH:
        return text
    return f"{text[:RAW_LENGTH]} ... {len(text)} characters"


def join_url(url: str, path: str) -> str:
    """Return the address of a path on the server.

    A path with a version in it (/v1, /api/paas/v4, /v1beta/openai) is used as it is; else /v1 is added:
    `http://host:8000` and `http://host:8000/v1` mean the same server. llama.cpp's own paths lie beside
    the version.
    """
    base = url.rstrip("/")
    has_version = re.search(r"/v\d\w*(/|$)", urlsplit(base).path) is not None
    if path.startswith("v1/"):
        return f"{base}/{path.removeprefix('v1/')}" if has_version else f"{base}/{path}"
    return f"{re.sub(r'/v[0-9]+$', '', base)}/{path}" if has_version else f"{base}/{path}"


def retry_after(headers: Any) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None without one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
