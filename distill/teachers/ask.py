"""Many questions to a server: as many at once as it bears, none lost, none paid twice, and a clean stop at a limit.

Timeouts, refusals for load and answers that are not what was asked for are asked again, later and by fewer at once.
Where nothing answers at all (power, network, a restarted node) sending pauses and the server is probed until it is
back: no question counts as failed for it. A question that the server refuses for itself (400, 404, 413, 422) is
answered by that error.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from distill import interrupts
from distill.errors import DistillError, ServerError, Stopped
from distill.progress import Progress
from distill.recipe import Recipe
from distill.sections import Generate
from distill.teachers.dialects import DIALECTS, Answer, Chat, Completions, LlamaCpp, Question, Sampling
from distill.teachers.server import PROBE_TEXT, Refused, Server, Spent, Trouble, Unreachable, connect
from distill.text import chat

OnAnswer = Callable[[Question, Answer], None]

INCREASE_AFTER = 25  # answers without trouble, then one more request at once
DECREASE = 0.75
SMALL_LANE = 8  # below it, 25 answers are too long to wait: one more after each round without trouble
CUT_SECONDS = 1.0  # one burst of refusals is one piece of news
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds before a request is sent again, doubling, with jitter
FIRST_PROBE, LONGEST_PROBE = 5.0, 600.0  # seconds between probes of a server that does not answer, doubling


class Lane:
    """How many requests may be under way: additive increase, multiplicative decrease; closed while the server is away."""

    def __init__(self, most: int):
        self.most = most
        self.limit = float(min(4, most))
        self.closed = False
        self._busy = self._calm = 0
        self._last_cut = float("-inf")
        self._changed = asyncio.Condition()

    async def enter(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self.closed and self._busy < int(self.limit))
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
        async with self._changed:
            self.closed = closed
            self._changed.notify_all()


class Errand:
    """Some questions, asked of one server until each has its answer."""

    def __init__(
        self, server: Server, sampling: Sampling, options: Generate, on_answer: OnAnswer, bar: Progress,
        *, first_delay: float = FIRST_DELAY, first_probe: float = FIRST_PROBE,
    ):  # fmt: skip
        self.server, self.sampling, self.options, self.on_answer, self.bar = server, sampling, options, on_answer, bar
        self.first_delay, self.first_probe = first_delay, first_probe
        self.lane = Lane(options.concurrency)
        self.ended: DistillError | None = None

    async def run(self, questions: Iterator[Question]) -> None:
        """Raises Stopped at a limit or a signal, ServerError where going on is useless; what was under way is awaited."""
        await asyncio.gather(*(self._work(questions) for _ in range(self.options.concurrency)))
        if self.ended is not None:
            raise self.ended

    async def _work(self, questions: Iterator[Question]) -> None:
        for question in questions:  # one iterator for all workers: drawn as they can be sent
            answer = None
            try:
                answer = await self._settle(question)
            except DistillError as error:
                self.ended = self.ended or error
            if answer is None:
                return
            self.server.spent.prompt_tokens += answer.prompt_tokens
            self.server.spent.answer_tokens += answer.answer_tokens
            self.on_answer(question, answer)

    async def _settle(self, question: Question) -> Answer | None:
        """The answer, however often it must be asked; None where the errand has ended meanwhile."""
        delay = self.first_delay
        while True:
            await self.lane.enter()
            calm, wait = False, 0.0
            try:
                self._check()
                if self.ended is not None:
                    return None
                answer = await self.server.ask(question, self.sampling)
                calm = True
                return answer
            except Refused as error:
                calm = True
                return Answer("", "error", error=str(error))
            except Trouble as error:
                wait = max(delay * random.uniform(0.5, 1.5), error.wait or 0.0)
                delay = min(2 * delay, LONGEST_DELAY)
                self.bar.say(f"{error}; asked again in {wait:.0f} s, {int(self.lane.limit)} at once")
            except Unreachable as error:
                await self._pause(error)
            finally:
                await self.lane.leave(calm=calm)
            await self._sleep(wait)

    async def _pause(self, error: Unreachable) -> None:
        """Close the lane until the server answers again. The first to find it away probes; the others wait at the gate."""
        if self.lane.closed:
            return
        await self.lane.set_closed(True)
        wait = self.first_probe
        try:
            while self.ended is None and not interrupts.requested():
                self.bar.say(f"{self.server.url} is away ({error}); nothing is lost, trying again in {wait:.0f} s")
                await self._sleep(wait * random.uniform(0.8, 1.2))
                if await self.server.is_back():
                    return
                wait = min(2 * wait, LONGEST_PROBE)
        finally:
            await self.lane.set_closed(False)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the errand ends: a stop asked for in a minute's wait is not a minute late."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self.ended is None and not interrupts.requested():
            await asyncio.sleep(min(left, 0.2))

    def _check(self) -> None:
        interrupts.check()
        if (limit := self.server.spent.reached(self.options)) is not None:
            raise Stopped(
                f"generate.{limit} is reached; every answer so far is kept. Raise it and run the same command to go on, or "
                "go on without the rest by a smaller generate.num_prompts"
            )


def question(
    recipe: Recipe, key: str, messages: Sequence[dict[str, str]], prompt_ids: list[int], seed: int
) -> Question:  # fmt: skip
    """A question with the recipe's system prompt, as messages and as token ids alike."""
    system = [{"role": "system", "content": recipe.generate.system_prompt}] if recipe.generate.system_prompt else []
    return Question(key, [*system, *messages], prompt_ids, seed)


def ask_server(
    recipe: Recipe, tokenizer: Any, questions: Iterable[Question], sampling: Sampling, on_answer: OnAnswer, bar: Progress,
    spent: Spent | None = None, *, has_ids: bool = True, needs_ids: bool = False,
) -> None:  # fmt: skip
    """Ask the recipe's server all of `questions`; `on_answer` gets text and token ids, in whatever order they end.

    Where the server gives text only, the ids are the tokenizer's for that text, and the end token: the same text, but
    not always the very tokens that were drawn; the bar says so. What is used of the recipe's limits is added to `spent`.
    Where not all have prompt ids (`has_ids`, or teacher.server_gives text: the model's tokenizer is another) they are asked as
    conversations, whatever the server can do; `needs_ids`: some are not whole conversations.
    """
    teacher, url = recipe.teacher, recipe.teacher.server
    assert url is not None
    end = chat.end_of_turn(tokenizer, sampling.stop_ids)
    has_ids = has_ids and not teacher.text_only
    probe_ids = chat.prompt_ids(tokenizer, PROBE_TEXT, thinking=sampling.thinking) if has_ids else []

    def with_ids(question: Question, answer: Answer) -> None:
        if answer.error is not None:
            return on_answer(question, answer)
        exact = answer.token_ids is not None
        if exact:
            answer = _until_stop(answer, sampling.stop_ids)
        written = answer.text
        if chat.opens_thinking(tokenizer, question.prompt_ids):  # the template's own tag is in the prompt already
            written = written.removeprefix("<think>\n")
        ids: list[int] = answer.token_ids if answer.token_ids is not None else tokenizer(written, add_special_tokens=False).input_ids
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
            url, teacher.server_model or teacher.model, api_key_env=teacher.api_key_env,
            timeout=recipe.generate.request_timeout, prompt_ids=probe_ids, spent=spent,
            dialects=dialects, num_log_probs=sampling.num_log_probs,
        )  # fmt: skip
        try:
            if needs_ids and not server.dialect.exact_ids:
                raise ServerError(
                    f"teacher.server: {server.url} takes conversations only ({server.dialect.path}), and expand: magpie goes on from "
                    "the middle of one: take expand: self_instruct or personas, or a server that takes token ids (vLLM, llama.cpp)"
                )
            gives = "exact token ids" if server.dialect.exact_ids else "text only"
            gives += f" and {sampling.num_log_probs} log-probs with each" if sampling.num_log_probs else ""
            bar.say(f"{server.url} gives {gives} ({server.dialect.path})")
            await Errand(server, sampling, recipe.generate, with_ids, bar).run(iter(questions))
        finally:
            await server.client.aclose()

    asyncio.run(errand())


def _until_stop(answer: Answer, stop_ids: Sequence[int]) -> Answer:
    """Cut after the first of `stop_ids`: llama.cpp knows its model's own ends only, and wrote on after another."""
    ids = answer.token_ids or []
    place = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if place is None:
        return answer
    log_probs = answer.log_probs and answer.log_probs[: place + 1]
    return replace(answer, token_ids=ids[: place + 1], finish_reason="stop", log_probs=log_probs)
