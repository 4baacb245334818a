"""A teacher on a vLLM server that says how likely given token ids are (its `prompt_logprobs`).

Nothing else that we know scores given ids: llama.cpp's server, SGLang's completions and the paid APIs
give log-probs of what they write alone. So it is found out by asking, before anything is paid for.
"""

import asyncio
from collections.abc import Callable, Container, Iterator, Sequence

from distill import chat
from distill.core.jsonl import RowLog
from distill.errors import ServerError
from distill.models.sampling import Sampling
from distill.signals import from_server
from distill.signals.columns import Columns
from distill.signals.encoding import TopKRecord
from distill.signals.header import SignalHeader
from distill.teachers.base import Signals, SignalSequence
from distill.teachers.requests import Completion, LogProbs
from distill.teachers.server.adapters import CompletionRequest, PromptScores
from distill.teachers.server.client import Server
from distill.teachers.server.discover import PROBE_TEXT, connect
from distill.teachers.server.pool import RequestPool
from distill.teachers.server.teacher import ServerTeacher

SAMPLING = Sampling(max_new_tokens=1)  # a server writes one token at least
SEQUENCES_A_SLOT = 8  # between two times that what was scored is kept
WAY_OUT = (
    "rounds need log-probs of given tokens, which vLLM alone gives (prompt_logprobs, 0.10.2 or newer, "
    "as many as its --max-logprobs): serve the teacher with it, or set capture.from_server to false "
    "(the teacher's weights, or teacher.gguf, then score here), or rounds to null"
)


class ScoringTeacher(ServerTeacher):
    """It is sent the student's own tokens, and says its likeliest ids at each of them."""

    @property
    def signal_source(self) -> str:
        return self.describe()

    @property
    def tokens_a_block(self) -> int:
        return self.recipe.capture.shard_tokens

    def check(self, say: Callable[[str], None] = print) -> None:
        """Ask the server to score a few tokens.

        Raises ServerError, with the way out, where it does not, and MissingError where nothing
        answers.
        """

        async def ask() -> None:
            server = await self._connected(self.recipe.capture.top_k, say)
            await server.client.aclose()

        asyncio.run(ask())

    def signals(
        self,
        header: SignalHeader,
        columns: Columns,
        batches: Sequence[list[SignalSequence]],
        captured: Container[str],
    ) -> Signals:
        """Yield what the server says at each answer token, some sequences at a time.

        What that took is noted down for the recipe's limits. Raises ServerError where it says
        something else than was asked, and Stopped at a limit or a signal.
        """
        assert header.top_k is not None
        wanted = [s for batch in batches for s in batch if s.key not in captured]
        size = SEQUENCES_A_SLOT * self.num_at_once
        with RowLog(self.logs.scored.folder) as log:
            self.budget.leave_out(log.path)
            for start in range(0, len(wanted), size):
                group = wanted[start : start + size]
                scored = self._scored(group, header.top_k, log)
                for sequence in group:
                    rows = scored[sequence.key][len(sequence.prompt_ids) - 1 :]
                    yield sequence, _record(rows, header), None

    def _scored(
        self, group: Sequence[SignalSequence], num: int, log: RowLog
    ) -> dict[str, list[LogProbs]]:
        """Return the log-probs at each token of the sequences but the first, by their keys."""
        found: dict[str, list[LogProbs]] = {}

        def requests() -> Iterator[CompletionRequest]:
            for sequence in group:
                yield CompletionRequest(sequence.key, [], sequence.shown_ids, 1)

        def deliver(sent: CompletionRequest, completion: Completion) -> None:
            if completion.usage is not None:
                log.append({"key": sent.key, "server": completion.usage.row()})
            problem = completion.error or self._problem(completion, sent.prompt_ids, num)
            if problem is not None:
                raise ServerError(f"teacher.server: {self.endpoint.url}: {problem}; {WAY_OUT}")
            assert completion.scored is not None
            found[sent.key] = completion.scored.log_probs

        async def ask() -> None:
            server = await self._connected(num, print)
            try:
                pool = RequestPool(
                    server, SAMPLING, self.num_at_once, deliver, print, first_delay=self.first_delay
                )
                await pool.run(requests())
            finally:
                await server.client.aclose()

        asyncio.run(ask())
        return found

    async def _connected(self, num: int, say: Callable[[str], None]) -> Server:
        probe_ids = chat.prompt_ids(self.tokenizers.asked, PROBE_TEXT)
        try:
            return await connect(
                self.endpoint,
                probe_ids,
                self.budget,
                sampling=SAMPLING,
                adapters=(PromptScores(num),),
                vocabulary=self.vocabulary(),
                disagreement=lambda completion: self._problem(completion, probe_ids, num),
                say=say,
                first_delay=self.first_delay,
            )
        except ServerError as error:
            raise ServerError(f"{error}; {WAY_OUT}") from None

    def _problem(self, completion: Completion, ids: Sequence[int], num: int) -> str | None:
        """Return why what came is not what the model says at each of these ids, or None."""
        scored, num_ids = completion.scored, len(self.tokenizers.asked)
        if scored is None:
            return "no log-probs of the prompt"
        if scored.ids != list(ids):
            return "it scored other token ids than it was sent"
        if len(scored.log_probs) != len(ids) - 1:
            return f"log-probs at {len(scored.log_probs)} of {len(ids) - 1} tokens"
        for token, row in zip(ids[1:], scored.log_probs, strict=True):
            if token not in row:
                return f"no log-prob of token {token}, which it was sent"
            if len(row) < num:
                return f"log-probs of {len(row)} tokens where {num} were asked for (capture.top_k)"
        return from_server.problem_of(scored.log_probs, num_ids)


def _record(rows: Sequence[LogProbs], header: SignalHeader) -> TopKRecord:
    assert header.top_k is not None
    return from_server.record_of(rows, header.top_k, header.vocab_size)
