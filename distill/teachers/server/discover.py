"""Find out what a server can do, by asking it, never from its name or from a status 200.

One small request an adapter, with the recipe's own sampling fields, and the first whose answer has
what it should have is taken. What is trouble for a moment is asked again: a run that begins while a
server is busy must not be another run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from distill.core import shutdown
from distill.errors import MissingError, ServerError
from distill.models.sampling import Sampling
from distill.teachers.requests import Completion
from distill.teachers.server.adapters import (
    ADAPTERS,
    SWITCHES,
    Chat,
    CompletionRequest,
    ServerAdapter,
)
from distill.teachers.server.budget import Budget
from distill.teachers.server.checks import UNKNOWN, Vocabulary
from distill.teachers.server.client import Endpoint, Server
from distill.teachers.server.exchange import new_client
from distill.teachers.server.key import KeyMask, key_from_environment
from distill.teachers.server.replies import (
    AuthError,
    RequestRejected,
    RetryableError,
    ServerAway,
)
from distill.teachers.server.sleep import sleep_unless

PROBE_TEXT = "你好"  # two characters: a server that mangles bytes shows it here
PROBE_TOKENS, THINKING_TOKENS = 2, 16
# by the kind of trouble
TRIES = {"load": 6, "lost": 3, "late": 2, "broken": 3, "unfinished": 3, "other": 1}
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
# Fields that some servers do not know, and refuse the whole request for; where there is no way out
# the field is not sent
WAYS_OUT = {"top_k": "set generate.top_k to 0", "top_p": "set generate.top_p to 1", "seed": None}
PLAIN = Sampling(max_new_tokens=PROBE_TOKENS)


@dataclass(frozen=True)
class _Patience:
    """How trouble for a moment is waited for: seconds before the second try, and who is told."""

    first_delay: float
    say: Callable[[str], None]


async def connect(
    endpoint: Endpoint,
    prompt_ids: list[int],
    budget: Budget,
    *,
    sampling: Sampling = PLAIN,
    adapters: Sequence[ServerAdapter] = ADAPTERS,
    vocabulary: Vocabulary = UNKNOWN,
    disagreement: Callable[[Completion], str | None] = lambda completion: None,
    say: Callable[[str], None] = print,
    first_delay: float = FIRST_DELAY,
) -> Server:
    """Return the server, as it is found to work.

    prompt_ids: PROBE_TEXT in the model's own template. budget: where requests are counted, these
    among them, and where what was found is kept for the rest
        of the run.
    disagreement: what is wrong with an answer's token ids, if anything. say: shows what is waited
    for.

    Raises MissingError if nothing answers, ServerError with the server's own words if every adapter
    is refused.
    """
    key = key_from_environment(endpoint.api_key_env)
    client = new_client(key, endpoint.timeout, local_only=endpoint.local_only)
    # whether a field is sent, not its value, is what a server may refuse
    sent = (
        sampling.top_p < 1,
        sampling.top_k > 0,
        sampling.enable_thinking,
        sampling.num_log_probs,
    )
    known = (endpoint, tuple(adapters), sent)
    if known in budget.known_servers:
        return replace(budget.known_servers[known], client=client)
    messages = [{"role": "user", "content": PROBE_TEXT}]
    probe_request = CompletionRequest("probe", messages, prompt_ids, 1)
    server = Server(endpoint, adapters[0], client, budget, probe_request, KeyMask(key), vocabulary)
    short = replace(sampling, max_new_tokens=PROBE_TOKENS)
    patience = _Patience(first_delay, say)
    try:
        server = await _find(server, short, adapters, disagreement, patience)
    except ServerAway as error:
        await client.aclose()
        way_out = "is the address right, and the server running?"
        if "SSL" in str(error):
            way_out = "does it speak http:// only?"
        raise MissingError(
            f"teacher.server: {endpoint.url}: nothing answers there ({error}); {way_out}"
        ) from None
    except BaseException:
        await client.aclose()
        raise
    budget.known_servers[known] = server
    return server


async def _find(
    unknown: Server,
    sampling: Sampling,
    adapters: Sequence[ServerAdapter],
    disagreement: Callable[[Completion], str | None],
    patience: _Patience,
) -> Server:
    """Return the server with the first adapter that works."""
    notes: list[str] = []
    denied: list[AuthError] = []
    for adapter in adapters:
        server = replace(unknown, adapter=adapter)
        try:
            if adapter is Chat:
                return await _find_chat(replace(server, notes=notes), sampling, patience)
            server, completion = await _probe(server, sampling, patience)
            problem = disagreement(completion)
            if problem is None:
                return server
            notes.append(f"{adapter.path}: {server.key.mask(problem)}")
        except AuthError as error:  # many say so of a path that they do not have
            if adapter is Chat:
                raise
            denied.append(error)
            notes.append(f"{adapter.path}: {error}")
        except (RequestRejected, RetryableError) as error:
            notes.append(f"{adapter.path}: {error}")
    if len(denied) == len(adapters):
        raise denied[0]
    way_out = ""
    if sampling.num_log_probs:
        way_out = (
            f"; and for exact token ids with {sampling.num_log_probs} log-probs: lower capture.top_k "
            "to what it gives (vLLM: 20, or start it with --max-logprobs), or set "
            "capture.from_server to false"
        )
    raise ServerError(
        f"teacher.server: {unknown.url} answers nothing that can be used: {'; '.join(notes)}. It was "
        f"asked for the model {unknown.endpoint.model!r}: where it goes by another name there, set "
        f"teacher.server_model{way_out}"
    )


async def _probe(
    server: Server, sampling: Sampling, patience: _Patience
) -> tuple[Server, Completion]:
    """Return (the server, as it is now known; its answer).

    What is trouble for a moment is asked again; raises the last of it, and ServerError where it
    stays refused for load: it could be taken for another kind of server.
    """
    delay, number = patience.first_delay, 0
    while True:
        number += 1
        try:
            return server, await server.ask(server.probe_request, sampling)
        except RetryableError as error:
            if error.completion is not None:
                return replace(server, tells_reasons=False), error.completion
            if number < TRIES[error.kind]:
                wait = max(delay, min(error.wait or 0.0, LONGEST_DELAY))
                patience.say(f"{server.url}: {error}; asked again in {wait:.0f} s")
            elif error.kind == "load":
                raise ServerError(
                    f"teacher.server: {server.url} was asked {number} times and refuses for load "
                    f"({error}): run the same command when it is less busy"
                ) from None
            else:
                raise
        if not await sleep_unless(shutdown.requested, wait):
            shutdown.check()
        delay *= 2


async def _find_chat(server: Server, sampling: Sampling, patience: _Patience) -> Server:
    """Return the server, which takes conversations, with what it must be told and must not.

    Raises what `_probe` raises.
    """
    try:
        return await _with_switch(server, sampling, patience)
    except RequestRejected as error:
        return await _without_unknown_fields(server, sampling, patience, error)


async def _with_switch(server: Server, sampling: Sampling, patience: _Patience) -> Server:
    """Return the server, told to think or not, where the recipe says so, as it obeys."""
    if sampling.enable_thinking is not None:
        return await _find_switch(server, sampling, patience)
    return (await _probe(server, sampling, patience))[0]


async def _without_unknown_fields(
    server: Server, sampling: Sampling, patience: _Patience, refusal: RequestRejected
) -> Server:
    """Find which field the server does not take, by leaving it out.

    Raises ServerError naming it, or the refusal where it is something else; a seed is then not
    sent.
    """
    body = Chat.body(server.endpoint.model, server.probe_request, sampling)
    sent = [name for name in WAYS_OUT if name in body]
    sent.sort(key=lambda name: name not in str(refusal))  # it often says
    for names in [*([name] for name in sent), sent]:
        try:
            trial = replace(server, without=frozenset(names))
            trial = await _with_switch(trial, sampling, patience)
        except (RequestRejected, RetryableError):
            continue
        ways_out = [way_out for name in names if (way_out := WAYS_OUT[name])]
        if ways_out:
            raise ServerError(
                f"teacher.server: {server.url} does not take {' and '.join(names)} ({refusal}): "
                f"{' and '.join(ways_out)}; answers are then drawn without it, and what was answered "
                "before is asked anew"
            )
        return replace(trial, notes=[*trial.notes, f"it takes no seed ({refusal})"])
    raise refusal


async def _find_switch(server: Server, sampling: Sampling, patience: _Patience) -> Server:
    """Return the server with the switch of SWITCHES that it obeys.

    That is told by whether its answer holds reasoning. Raises the last refusal where it takes none.
    """
    notes: list[str] = []
    accepted: Server | None = None
    last: Exception | None = None
    longer = replace(sampling, max_new_tokens=THINKING_TOKENS)
    for switch in SWITCHES:
        try:
            trial, completion = await _probe(replace(server, switch=switch), longer, patience)
        except (RequestRejected, RetryableError) as error:
            notes.append(f"{switch}: {error}")
            last = error
            continue
        accepted = accepted or trial
        if completion.thinks == sampling.enable_thinking:
            state = "on" if sampling.enable_thinking else "off"
            note = f"thinking is turned {state} by {switch}"
            return replace(trial, notes=[*server.notes, note])
        shown = "no reasoning" if sampling.enable_thinking else "reasoning all the same"
        notes.append(f"{switch}: its answer holds {shown}")
    if accepted is None and last is not None:
        raise last
    if sampling.enable_thinking and accepted is not None:  # it may keep its reasoning to itself
        note = f"it shows no reasoning, and was told to think by {accepted.switch}"
        return replace(accepted, notes=[*server.notes, note])
    raise ServerError(
        f"teacher.server: {server.url}: generate.enable_thinking is "
        f"{str(sampling.enable_thinking).lower()}, and {server.endpoint.model!r} obeys no switch that "
        f"is known: {'; '.join(notes)}. Name a model that does not think there (teacher.server_model), "
        "or set generate.enable_thinking to null and generate.reasoning to drop"
    )
