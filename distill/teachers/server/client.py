"""One request to an OpenAI-compatible server, and how it went.

vLLM, llama.cpp, SGLang, Ollama, `transformers serve`, a paid API. What a server can do is found out
in discover.py. What it answers is paid for, so tokens are counted before anything is read, and what
cannot be read is kept as it came. What it says may be wrong or hostile: it is checked here, where
it arrives.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from distill.errors import DistillError, ServerError
from distill.models.sampling import Sampling
from distill.signals.from_server import problem_of
from distill.teachers.requests import Completion
from distill.teachers.server.adapters import (
    BROKEN_OFF,
    FIRST_SWITCH,
    UNKNOWN_REASON,
    UNREADABLE,
    CompletionRequest,
    PromptScores,
    ServerAdapter,
    token_counts,
)
from distill.teachers.server.budget import FREE, AnswerUsage, Budget, Prices, Usage
from distill.teachers.server.checks import (
    UNKNOWN,
    Vocabulary,
    check_ids,
    check_num_log_probs,
    check_text,
)
from distill.teachers.server.exchange import Bounds, Response, exchange
from distill.teachers.server.key import KeyMask
from distill.teachers.server.replies import (
    Reply,
    RequestRejected,
    RetryableError,
    ServerAway,
    check_balance,
    check_status,
    error_of,
    join_url,
    json_of,
    says_load,
    shortened,
    shown,
)

# Of an answer at most: its frame, pages of errors, and reasoning that max_tokens does not count;
# what it repeats of the request; and each token, and each rival that comes with it
FRAME_BYTES, TIMES_REPEATED, BYTES_PER_TOKEN = 4 << 20, 4, 256
# Another tokenizer may make four tokens of what is one for ours; a count below that is made up
FEWER_ELSEWHERE = 4


@dataclass(frozen=True)
class Endpoint:
    """A model on a server: `model` is its name there, `timeout` is in seconds.

    `local_only`: it must be on this machine or its own network.
    """

    url: str
    model: str
    api_key_env: str | None = None
    timeout: float = 600.0
    prices: Prices = FREE
    local_only: bool = False


@dataclass
class Server:
    """A connected server. `await ask(...)` sends one request and says how it went.

    `key` takes the key out of what it says. `switch` and `without`: how it is told to think, and
    fields that it does not take. `tells_reasons`: it says why an answer ended. `notes`: what else
    was found. `probe_request` is what it answered when it was found. `is_suspect`: its last answer
    had log-probs that are none.
    """

    endpoint: Endpoint
    adapter: ServerAdapter
    client: Any
    budget: Budget
    probe_request: CompletionRequest
    key: KeyMask = field(default_factory=lambda: KeyMask(None))
    vocabulary: Vocabulary = UNKNOWN
    switch: str = FIRST_SWITCH
    without: frozenset[str] = frozenset()
    tells_reasons: bool = True
    notes: list[str] = field(default_factory=list)
    is_suspect: bool = False

    @property
    def url(self) -> str:
        return self.endpoint.url

    async def ask(
        self, request: CompletionRequest, sampling: Sampling, usage: AnswerUsage | None = None
    ) -> Completion:
        """Return the completion; `usage` grows by what this try takes.

        Raises ServerAway, RetryableError, RequestRejected, or ServerError where going on is
        useless; none of them holds the key.
        """
        usage = usage or AnswerUsage()
        body = self.adapter.body(self.endpoint.model, request, sampling, self.switch)
        sent = {name: value for name, value in body.items() if name not in self.without}
        with self._masked_errors():
            reply, completion = await self._post(sent, sampling, usage)
            self._count_what_is_untold(request, completion, usage)
            model = reply.json.get("model")
            usage.model = shown(self.key.mask(model)) if isinstance(model, str) else None
            completion = self._checked(request, completion, sampling, reply)
            return replace(self._ended(completion, sampling), usage=usage)

    @contextmanager
    def _masked_errors(self) -> Iterator[None]:
        """Take the key out of whatever is raised: a server may have put it anywhere."""
        try:
            yield
        except (DistillError, RetryableError, RequestRejected, ServerAway) as error:
            error.args = (self.key.mask(str(error)),)
            raise

    async def _post(
        self, body: dict[str, Any], sampling: Sampling, usage: AnswerUsage
    ) -> tuple[Reply, Completion]:
        """Return what came, which is JSON, and the completion that it holds."""
        data = json.dumps(body, ensure_ascii=False).encode()
        response = await self._send(data, sampling, usage)
        content = json_of(response.content, response.text)
        reply = Reply(response.status, response.headers, response.text, content, self.key)
        self._count(usage, Usage(0, *token_counts(content)))
        check_status(self.url, reply)
        if content is None:
            raise RetryableError(f"not JSON: {reply.start[:60]!r}", "broken", raw=reply.raw)
        try:
            return reply, self.adapter.read(content)
        except UNREADABLE as error:
            if message := error_of(content):  # an error with status 200
                check_balance(self.url, reply, message)
                kind = "load" if says_load(content) else "other"
                problem = f"an error for an answer: {reply.start}"
                raise RetryableError(problem, kind, raw=reply.raw) from None
            problem = f"{type(error).__name__} {shown(str(error))}"
            raise RetryableError(
                f"an answer that is not what was asked for ({problem})", "other", raw=reply.raw
            ) from None

    async def _send(self, data: bytes, sampling: Sampling, usage: AnswerUsage) -> Response:
        """Return the response. Raises ServerAway or RetryableError where none came."""
        usage.begin()
        self._count(usage, Usage(requests=1))
        self.budget.at_once += 1
        self.budget.most_at_once = max(self.budget.most_at_once, self.budget.at_once)
        most = most_bytes(len(data), sampling)
        if isinstance(self.adapter, PromptScores):  # an id that is sent takes two bytes at least
            most += BYTES_PER_TOKEN * (1 + self.adapter.num) * len(data) // 2
        bounds = Bounds(most, self.endpoint.timeout)
        url = join_url(self.url, self.adapter.path)

        def count(num_bytes: int) -> None:
            self._count(usage, Usage(num_bytes=num_bytes))

        try:
            return await exchange(self.client, "POST", url, data, bounds, count)
        finally:
            self.budget.at_once -= 1
            usage.finish()

    def _count(self, usage: AnswerUsage, more: Usage) -> None:
        more.cost = self.endpoint.prices.cost(more.prompt_tokens, more.answer_tokens)
        usage.add(more)
        self.budget.own.add(more)

    def _count_what_is_untold(
        self, request: CompletionRequest, completion: Completion, usage: AnswerUsage
    ) -> None:
        """Count the tokens that the server leaves out of its account.

        What was sent and what came can be counted here as well, in a text at least roughly.
        """
        num_prompt = self.prompt_tokens(request)
        # the server's own template, where there is one, may add less than ours
        least_prompt = num_prompt if self.adapter.exact_ids else self._tokens_of_messages(request)
        num_answer = len(completion.token_ids or ()) or self.vocabulary.count(completion.text)
        prompt = self._untold(completion.prompt_tokens, num_prompt, least_prompt)
        answer = self._untold(completion.answer_tokens, num_answer, num_answer)
        self._count(usage, Usage(0, prompt, answer))
        if 2 * (prompt + answer) > num_prompt + num_answer:  # hardly anything was told
            self.budget.num_unreported += 1

    def _untold(self, told: int, counted: int, least: int) -> int:
        """Return how many tokens more there were than the server says."""
        is_exact = self.adapter.exact_ids or self.vocabulary.is_own
        believed = least if is_exact else least // FEWER_ELSEWHERE
        return 0 if told and told >= believed else max(0, counted - told)

    def prompt_tokens(self, request: CompletionRequest) -> int:
        return len(request.prompt_ids) or self._tokens_of_messages(request)

    def _tokens_of_messages(self, request: CompletionRequest) -> int:
        return sum(self.vocabulary.count(message["content"]) for message in request.messages)

    def _checked(
        self, request: CompletionRequest, completion: Completion, sampling: Sampling, reply: Reply
    ) -> Completion:
        """Return it with log-probs for each token, where they were asked for.

        Raises RetryableError for what nobody can learn from, and ServerError where this server's
        log-probs are none.
        """
        check_text(completion, reply)
        check_ids(completion, self.vocabulary, sampling.max_new_tokens, reply)
        if not sampling.num_log_probs:
            return completion
        if not completion.token_ids:
            return replace(completion, log_probs=[])
        check_num_log_probs(completion, sampling.num_log_probs, reply)
        self._check_log_probs(request, completion, reply)
        return completion

    def _check_log_probs(
        self, request: CompletionRequest, completion: Completion, reply: Reply
    ) -> None:
        """Raise ServerError where log-probs are none, or RetryableError where it may be the prompt.

        That is where the server has given good ones before.
        """
        problem = problem_of(completion.log_probs or [], self.vocabulary.num_ids)
        is_probe = request is self.probe_request
        if problem is None:
            self.is_suspect = self.is_suspect and is_probe  # which is too short to clear it
            return
        if is_probe or self.is_suspect or not self.budget.has_answered:
            raise ServerError(
                f"teacher.server: {self.url} gives log-probs that are none: {problem}. Nothing of "
                "it is kept: serve the model with log-probs over its whole vocabulary at "
                "temperature 1 (vLLM: --logprobs-mode raw_logprobs), or set capture.from_server "
                "to false"
            )
        self.is_suspect = True
        raise RetryableError(f"log-probs that are none: {problem}", "useless", raw=reply.raw)

    def _ended(self, completion: Completion, sampling: Sampling) -> Completion:
        """Return it with the model's own end, or none.

        Raises RetryableError where something else ended it.
        """
        if completion.finish_reason in BROKEN_OFF:
            raise RetryableError(
                f"it broke the answer off ({completion.finish_reason})",
                "unfinished",
                raw=shortened(self.key.mask(completion.text)),
            )
        if completion.finish_reason != UNKNOWN_REASON:
            reason = self.key.mask(completion.finish_reason)
            return replace(completion, finish_reason=reason)
        if set(completion.token_ids or ()) & set(sampling.stop_ids):
            return replace(completion, finish_reason="stop")
        cut = replace(completion, finish_reason="length")
        if self.tells_reasons:
            raise RetryableError(
                "it does not say why the answer ended", "unfinished", completion=cut
            )
        return cut

    # is it there, and well

    async def is_back(self) -> bool:
        """Return whether anything answers."""
        bounds = Bounds(FRAME_BYTES, self.endpoint.timeout)
        url = join_url(self.url, "v1/models")
        try:
            await exchange(self.client, "GET", url, b"", bounds, lambda num_bytes: None)
        except ServerAway:
            return False
        except RetryableError as error:
            return error.kind not in ("late", "lost")
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


def most_bytes(num_sent: int, sampling: Sampling) -> int:
    """Return the bytes that an answer to a request of `num_sent` bytes can need."""
    entries = sampling.max_new_tokens * (1 + sampling.num_log_probs)
    return FRAME_BYTES + TIMES_REPEATED * num_sent + BYTES_PER_TOKEN * entries
