"""One request to an OpenAI-compatible server, and how it went: vLLM, llama.cpp, SGLang, Ollama, `transformers serve`, a paid API.

What a server can do is found out in connect.py. What it answers is paid for, so tokens are counted before anything is
read, and what cannot be read is kept as it came.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from distill.errors import RecipeError, ServerError
from distill.recipe.sections import Generate
from distill.teachers.server.adapters import (
    BROKEN_OFF,
    UNTOLD,
    Answer,
    Dialect,
    Question,
    Sampling,
    usage,
)
from distill.teachers.server.budget import Amount, Spent, Took, price

LOAD = frozenset({408, 409, 425, 429, 503, 529})  # not this question's fault
LATE = frozenset({504})
FATAL = {
    401: "refused the key",
    402: "has no balance left for this key",
    403: "forbids this key the model",
}
NO_BALANCE = re.compile(
    r"insufficient[_ ](account[_ ])?(quota|balance|credits?|funds)|balance.{0,20}(insufficient|not enough)|arrear|account_?overdue|"
    r"exceeded_current_quota|余额不足|欠费",
    re.IGNORECASE,
)
RAW_LENGTH = 20_000  # characters that are kept of what could not be read
_LONE = re.compile(
    r"\\u[dD][89a-fA-F]|[\ud800-\udfff]"
)  # perhaps: as JSON may write one, or as it is


class Denied(ServerError):
    """The server refuses the key; or the path to this key, which only another path can tell."""


class Refused(Exception):
    """The server answered that this one request is wrong; its text is recorded. `raw`: as it came, of which the message is the start."""

    def __init__(self, what: str, raw: str):
        super().__init__(what)
        self.raw = raw


class Trouble(Exception):
    """Worth another try: `wait` seconds at least, where the server said so. `kind` is a key of BLAME.

    `answer`: what to take where it stays so; `raw`: as it came."""

    # how much a try speaks against its question: it is given up at 30. Refusals for load and lost connections never do
    BLAME = {"load": 0, "lost": 0, "late": 3, "broken": 6, "other": 6, "unfinished": 10}  # noqa: RUF012 - a constant

    def __init__(
        self,
        what: str,
        kind: str,
        *,
        wait: float | None = None,
        raw: str = "",
        answer: Answer | None = None,
    ):
        super().__init__(what)
        self.kind, self.wait, self.raw, self.answer = kind, wait, raw, answer


class Unreachable(Exception):
    """Nothing answered: the network, the power or the whole server is away."""


@dataclass
class Server:
    """A connected server. `await ask(...)` sends one request and says how it went by return or exception.

    `switch` and `without`: how it is told to think, and fields that it does not take; `tells_reasons`: why an answer ended;
    `notes`: what else was found; `tokens_of` counts where it does not."""

    url: str
    model: str
    dialect: Dialect
    client: Any
    options: Generate | None = None
    spent: Spent = field(default_factory=Spent)
    switch: str = "chat_template_kwargs"
    without: frozenset[str] = frozenset()
    tells_reasons: bool = True
    notes: list[str] = field(default_factory=list)
    tokens_of: Callable[[str], int] = len
    hello: Question | None = None  # what it answered when it was met

    async def ask(self, question: Question, sampling: Sampling, took: Took | None = None) -> Answer:
        """`took` grows by what this try takes. Raises what `post` raises."""
        took = took or Took()
        body = self.dialect.body(self.model, question, replace(sampling, switch=self.switch))
        found = await self.post(
            {name: value for name, value in body.items() if name not in self.without}, took
        )
        answer = self.dialect.read(found)
        if not (answer.prompt_tokens or answer.answer_tokens):
            self.spent.num_untold += 1
            told = (
                self.prompt_tokens(question),
                len(answer.token_ids or ()) or self.tokens_of(answer.text),
            )
            self._count(took, Amount(0, *told))
        took.model = found.get("model") if isinstance(found.get("model"), str) else None
        if sampling.num_log_probs and answer.token_ids:
            fewest = min(
                (len(row) for row in answer.log_probs or [{}] if row is not None),
                default=sampling.num_log_probs,
            )
            if fewest < sampling.num_log_probs:
                what = f"log-probs of {fewest} tokens where {sampling.num_log_probs} were asked for (capture.top_k)"
                raise Trouble(what, "other", raw=_shortened(json.dumps(found, ensure_ascii=False)))
        return replace(self._ended(answer, sampling), took=took)

    def _ended(self, answer: Answer, sampling: Sampling) -> Answer:
        """With the model's own end, or none. Raises Trouble where something else ended it."""
        if answer.finish_reason in BROKEN_OFF:
            raise Trouble(
                f"it broke the answer off ({answer.finish_reason})",
                "unfinished",
                raw=_shortened(answer.text),
            )
        if answer.finish_reason != UNTOLD:
            return answer
        if set(answer.token_ids or ()) & set(sampling.stop_ids):
            return replace(answer, finish_reason="stop")
        cut = replace(answer, finish_reason="length")
        if self.tells_reasons:
            raise Trouble("it does not say why the answer ended", "unfinished", answer=cut)
        return cut

    def prompt_tokens(self, question: Question) -> int:
        return len(question.prompt_ids) or sum(
            self.tokens_of(message["content"]) for message in question.messages
        )

    async def post(self, body: dict[str, Any], took: Took) -> dict[str, Any]:
        """The answer's JSON, which the dialect can read. Raises Unreachable, Trouble, Refused, or ServerError where going on is useless."""
        import httpx2

        data = json.dumps(body, ensure_ascii=False).encode()
        took.start = took.start or time.time()
        self._count(took, Amount(requests=1))
        self.spent.at_once += 1
        self.spent.most_at_once = max(self.spent.most_at_once, self.spent.at_once)
        try:
            response = await self.client.post(_join(self.url, self.dialect.path), content=data)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreachable(str(error) or type(error).__name__) from None
        except httpx2.TimeoutException as error:
            raise Trouble(f"no answer in time ({type(error).__name__})", "late") from None
        except httpx2.RequestError as error:
            raise Trouble(
                f"the connection broke ({error or type(error).__name__})", "lost"
            ) from None
        finally:
            self.spent.at_once -= 1
            took.end = time.time()
        self._count(took, Amount(num_bytes=len(data) + len(response.content)))
        try:
            found = repaired(response.json()) if _LONE.search(response.text) else response.json()
        except ValueError:
            found = None
        prompt_tokens, answer_tokens = usage(found)
        self._count(took, Amount(0, prompt_tokens, answer_tokens))
        self._check_status(response, found)
        words = self._words(response)
        if found is None:
            raise Trouble(f"not JSON: {words[:60]!r}", "broken", raw=self._raw(response))
        try:
            self.dialect.read(found)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            if said := _said(found):  # an error with status 200
                self._check_balance(200, said, words)
                kind = "load" if _code(found) in LOAD else "other"
                raise Trouble(
                    f"an error for an answer: {words}", kind, raw=self._raw(response)
                ) from None
            what = f"an answer that is not what was asked for ({type(error).__name__} {error})"
            raise Trouble(what, "other", raw=self._raw(response)) from None
        return found

    def _check_status(self, response: Any, found: Any) -> None:
        status, words = response.status_code, self._words(response)
        if status < 300:
            return
        if status in (400, 403, 429):
            self._check_balance(status, _said(found) if isinstance(found, dict) else words, words)
        if status in FATAL:
            kind = ServerError if status == 402 else Denied
            raise kind(f"teacher.server: {self.url} {FATAL[status]} (status {status}): {words}")
        if 300 <= status < 400:  # not followed: it could lead the key anywhere
            where = (
                f"it sends on to {response.headers.get('location')}; name the server's own address"
            )
            raise Trouble(f"status {status}: {where}", "other", raw=self._raw(response))
        if status in LOAD or status >= 500:
            kind = "load" if status in LOAD else "late" if status in LATE else "broken"
            raise Trouble(
                f"status {status}: {words}",
                kind,
                wait=_retry_after(response.headers),
                raw=self._raw(response),
            )
        raise Refused(f"status {status}: {words}", self._raw(response))

    def _check_balance(self, status: int, said: str, words: str) -> None:
        if NO_BALANCE.search(said):
            raise ServerError(f"teacher.server: {self.url} {FATAL[402]} (status {status}): {words}")

    def _count(self, took: Took, amount: Amount) -> None:
        if self.options is not None:
            amount.cost = price(self.options, amount.prompt_tokens, amount.answer_tokens)
        took.add(amount)
        self.spent.mine.add(amount)

    async def is_back(self) -> bool:
        import httpx2

        try:
            await self.client.get(_join(self.url, "v1/models"))
        except httpx2.TransportError:
            return False
        return True

    async def is_well(self, sampling: Sampling) -> bool:
        """Whether it answers what it answered when it was met: then it is a question that is at fault, and not the server."""
        assert self.hello is not None
        try:
            await self.ask(self.hello, replace(sampling, max_new_tokens=2))
        except Trouble as error:
            return error.answer is not None
        except (Refused, Unreachable):
            return False
        return True

    def _masked(self, text: str) -> str:
        """Some servers repeat the key, and what they say is shown and written."""
        key = self.client.headers.get("authorization", "").removeprefix("Bearer ")
        return repaired(text.replace(key, "***") if key else text)

    def _words(self, response: Any) -> str:
        """The start of what it said."""
        return " ".join(self._masked(response.text).split())[:200]

    def _raw(self, response: Any) -> str:
        return _shortened(self._masked(response.text))


def _shortened(text: str) -> str:
    return text if len(text) <= RAW_LENGTH else f"{text[:RAW_LENGTH]} ... {len(text)} characters"


def _said(found: dict[str, Any]) -> str:
    """Code, kind and words of the error that the JSON holds, or nothing. Not all of it: some servers repeat the prompt."""
    parts: list[Any] = []
    error, base = found.get("error"), found.get("base_resp")  # MiniMax has the second
    for place in (found, error, base):
        if isinstance(place, dict):
            parts += [place.get(name) for name in ("code", "type", "message", "status_msg")]
    parts += [error] if isinstance(error, str) else []
    return " ".join(str(part) for part in parts if part)


def _code(found: dict[str, Any]) -> Any:
    error = found.get("error")
    return error.get("code") if isinstance(error, dict) else None


def repaired(value: Any) -> Any:
    """The same without half a character: a lone surrogate cannot be written, nor read by a tokenizer; U+FFFD says that it was there."""
    if isinstance(value, str):
        return (
            value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if _LONE.search(value)
            else value
        )
    if isinstance(value, list):
        return [repaired(part) for part in value]
    if isinstance(value, dict):
        return {repaired(name): repaired(part) for name, part in value.items()}
    return value


def _join(url: str, path: str) -> str:
    """A path with a version in it (/v1, /api/paas/v4, /v1beta/openai) is used as it is; else /v1 is added: `http://host:8000` and
    `http://host:8000/v1` mean the same server. llama.cpp's own paths lie beside the version."""
    base = url.rstrip("/")
    has_version = re.search(r"/v\d\w*(/|$)", urlsplit(base).path) is not None
    if path.startswith("v1/"):
        return f"{base}/{path.removeprefix('v1/')}" if has_version else f"{base}/{path}"
    return f"{re.sub(r'/v[0-9]+$', '', base) if has_version else base}/{path}"


def _retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
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


def key_from_environment(name: str | None) -> str | None:
    """The key; RecipeError where the recipe names a variable that is not set, or holds no key. Never printed, never written."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()  # a line end comes along from files
    if not key:
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: no such environment variable; set it to the server's key"
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP library would refuse it, and quote it
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: a key is printable ASCII, and this variable's value is not; set it again"
        )
    return key
