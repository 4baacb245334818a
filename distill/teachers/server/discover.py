"""Finding out what a server can do, by asking it, never from its name or from a status 200: one small request a dialect, with the
recipe's own sampling fields, and the first whose answer has what it should have is taken.

What is trouble for a moment is asked again: a run that begins while a server is busy must not be another run.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from distill.core import shutdown
from distill.errors import MissingError, ServerError
from distill.recipe.sections import Generate
from distill.teachers.server.adapters import (
    DIALECTS,
    SWITCHES,
    Answer,
    Chat,
    Dialect,
    Question,
    Sampling,
)
from distill.teachers.server.client import (
    Denied,
    Refused,
    Server,
    Spent,
    Trouble,
    Unreachable,
    key_from_environment,
)

PROBE_TEXT = "你好"  # two characters: a server that mangles bytes shows it here
PROBE_TOKENS, THINKING_TOKENS = 2, 16
TRIES = {
    "load": 6,
    "lost": 3,
    "late": 2,
    "broken": 3,
    "unfinished": 3,
    "other": 1,
}  # by the kind of trouble
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
# Fields that some servers do not know, and refuse the whole request for; where there is no way out the field is not sent
WAYS_OUT = {"top_k": "set generate.top_k to 0", "top_p": "set generate.top_p to 1", "seed": None}
PLAIN = Sampling(0.0, 1.0, 0, PROBE_TOKENS)


async def connect(
    url: str,
    model: str,
    *,
    api_key_env: str | None,
    timeout: float,
    prompt_ids: list[int],
    spent: Spent | None = None,
    sampling: Sampling = PLAIN,
    dialects: Sequence[Dialect] = DIALECTS,
    options: Generate | None = None,
    tokens_of: Callable[[str], int] = len,
    disagreement: Callable[[Answer], str | None] = lambda answer: None,
    first_delay: float = FIRST_DELAY,
) -> Server:
    """`prompt_ids` = PROBE_TEXT in the model's own template; `spent`: where requests are counted, these among them, and where what
    was found is kept for the rest of the run; `options`: prices; `disagreement`: what is wrong with token ids, if anything.

    Raises MissingError if nothing answers, ServerError with the server's own words if every dialect is refused.
    """
    import httpx2

    spent = spent or Spent()
    key = key_from_environment(api_key_env)
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx2.AsyncClient(
        headers=headers, timeout=httpx2.Timeout(timeout, connect=20.0), limits=limits
    )
    # whether a field is sent, not its value, is what a server may refuse
    sent = sampling.top_p < 1, sampling.top_k > 0, sampling.enable_thinking, sampling.num_log_probs
    known = (url, model, api_key_env, tuple(dialects), sent)
    if known in spent.found:
        return replace(spent.found[known], client=client, options=options)
    hello = Question("probe", [{"role": "user", "content": PROBE_TEXT}], prompt_ids, 1)
    server = Server(
        url, model, dialects[0], client, options, spent, tokens_of=tokens_of, hello=hello
    )
    try:
        server = await _find(
            server,
            replace(sampling, max_new_tokens=PROBE_TOKENS),
            dialects,
            disagreement,
            first_delay,
        )
    except Unreachable as error:
        await client.aclose()
        way_out = (
            "does it speak http:// only?"
            if "SSL" in str(error)
            else "is the address right, and the server running?"
        )
        raise MissingError(
            f"teacher.server: {url}: nothing answers there ({error}); {way_out}"
        ) from None
    except BaseException:
        await client.aclose()
        raise
    spent.found[known] = server
    return server


async def _find(
    met: Server,
    sampling: Sampling,
    dialects: Sequence[Dialect],
    disagreement: Callable[[Answer], str | None],
    first_delay: float,
) -> Server:
    said: list[str] = []
    denied: list[Denied] = []
    for dialect in dialects:
        server = replace(met, dialect=dialect)
        try:
            if dialect is Chat:
                return await _talking(replace(server, notes=said), sampling, first_delay)
            server, answer = await _asked(server, sampling, first_delay)
            if (wrong := disagreement(answer)) is None:
                return server
            said.append(f"{dialect.path}: {wrong}")
        except Denied as error:  # many say so of a path that they do not have
            if dialect is Chat:
                raise
            denied.append(error)
            said.append(f"{dialect.path}: {error}")
        except (Refused, Trouble) as error:
            said.append(f"{dialect.path}: {error}")
    if len(denied) == len(dialects):
        raise denied[0]
    way_out = ""
    if sampling.num_log_probs:
        way_out = (
            f"; and for exact token ids with {sampling.num_log_probs} log-probs: lower capture.top_k to what it gives (vLLM: 20, or start "
            "it with --max-logprobs), or set capture.from_server to false"
        )
    raise ServerError(
        f"teacher.server: {met.url} answers nothing that can be used: {'; '.join(said)}. It was asked for the model {met.model!r}: "
        f"where it goes by another name there, set teacher.server_model{way_out}"
    )


async def _asked(server: Server, sampling: Sampling, first_delay: float) -> tuple[Server, Answer]:
    """(the server, as it is now known; its answer). What is trouble for a moment is asked again; raises the last of it, and
    ServerError where it stays refused for load: it could be taken for another kind of server."""
    delay, number = first_delay, 0
    assert server.hello is not None
    while True:
        number += 1
        try:
            return server, await server.ask(server.hello, sampling)
        except Trouble as error:
            if error.answer is not None:
                return replace(server, tells_reasons=False), error.answer
            if number >= TRIES[error.kind]:
                if error.kind == "load":
                    raise ServerError(
                        f"teacher.server: {server.url} was asked {number} times and refuses for load ({error}): run the same command when "
                        "it is less busy"
                    ) from None
                raise
            await _sleep(max(delay, min(error.wait or 0.0, LONGEST_DELAY)))
            delay *= 2


async def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        shutdown.check()
        await asyncio.sleep(min(left, 0.2))


async def _talking(server: Server, sampling: Sampling, first_delay: float) -> Server:
    """The server, which takes conversations, with what it must be told and must not. Raises what `_asked` raises."""
    try:
        return await _told(server, sampling, first_delay)
    except Refused as error:
        return await _without_unknown_fields(server, sampling, first_delay, error)


async def _told(server: Server, sampling: Sampling, first_delay: float) -> Server:
    """The server, told to think or not in the way that it obeys, where the recipe says so."""
    if sampling.enable_thinking is not None:
        return await _switched(server, sampling, first_delay)
    return (await _asked(server, sampling, first_delay))[0]


async def _without_unknown_fields(
    server: Server, sampling: Sampling, first_delay: float, refusal: Refused
) -> Server:
    """Which field the server does not take, found by leaving it out. Raises ServerError naming it, or the refusal where it is
    something else; a seed is then not sent."""
    assert server.hello is not None
    sent = [name for name in WAYS_OUT if name in Chat.body(server.model, server.hello, sampling)]
    sent.sort(key=lambda name: f"{name}" not in str(refusal))  # it often says
    for fields in [*([name] for name in sent), sent]:
        try:
            trial = await _told(replace(server, without=frozenset(fields)), sampling, first_delay)
        except (Refused, Trouble):
            continue
        if ways_out := [way for name in fields if (way := WAYS_OUT[name])]:
            raise ServerError(
                f"teacher.server: {server.url} does not take {' and '.join(fields)} ({refusal}): {' and '.join(ways_out)}; answers are "
                "then drawn without it, and what was answered before is asked anew"
            )
        return replace(trial, notes=[*trial.notes, f"it takes no seed ({refusal})"])
    raise refusal


async def _switched(server: Server, sampling: Sampling, first_delay: float) -> Server:
    """The server with the switch of SWITCHES that it obeys, judged by whether its answer holds reasoning. Raises the last refusal
    where it takes none."""
    said, accepted, last = [], None, None
    for switch in SWITCHES:
        trial = replace(server, switch=switch)
        try:
            trial, answer = await _asked(
                trial, replace(sampling, max_new_tokens=THINKING_TOKENS), first_delay
            )
        except (Refused, Trouble) as error:
            said.append(f"{switch}: {error}")
            last = error
            continue
        accepted = accepted or trial
        if answer.thinks == sampling.enable_thinking:
            return replace(
                trial,
                notes=[
                    *server.notes,
                    f"thinking is turned {'on' if sampling.enable_thinking else 'off'} by {switch}",
                ],
            )
        said.append(
            f"{switch}: its answer holds {'no reasoning' if sampling.enable_thinking else 'reasoning all the same'}"
        )
    if accepted is None and last is not None:
        raise last
    if sampling.enable_thinking and accepted is not None:  # it may keep its reasoning to itself
        return replace(
            accepted,
            notes=[
                *server.notes,
                f"it shows no reasoning, and was told to think by {accepted.switch}",
            ],
        )
    raise ServerError(
        f"teacher.server: {server.url}: generate.enable_thinking is {str(sampling.enable_thinking).lower()}, "
        f"and {server.model!r} obeys no switch that "
        f"is known: {'; '.join(said)}. Name a model that does not think there (teacher.server_model), "
        "or set generate.enable_thinking to null and "
        "generate.reasoning to drop"
    )
