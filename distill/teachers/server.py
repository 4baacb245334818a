"""A connection to an OpenAI-compatible server: vLLM, llama.cpp, SGLang, Ollama, `transformers serve`, a paid API.

What a server can do is found out by asking it, never from its name or from a status 200: `connect` sends one small
request a dialect, and takes the first whose answer has what it should have.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from distill.errors import DistillError, MissingError, RecipeError, ServerError
from distill.sections import Generate
from distill.teachers.dialects import DIALECTS, Answer, Dialect, Question, Sampling

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FATAL = {401: "refused the key", 402: "has no balance left for this key", 403: "forbids this key the model"}
PROBE_TEXT = "你好"  # two characters: a server that mangles bytes shows it here


@dataclass
class Spent:
    """What this run has used of its limits."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_bytes: int = 0
    at_once: int = 0
    most_at_once: int = 0
    started: float = field(default_factory=time.monotonic)

    def cost(self, options: Generate) -> float:
        return (self.prompt_tokens * options.price_prompt + self.answer_tokens * options.price_answer) / 1e6

    def reached(self, options: Generate) -> str | None:
        """The limit of the recipe that is used up, as a person reads it."""
        used = {
            "max_requests": (self.requests, options.max_requests),
            "max_tokens": (self.prompt_tokens + self.answer_tokens, options.max_tokens),
            "max_cost": (round(self.cost(options), 4), options.max_cost),
            "max_megabytes": (round(self.num_bytes / 1e6, 2), options.max_megabytes),
            "max_hours": (round((time.monotonic() - self.started) / 3600, 3), options.max_hours),
        }
        return next((f"{n} ({u} of {most})" for n, (u, most) in used.items() if most is not None and u >= most), None)


class Refused(Exception):
    """The server answered that this one request is wrong; its text is recorded."""


class Trouble(Exception):
    """Worth another try: `wait` seconds at least, where the server said so."""

    def __init__(self, what: str, wait: float | None = None):
        super().__init__(what)
        self.wait = wait


class Unreachable(Exception):
    """Nothing answered: the network, the power or the whole server is away."""


@dataclass
class Server:
    """A connected server. `await ask(...)` sends one request and says how it went by return or exception."""

    url: str
    model: str
    dialect: Dialect
    client: Any
    spent: Spent = field(default_factory=Spent)

    async def ask(self, question: Question, sampling: Sampling) -> Answer:
        answer = self.dialect.read(await self.post(self.dialect, self.dialect.body(self.model, question, sampling)))
        if sampling.num_log_probs and answer.token_ids:
            fewest = min((len(row) for row in answer.log_probs or [{}] if row is not None), default=sampling.num_log_probs)
            if fewest < sampling.num_log_probs:
                raise Trouble(f"log-probs of {fewest} tokens where {sampling.num_log_probs} were asked for (capture.top_k)")
        return answer

    async def post(self, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's JSON. Raises Unreachable, Trouble, Refused, or ServerError where going on is useless."""
        import httpx2

        data = json.dumps(body, ensure_ascii=False).encode()
        self.spent.requests += 1
        self.spent.at_once += 1
        self.spent.most_at_once = max(self.spent.most_at_once, self.spent.at_once)
        try:
            response = await self.client.post(_join(self.url, dialect.path), content=data)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreachable(str(error) or type(error).__name__) from None
        except httpx2.TimeoutException as error:
            raise Trouble(f"no answer in time ({type(error).__name__})") from None
        except httpx2.RequestError as error:
            raise Trouble(f"the connection broke ({error or type(error).__name__})") from None
        finally:
            self.spent.at_once -= 1
        self.spent.num_bytes += len(data) + len(response.content)
        status = response.status_code
        if status in FATAL:
            raise ServerError(f"teacher.server: {self.url} {FATAL[status]} (status {status}): {self._words(response)}")
        if status in AGAIN:
            raise Trouble(f"status {status}: {self._words(response)}", _retry_after(response.headers))
        if status >= 400:
            raise Refused(f"status {status}: {self._words(response)}")
        if 300 <= status < 400:  # not followed: it could lead the key anywhere
            raise Trouble(f"status {status}: it sends on to {response.headers.get('location')}; name the server's own address")
        try:
            found = response.json()
        except ValueError:
            raise Trouble(f"not JSON: {self._words(response)[:60]!r}") from None
        try:
            dialect.read(found)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Trouble(f"an answer that is not what was asked for ({type(error).__name__} {error})") from None
        return found

    async def is_back(self) -> bool:
        import httpx2

        try:
            await self.client.get(_join(self.url, "v1/models"))
        except httpx2.TransportError:
            return False
        return True

    def _words(self, response: Any) -> str:
        """The start of what it said. Some servers repeat the key, and what they say is shown and written."""
        key = self.client.headers.get("authorization", "").removeprefix("Bearer ")
        text = response.text.replace(key, "***") if key else response.text
        return " ".join(text.split())[:200]


def _join(url: str, path: str) -> str:
    """`http://host:8000` and `http://host:8000/v1` mean the same server."""
    return f"{url.rstrip('/').removesuffix('/v1')}/{path}"


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
        raise RecipeError(f"teacher.api_key_env: {name!r}: no such environment variable; set it to the server's key")
    if not (key.isascii() and key.isprintable()):  # the HTTP library would refuse it, and quote it
        raise RecipeError(f"teacher.api_key_env: {name!r}: a key is printable ASCII, and this variable's value is not; set it again")
    return key


async def connect(
    url: str, model: str, *, api_key_env: str | None, timeout: float, prompt_ids: list[int], spent: Spent | None = None,
    dialects: Sequence[Dialect] = DIALECTS, num_log_probs: int = 0,
) -> Server:  # fmt: skip
    """Find out what the server can do, by asking. `prompt_ids` = PROBE_TEXT in the model's own template; `spent`: where
    its requests are counted, these among them; `num_log_probs`: what it must give with each token.

    Raises MissingError if nothing answers, ServerError with the server's own words if every dialect is refused.
    """
    import httpx2

    key = key_from_environment(api_key_env)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(timeout, connect=20.0), limits=limits)
    question = Question("probe", [{"role": "user", "content": PROBE_TEXT}], prompt_ids, 1)
    sampling = Sampling(0.0, 1.0, 0, 2, num_log_probs=num_log_probs)
    refusals = []
    for dialect in dialects:
        server = Server(url, model, dialect, client, spent or Spent())
        try:
            await server.ask(question, sampling)
            return server
        except (Refused, Trouble) as error:
            refusals.append(f"{dialect.path}: {error}")
        except Unreachable as error:
            await client.aclose()
            way_out = "does it speak http:// only?" if "SSL" in str(error) else "is the address right, and the server running?"
            raise MissingError(f"teacher.server: {url}: nothing answers there ({error}); {way_out}") from None
        except DistillError:
            await client.aclose()
            raise
    await client.aclose()
    way_out = ""
    if num_log_probs:
        way_out = (
            f"; and for exact token ids with {num_log_probs} log-probs: lower capture.top_k to what it gives (vLLM: 20, or start it with "
            "--max-logprobs), or set capture.from_server to false"
        )
    raise ServerError(
        f"teacher.server: {url} answers nothing that can be used: {'; '.join(refusals)}. It was asked for the model {model!r}: "
        f"where it goes by another name there, set teacher.server_model{way_out}"
    )
