"""Many questions to a server: as many at once as it bears, none lost, none paid twice, and a clean stop at a limit.

Timeouts, refusals for load and answers that are not what was asked for are asked again, later and by fewer at once.
Where nothing answers at all (power, network, a restarted node) sending pauses and the server is probed until it is
back: no question counts as failed for it. A question that the server refuses for itself (400, 404, 413, 422) is
answered by that error; so is one that was answered badly some times over, if the server answers another well meanwhile.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from distill import chat
from distill.core import shutdown
from distill.core.progress import Progress
from distill.errors import DistillError, ServerError, Stopped
from distill.recipe import Recipe
from distill.recipe.sections import Generate
from distill.teachers.server.adapters import (
    DIALECTS,
    Answer,
    Chat,
    Completions,
    LlamaCpp,
    Question,
    Sampling,
)
from distill.teachers.server.budget import Amount, Spent, Took
from distill.teachers.server.client import Refused, Server, Trouble, Unreachable
from distill.teachers.server.discover import PROBE_TEXT, connect

OnAnswer = Callable[[Question, Answer], None]

INCREASE_AFTER = 25  # answers without trouble, then one more request at once
DECREASE = 0.75
SMALL_LANE = (
    8  # below it, 25 answers are too long to wait: one more after each round without trouble
)
CUT_SECONDS = 1.0  # one burst of refusals is one piece of news
FIRST_DELAY, LONGEST_DELAY = (
    1.0,
    60.0,
)  # seconds before a request is sent again, doubling, with jitter
FIRST_PROBE, LONGEST_PROBE = (
    5.0,
    600.0,
)  # seconds between probes of a server that does not answer, doubling
GIVE_UP = 30  # blame (Trouble.BLAME) at which a question is given up: five answers that cannot be used, three that are broken off
ALL_REFUSED = 20  # refusals from the first request on, without an answer between: the recipe is at fault, not a prompt


class Lane:
    """How many requests may be under way: additive increase, multiplicative decrease; closed while the server is away, and until
    it said that it may be asked again."""

    def __init__(self, most: int):
        self.most = most
        self.limit = float(min(4, most))
        self.closed = False
        self.held_until = float("-inf")
        self._busy = self._calm = 0
        self._last_cut = float("-inf")
        self._changed = asyncio.Condition()

    async def enter(self, fits: Callable[[], bool] = lambda: True) -> None:
        """`fits`: whether the recipe's limits leave room for one more beside those under way; alone it goes in to be told that not."""

        def is_open() -> bool:
            waits = self.closed or time.monotonic() < self.held_until
            return not waits and self._busy < int(self.limit) and (not self._busy or fits())

        async with self._changed:
            await self._changed.wait_for(is_open)
            self._busy += 1

    async def leave(self, *, calm: bool) -> None:
        async with self._changed:
            self._busy -= 1
            self._calm = self._calm + 1 if calm else 0
            if calm and self._calm >= (self.limit if self.limit < SMALL_LANE else INCREASE_AFTER):
                self.limit, self._calm = min(float(self.most), self.limit + 1), 0
            if not calm and time.monotonic() - self._last_cut > CUT_SECONDS:
                self.limit, self._last_cut = max(1.0, self.limit * DECREASE), time.monotonic()
            self._changed.notify_all()

    async def set_closed(self, closed: bool) -> None:
        self.closed = closed
        await self.look_again()

    def hold(self, seconds: float) -> None:
        """Nobody enters before that; who calls it calls `look_again` then."""
        self.held_until = max(self.held_until, time.monotonic() + seconds)

    async def look_again(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Errand:
    """Some questions, asked of one server until each has its answer."""

    def __init__(
        self,
        server: Server,
        sampling: Sampling,
        options: Generate,
        on_answer: OnAnswer,
        bar: Progress,
        *,
        first_delay: float = FIRST_DELAY,
        first_probe: float = FIRST_PROBE,
    ):
        self.server, self.sampling, self.options, self.on_answer, self.bar = (
            server,
            sampling,
            options,
            on_answer,
            bar,
        )
        self.first_delay, self.first_probe = first_delay, first_probe
        self.lane = Lane(options.concurrency)
        self.ended: DistillError | None = None
        self._held: list[tuple[Question, Answer]] = []  # refusals, until something is answered
        self._num_refused = 0

    async def run(self, questions: Iterator[Question]) -> None:
        """Raises Stopped at a limit or a signal, ServerError where going on is useless; what was under way is awaited."""
        await asyncio.gather(*(self._work(questions) for _ in range(self.options.concurrency)))
        if self._num_refused < ALL_REFUSED:
            self._release()
        if self.ended is not None:
            raise self.ended

    async def _work(self, questions: Iterator[Question]) -> None:
        for question in questions:  # one iterator for all workers: drawn as they can be sent
            answer = None
            try:
                answer = await self._settle(question)
                if answer is not None:
                    self._deliver(question, answer)
            except DistillError as error:
                self.ended = self.ended or error
            if answer is None or self.ended is not None:
                return

    def _deliver(self, question: Question, answer: Answer) -> None:
        """Hand the answer on; refusals from the very first on only when something was answered, for they would be final."""
        if answer.error is None:
            self.server.spent.answered = True
            self._release()
        elif not self.server.spent.answered:
            self._num_refused += 1
            if (
                answer.took is not None and answer.took.tokens
            ):  # it was paid for: on record, whatever comes
                self.on_answer(question, answer)
            else:
                self._held.append((question, answer))
            if self._num_refused >= ALL_REFUSED:
                raise ServerError(
                    f"teacher.server: {self.server.url} refused each of the first {self._num_refused} requests, the last with: "
                    f"{answer.error}. Refusals are not recorded: mend the recipe, or take these prompts out, and run the same command"
                )
            return
        self.on_answer(question, answer)

    def _release(self) -> None:
        held, self._held = self._held, []
        for question, answer in held:
            self.on_answer(question, answer)

    async def _settle(self, question: Question) -> Answer | None:
        """The answer, however often it must be asked; None where the errand has ended meanwhile."""
        spent, took, delay, blame = self.server.spent, Took(), self.first_delay, 0
        while True:
            need = spent.need(
                self.options, self.server.prompt_tokens(question), self.sampling.max_new_tokens
            )
            await self.lane.enter(lambda need=need: spent.fits(self.options, need))
            if self.ended is not None:
                await self.lane.leave(calm=True)
                return None
            calm, hold, wait, reserved = False, 0.0, 0.0, Amount()
            try:
                self._check(need)
                reserved = replace(need, requests=0)  # which is counted when it goes out
                spent.under_way.add(reserved)
                answer = await self.server.ask(question, self.sampling, took)
                calm = True
                return answer
            except Refused as error:
                calm = True
                return Answer("", "error", error=str(error), raw=error.raw, took=took)
            except Trouble as error:
                blame += Trouble.BLAME[error.kind]
                if blame >= GIVE_UP:
                    if (answer := await self._given_up(error, took)) is not None:
                        return answer
                    blame = 0
                hold, wait = error.wait or 0.0, delay * random.uniform(0.5, 1.5)
                delay = min(2 * delay, LONGEST_DELAY)
                self.lane.hold(hold)  # what one is told all are told
                self.bar.say(
                    f"{error}; asked again in {max(hold, wait):.0f} s, {int(self.lane.limit)} at once"
                )
            except Unreachable as error:
                await self._pause(error, self.server.is_back)
            finally:
                spent.under_way.add(reserved, -1)
                await self.lane.leave(calm=calm)
            await self._sleep(hold)
            await self.lane.look_again()
            await self._sleep(wait - hold)

    async def _given_up(self, error: Trouble, took: Took) -> Answer | None:
        """What stands for an answer to a question that cannot be asked well; None where it is the server that is at fault."""
        if error.answer is not None:
            return replace(error.answer, took=took)
        if self.lane.closed:
            return None
        if await self.server.is_well(self.sampling):
            return Answer(
                "",
                "error",
                error=f"given up after {took.requests} tries: {error}",
                raw=error.raw,
                took=took,
            )
        await self._pause(error, lambda: self.server.is_well(self.sampling))
        return None

    async def _pause(self, error: Exception, is_back: Callable[[], Awaitable[bool]]) -> None:
        """Close the lane until the server answers again. The first to find it away probes; the others wait at the gate."""
        if self.lane.closed:
            return
        await self.lane.set_closed(True)
        wait = self.first_probe
        try:
            while not self._is_over():
                self.bar.say(
                    f"{self.server.url} is away ({error}); nothing is lost, trying again in {wait:.0f} s"
                )
                await self._sleep(wait * random.uniform(0.8, 1.2))
                if await is_back():
                    return
                wait = min(2 * wait, LONGEST_PROBE)
        finally:
            await self.lane.set_closed(False)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the errand ends: a stop asked for in a minute's wait is not a minute late."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._is_over():
                self.lane.held_until = float("-inf")
                return
            await asyncio.sleep(min(left, 0.2))

    def _is_over(self) -> bool:
        return (
            self.ended is not None
            or shutdown.requested()
            or self.server.spent.out_of_time(self.options)
        )

    def _check(self, need: Amount) -> None:
        shutdown.check()
        if (limit := self.server.spent.full(self.options, need)) is not None:
            raise Stopped(
                f"generate.{limit} is reached; every answer so far is kept. Raise it and run the same command to go on, or "
                "go on without the rest by a smaller generate.num_prompts"
            )


def question(
    recipe: Recipe, key: str, messages: Sequence[dict[str, str]], prompt_ids: list[int], seed: int
) -> Question:
    """A question with the recipe's system prompt, as messages and as token ids alike."""
    system = (
        [{"role": "system", "content": recipe.generate.system_prompt}]
        if recipe.generate.system_prompt
        else []
    )
    return Question(key, [*system, *messages], prompt_ids, seed)


def ask_server(
    recipe: Recipe,
    tokenizer: Any,
    questions: Iterable[Question],
    sampling: Sampling,
    on_answer: OnAnswer,
    bar: Progress,
    spent: Spent | None = None,
    *,
    has_ids: bool = True,
    needs_ids: bool = False,
) -> None:
    """Ask the recipe's server all of `questions`; `on_answer` gets text and token ids, in whatever order they end.

    Where the server gives text only, the ids are the tokenizer's for that text, and the end token: the same text, but
    not always the very tokens that were drawn; the bar says so. What is used of the recipe's limits is added to `spent`.
    Where not all have prompt ids (`has_ids`, or teacher.server_gives text: the model's tokenizer is another) they are asked as
    conversations, whatever the server can do; `needs_ids`: some are not whole conversations.
    """
    teacher, url, options = recipe.teacher, recipe.teacher.server, recipe.generate
    assert url is not None
    end = chat.end_of_turn(tokenizer, sampling.stop_ids)
    has_ids = has_ids and not teacher.text_only
    probe_ids = (
        chat.prompt_ids(tokenizer, PROBE_TEXT, enable_thinking=sampling.enable_thinking)
        if has_ids
        else []
    )

    def tokens_of(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    def with_ids(question: Question, answer: Answer) -> None:
        if answer.error is not None:
            return on_answer(question, answer)
        exact = answer.token_ids is not None
        if exact:
            answer = _until_stop(answer, sampling.stop_ids)
        opened = chat.opens_thinking(tokenizer, question.prompt_ids)
        written = _continued(answer) if opened else answer.text
        ids: list[int] = (
            answer.token_ids
            if answer.token_ids is not None
            else tokenizer(written, add_special_tokens=False).input_ids
        )
        log_probs = answer.log_probs
        if answer.finish_reason == "stop" and (not ids or ids[-1] not in sampling.stop_ids):
            ids = [*ids, end]
            log_probs = None if log_probs is None else [*log_probs, None]
        text = chat.text_of(tokenizer, ids) if exact else written
        return on_answer(question, replace(answer, text=text, token_ids=ids, log_probs=log_probs))

    dialects = DIALECTS if has_ids else (Chat,)
    if sampling.num_log_probs:
        dialects = (Completions, LlamaCpp)

    async def errand() -> None:
        server = await connect(
            url,
            teacher.server_model or teacher.model,
            api_key_env=teacher.api_key_env,
            timeout=options.request_timeout,
            prompt_ids=probe_ids if has_ids else [],
            spent=spent,
            sampling=sampling,
            dialects=dialects,
            options=options,
            tokens_of=tokens_of,
            disagreement=lambda answer: _other_vocabulary(tokenizer, answer),
        )
        try:
            if needs_ids and not server.dialect.exact_ids:
                raise ServerError(
                    f"teacher.server: {server.url} takes conversations only ({server.dialect.path}), and expand: magpie goes on from "
                    "the middle of one: take expand: self_instruct or personas, or a server that takes token ids (vLLM, llama.cpp)"
                )
            bar.say(_what_it_gives(server, sampling))
            await Errand(server, sampling, options, with_ids, bar).run(iter(questions))
        finally:
            await server.client.aclose()

    asyncio.run(errand())


def _what_it_gives(server: Server, sampling: Sampling) -> str:
    gives = "exact token ids" if server.dialect.exact_ids else "text only"
    gives += f" and {sampling.num_log_probs} log-probs with each" if sampling.num_log_probs else ""
    notes = [*server.notes]
    if not server.tells_reasons:
        notes.append("it does not say why an answer ended: without an end token it counts as cut")
    return f"{server.url} gives {gives} ({server.dialect.path}){''.join(f'; {note}' for note in notes)}"


def _continued(answer: Answer) -> str:
    """The answer's text after a prompt that opens the reasoning: the template's own tag is in the prompt already, and where the
    server keeps the reasoning to itself it ends at once."""
    if (
        answer.token_ids is None
        and answer.finish_reason == "stop"
        and "</think>" not in answer.text
    ):
        return f"</think>\n\n{answer.text}"
    return answer.text.removeprefix("<think>\n")


def _other_vocabulary(tokenizer: Any, answer: Answer) -> str | None:
    """What is wrong where the server's token ids are not the tokenizer's: all that is learnt from them would be another text."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    said, decoded = (
        answer.text,
        chat.text_of(tokenizer, [i for i in answer.token_ids or [] if 0 <= i < len(tokenizer)]),
    )
    for content in special:
        said, decoded = said.replace(content, ""), decoded.replace(content, "")
    if said.strip("\ufffd \n") == decoded.strip("\ufffd \n"):
        return None
    return f"its token ids say {decoded[:40]!r} in the tokenizer of teacher.model, and its text {said[:40]!r}: another vocabulary"


def _until_stop(answer: Answer, stop_ids: Sequence[int]) -> Answer:
    """Cut after the first of `stop_ids`: llama.cpp knows its model's own ends only, and wrote on after another."""
    ids = answer.token_ids or []
    place = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if place is None:
        return answer
    log_probs = answer.log_probs and answer.log_probs[: place + 1]
    return replace(answer, token_ids=ids[: place + 1], finish_reason="stop", log_probs=log_probs)
