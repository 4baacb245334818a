"""One request to an OpenAI-compatible server, and how it went.

vLLM, llama.cpp, SGLang, Ollama, `transformers serve`, a paid API. What a server can do is found out in
discover.py. What it answers is paid for, so tokens are counted before anything is read, and what cannot
be read is kept as it came.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from distill.errors import RecipeError
from distill.models.sampling import Sampling
from distill.teachers.requests import Completion
from distill.teachers.server.adapters import (
    BROKEN_OFF,
    FIRST_SWITCH,
    UNKNOWN_REASON,
    CompletionRequest,
    ServerAdapter,
    token_counts,
)
from distill.teachers.server.budget import FREE, AnswerUsage, Budget, Prices, Usage
from distill.teachers.server.replies import (
    LOAD,
    RequestRejected,
    RetryableError,
    ServerAway,
    check_balance,
    check_status,
    code_of,
    error_of,
    join_url,
    shortened,
)
from distill.text.surrogates import LONE_SURROGATE, without_lone_surrogates

SHOWN_CHARACTERS = 200  # of what a server says


@dataclass(frozen=True)
class Endpoint:
    """A model on a server: `model` is its name there, `timeout` is in seconds."""

    url: str
    model: str
    api_key_env: str | None = None
    timeout: float = 600.0
    prices: Prices = FREE


@dataclass
class Server:
    """A connected server. `await ask(...)` sends one request and says how it went.

    `switch` and `without`: how it is told to think, and fields that it does not take. `tells_reasons`:
    it says why an answer ended. `notes`: what else was found. `tokens_of` counts where it does not.
    `probe_request` is what it answered when it was found.
    """

    endpoint: Endpoint
    adapter: ServerAdapter
    client: Any
    budget: Budget
    probe_request: CompletionRequest
    switch: str = FIRST_SWITCH
    without: frozenset[str] = frozenset()
    tells_reasons: bool = True
    notes: list[str] = field(default_factory=list)
    tokens_of: Callable[[str], int] = len

    @property
    def url(self) -> str:
        return self.endpoint.url

    async def ask(
        self, request: CompletionRequest, sampling: Sampling, usage: AnswerUsage | None = None
    ) -> Completion:
        """Return the completion; `usage` grows by what this try takes. Raises what `post` raises."""
        usage = usage or AnswerUsage()
        body = self.adapter.body(self.endpoint.model, request, sampling, self.switch)
        sent = {name: value for name, value in body.items() if name not in self.without}
        reply = await self.post(sent, usage)
        completion = self.adapter.read(reply)
        if not (completion.prompt_tokens or completion.answer_tokens):
            self._count_ourselves(request, completion, usage)
        model = reply.get("model")
        usage.model = model if isinstance(model, str) else None
        self._check_log_probs(completion, sampling, reply)
        return replace(self._ended(completion, sampling), usage=usage)

    def _count_ourselves(
        self, request: CompletionRequest, completion: Completion, usage: AnswerUsage
    ) -> None:
        self.budget.num_unreported += 1
        num_answer = len(completion.token_ids or ()) or self.tokens_of(completion.text)
        self._count(usage, Usage(0, self.prompt_tokens(request), num_answer))

    def _check_log_probs(
        self, completion: Completion, sampling: Sampling, reply: dict[str, Any]
    ) -> None:
        """Raise RetryableError where fewer log-probs came with a token than were asked for."""
        wanted = sampling.num_log_probs
        if not wanted or not completion.token_ids:
            return
        rows = completion.log_probs or [{}]
        fewest = min((len(row) for row in rows if row is not None), default=wanted)
        if fewest < wanted:
            raise RetryableError(
                f"log-probs of {fewest} tokens where {wanted} were asked for (capture.top_k)",
                "other",
                raw=shortened(json.dumps(reply, ensure_ascii=False)),
            )

    def _ended(self, completion: Completion, sampling: Sampling) -> Completion:
        """Return it with the model's own end, or none.

        Raises RetryableError where something else ended it.
        """
        if completion.finish_reason in BROKEN_OFF:
            raise RetryableError(
                f"it broke the answer off ({completion.finish_reason})",
                "unfinished",
                raw=shortened(completion.text),
            )
        if completion.finish_reason != UNKNOWN_REASON:
            return completion
        if set(completion.token_ids or ()) & set(sampling.stop_ids):
            return replace(completion, finish_reason="stop")
        cut = replace(completion, finish_reason="length")
        if self.tells_reasons:
            raise RetryableError(
                "it does not say why the answer ended", "unfinished", completion=cut
            )
        return cut

    def prompt_tokens(self, request: CompletionRequest) -> int:
        if request.prompt_ids:
            return len(request.prompt_ids)
        return sum(self.tokens_of(message["content"]) for message in request.messages)

    async def post(self, body: dict[str, Any], usage: AnswerUsage) -> dict[str, Any]:
        """Return the answer's JSON, which the adapter can read.

        Raises ServerAway, RetryableError, RequestRejected, or ServerError where going on is useless.
        """
        response = await self._send(json.dumps(body, ensure_ascii=False).encode(), usage)
        reply = _json_of(response)
        self._count(usage, Usage(0, *token_counts(reply)))
        start = " ".join(self._masked(response.text).split())[:SHOWN_CHARACTERS]
        raw = shortened(self._masked(response.text))
        check_status(self.url, response, reply, start, raw)
        if reply is None:
            raise RetryableError(f"not JSON: {start[:60]!r}", "broken", raw=raw)
        try:
            self.adapter.read(reply)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            if message := error_of(reply):  # an error with status 200
                check_balance(self.url, 200, message, start)
                kind = "load" if code_of(reply) in LOAD else "other"
                raise RetryableError(f"an error for an answer: {start}", kind, raw=raw) from None
            problem = f"{type(error).__name__} {error}"
            raise RetryableError(
                f"an answer that is not what was asked for ({problem})", "other", raw=raw
            ) from None
        return reply

    async def _send(self, data: bytes, usage: AnswerUsage) -> Any:
        """Return the response. Raises ServerAway or RetryableError where none came."""
        import httpx2

        usage.start = usage.start or time.time()
        self._count(usage, Usage(requests=1))
        self.budget.at_once += 1
        self.budget.most_at_once = max(self.budget.most_at_once, self.budget.at_once)
        try:
            response = await self.client.post(join_url(self.url, self.adapter.path), content=data)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ServerAway(str(error) or type(error).__name__) from None
        except httpx2.TimeoutException as error:
            raise RetryableError(f"no answer in time ({type(error).__name__})", "late") from None
        except httpx2.RequestError as error:
            raise RetryableError(
                f"the connection broke ({error or type(error).__name__})", "lost"
            ) from None
        finally:
            self.budget.at_once -= 1
            usage.end = time.time()
        self._count(usage, Usage(num_bytes=len(data) + len(response.content)))
        return response

    def _count(self, usage: AnswerUsage, more: Usage) -> None:
        more.cost = self.endpoint.prices.cost(more.prompt_tokens, more.answer_tokens)
        usage.add(more)
        self.budget.own.add(more)

    async def is_back(self) -> bool:
        import httpx2

        try:
            await self.client.get(join_url(self.url, "v1/models"))
        except httpx2.TransportError:
            return False
        return True

    async def is_well(self, sampling: Sampling) -> bool:
        """Return whether it answers what it answered when it was found.

        Then it is a request that is at fault, and not the server.
        """
        try:
            await self.ask(self.probe_request, replace(sampling, max_new_tokens=2))
        except RetryableError as error:
            return error.completion is not None
        except (RequestRejected, ServerAway):
            return False
        return True

    def _masked(self, text: str) -> str:
        """Return the text without the key: some servers repeat it, and what they say is shown and written."""
        key = self.client.headers.get("authorization", "").removeprefix("Bearer ")
        return without_lone_surrogates(text.replace(key, "***") if key else text)


def _json_of(response: Any) -> Any:
    """Return the response's JSON; None where it is none."""
    try:
        reply = response.json()
        return without_lone_surrogates(reply) if LONE_SURROGATE.search(response.text) else reply
    except ValueError:
        return None


def key_from_environment(name: str | None) -> str | None:
    """Return the key, which is never printed and never written.

    Raises RecipeError where the recipe names a variable that is not set, or holds no key.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()  # a line end comes along from files
    if not key:
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: no such environment variable; "
            "set it to the server's key"
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP library would refuse it, and quote it
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: a key is printable ASCII, "
            "and this variable's value is not; set it again"
        )
    return key
