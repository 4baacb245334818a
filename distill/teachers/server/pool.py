"""Many requests to a server: as many at once as it bears, none lost, none paid twice.

Timeouts, refusals for load and answers that are not what was asked for are asked again, later and
by fewer at once. Where nothing answers at all (power, network, a restarted node) sending pauses and
the server is probed until it is back: no request counts as failed for it. A request that the server
refuses for itself (400, 404, 413, 422) is answered by that error; so is one that was answered badly
some times over, if the server answers another well meanwhile. At a limit or a signal it stops
cleanly.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

from distill.core import shutdown
from distill.errors import DistillError, ServerError, Stopped
from distill.models.sampling import Sampling
from distill.teachers.requests import Completion
from distill.teachers.server.adapters import CompletionRequest
from distill.teachers.server.budget import AnswerUsage, Usage
from distill.teachers.server.client import Server
from distill.teachers.server.concurrency import ConcurrencyLimit
from distill.teachers.server.replies import RequestRejected, RetryableError, ServerAway
from distill.teachers.server.sleep import sleep_unless

OnCompletion = Callable[[CompletionRequest, Completion], None]

# seconds before a request is sent again, doubling, with jitter
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
# seconds between probes of a server that does not answer, doubling
FIRST_PROBE, LONGEST_PROBE = 5.0, 600.0
# seconds that are waited at the server's own word, and no longer: it may say a year
LONGEST_HOLD = 600.0
# blame (RetryableError.BLAME) at which a request is given up: five answers that cannot be used,
# three that are broken off
GIVE_UP = 30
# refusals from the first request on, without an answer between: the recipe is at fault, not a
# prompt
ALL_REFUSED = 20


@dataclass
class _Tries:
    """What the tries of one request have taken, and how they went."""

    usage: AnswerUsage = field(default_factory=AnswerUsage)
    blame: int = 0
    delay: float = FIRST_DELAY

    def next_wait(self) -> float:
        """Return the seconds before the next try, with jitter; the next wait is twice as long."""
        wait = self.delay * random.uniform(0.5, 1.5)
        self.delay = min(2 * self.delay, LONGEST_DELAY)
        return wait


@dataclass(frozen=True)
class _Outcome:
    """How one try went: a completion, or seconds to wait.

    `hold` is the wait that the server asked for: of all requests. `wait` is this one's own.
    """

    completion: Completion | None = None
    calm: bool = False
    hold: float = 0.0
    wait: float = 0.0


class RequestPool:
    """Some requests, sent to one server until each has its completion."""

    def __init__(
        self,
        server: Server,
        sampling: Sampling,
        concurrency: int,
        on_completion: OnCompletion,
        say: Callable[[str], None],
        *,
        first_delay: float = FIRST_DELAY,
        first_probe: float = FIRST_PROBE,
    ):
        self.server, self.sampling, self.concurrency = server, sampling, concurrency
        self.on_completion, self.say = on_completion, say
        self.first_delay, self.first_probe = first_delay, first_probe
        self.limit = ConcurrencyLimit(concurrency)
        self.ended: DistillError | None = None
        # refusals, until something is answered
        self._held: list[tuple[CompletionRequest, Completion]] = []
        self._num_refused = 0

    async def run(self, requests: Iterator[CompletionRequest]) -> None:
        """Send all of them; what is in flight at the end is awaited.

        Raises Stopped at a limit or a signal, ServerError where going on is useless.
        """
        await asyncio.gather(*(self._work(requests) for _ in range(self.concurrency)))
        if self._num_refused < ALL_REFUSED:
            self._release()
        if self.ended is not None:
            raise self.ended

    async def _work(self, requests: Iterator[CompletionRequest]) -> None:
        for request in requests:  # one iterator for all workers: drawn as they can be sent
            completion = None
            try:
                completion = await self._complete(request)
                if completion is not None:
                    self._deliver(request, completion)
            except DistillError as error:
                self.ended = self.ended or error
            if completion is None or self.ended is not None:
                return

    def _deliver(self, request: CompletionRequest, completion: Completion) -> None:
        """Hand the completion on.

        Refusals from the very first on only when something was answered, for they would be final.
        """
        if completion.error is None:
            self.server.budget.has_answered = True
            self._release()
        elif not self.server.budget.has_answered:
            self._deliver_early_refusal(request, completion)
            return
        self.on_completion(request, completion)

    def _deliver_early_refusal(self, request: CompletionRequest, completion: Completion) -> None:
        self._num_refused += 1
        if completion.usage is not None and completion.usage.tokens:
            # it was paid for: on record, whatever comes
            self.on_completion(request, completion)
        else:
            self._held.append((request, completion))
        if self._num_refused >= ALL_REFUSED:
            raise ServerError(
                f"teacher.server: {self.server.url} refused each of the first {self._num_refused} "
                f"requests, the last with: {completion.error}. Refusals are not recorded: mend the "
                "recipe, or take these prompts out, and run the same command"
            )

    def _release(self) -> None:
        held, self._held = self._held, []
        for request, completion in held:
            self.on_completion(request, completion)

    async def _complete(self, request: CompletionRequest) -> Completion | None:
        """Return the completion, however many tries it takes; None where the pool has ended."""
        budget = self.server.budget
        tries = _Tries(delay=self.first_delay)
        while True:
            need = budget.need(
                self.server.prompt_tokens(request),
                self.sampling.max_new_tokens,
                self.server.endpoint.prices,
            )
            await self.limit.enter(lambda need=need: budget.fits(need))
            if self.ended is not None:
                await self.limit.leave(calm=True)
                return None
            outcome, reserved = _Outcome(), Usage()
            try:
                self._check(need)
                reserved = replace(need, requests=0)  # which is counted when it goes out
                budget.in_flight.add(reserved)
                outcome = await self._try(request, tries)
            finally:
                budget.in_flight.add(reserved, -1)
                await self.limit.leave(calm=outcome.calm)
            if outcome.completion is not None:
                return outcome.completion
            await self._sleep(outcome.hold)
            await self.limit.notify()
            await self._sleep(outcome.wait - outcome.hold)

    async def _try(self, request: CompletionRequest, tries: _Tries) -> _Outcome:
        try:
            completion = await self.server.ask(request, self.sampling, tries.usage)
            return _Outcome(completion, calm=True)
        except RequestRejected as error:
            refused = Completion("", "error", error=str(error), raw=error.raw, usage=tries.usage)
            return _Outcome(refused, calm=True)
        except RetryableError as error:
            return await self._after_trouble(error, tries)
        except ServerAway as error:
            await self._pause(error, self.server.is_back)
            return _Outcome()

    async def _after_trouble(self, error: RetryableError, tries: _Tries) -> _Outcome:
        tries.blame += RetryableError.BLAME[error.kind]
        if tries.blame >= GIVE_UP:
            completion = await self._given_up(error, tries.usage)
            if completion is not None:
                return _Outcome(completion)
            tries.blame = 0
        hold, wait = min(error.wait or 0.0, LONGEST_HOLD), tries.next_wait()
        self.limit.hold(hold)  # what one is told all are told
        wish = "" if hold == (error.wait or 0.0) else f" (it says to wait {error.wait:.0f} s)"
        self.say(
            f"{error}; asked again in {max(hold, wait):.0f} s{wish}, "
            f"{int(self.limit.limit)} at once"
        )
        return _Outcome(hold=hold, wait=wait)

    async def _given_up(self, error: RetryableError, usage: AnswerUsage) -> Completion | None:
        """Return what stands for an answer to a request that cannot be asked well.

        None where it is the server that is at fault.
        """
        if error.completion is not None:
            return replace(error.completion, usage=usage)
        if self.limit.closed:
            return None
        if await self.server.is_well(self.sampling):
            problem = f"given up after {usage.requests} tries: {error}"
            return Completion("", "error", error=problem, raw=error.raw, usage=usage)
        await self._pause(error, lambda: self.server.is_well(self.sampling))
        return None

    async def _pause(self, error: Exception, is_back: Callable[[], Awaitable[bool]]) -> None:
        """Let nothing be sent until the server answers again.

        The first to find it away probes; the others wait.
        """
        if self.limit.closed:
            return
        await self.limit.set_closed(True)
        wait = self.first_probe
        try:
            while not self._is_over():
                self.say(
                    f"{self.server.url} is away ({error}); nothing is lost, "
                    f"trying again in {wait:.0f} s"
                )
                await self._sleep(wait * random.uniform(0.8, 1.2))
                if await is_back():
                    return
                wait = min(2 * wait, LONGEST_PROBE)
        finally:
            await self.limit.set_closed(False)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the pool ends meanwhile: then nobody is held any longer."""
        if not await sleep_unless(self._is_over, seconds):
            self.limit.held_until = float("-inf")

    def _is_over(self) -> bool:
        if self.ended is not None or shutdown.requested():
            return True
        return self.server.budget.is_out_of_time()

    def _check(self, need: Usage) -> None:
        """Raise Stopped at a signal, or where the recipe's limits leave no room for one more."""
        shutdown.check()
        limit = self.server.budget.limit_reached(need)
        if limit is not None:
            raise Stopped(
                f"generate.{limit} is reached; every answer so far is kept. Raise it and run the same "
                "command to go on; in generate, a smaller generate.num_prompts goes on without the rest"
            )
