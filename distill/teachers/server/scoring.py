"""A teacher on a vLLM server that says how likely given token ids are (its `prompt_logprobs`).

Those are the student's own answers, in rounds, and by `capture.from_server: scores` the kept answers,
whoever gave them: the server itself, the teacher's weights, or a GGUF file of it.

Nothing else that we know scores given ids: llama.cpp's server, SGLang's completions and the paid APIs
give log-probs of what they write alone. So it is found out by asking, before anything is paid for.
"""

import asyncio
import math
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np

from distill import chat
from distill.core.jsonl import RowLog
from distill.errors import DistillError, ServerError
from distill.models.sampling import Sampling
from distill.signals import from_server
from distill.signals.columns import Columns
from distill.signals.encoding import SignalRecord
from distill.signals.header import SignalHeader
from distill.teachers.base import Signals, SignalSequence
from distill.teachers.requests import Completion, LogProbs
from distill.teachers.server.adapters import CompletionRequest, PromptScores
from distill.teachers.server.client import Server
from distill.teachers.server.discover import PROBE_TEXT, connect
from distill.teachers.server.pool import RequestPool
from distill.teachers.server.teacher import ServerTeacher

REPLACEMENT = "\ufffd"
SAMPLING = Sampling(max_new_tokens=1)  # a server writes one token at least
SEQUENCES_A_SLOT = 8  # between two times that what was scored is kept
VLLM = (
    "log-probs of given tokens, which vLLM alone gives (prompt_logprobs, 0.10.2 or newer, as many as "
    "its --max-logprobs): serve the teacher with it"
)


class ScoringTeacher(ServerTeacher):
    """It is sent tokens that it need not have written, and says its likeliest ids at each of them."""

    tells_every_token = True
    stops_by_itself = True

    @property
    def signal_source(self) -> str:
        return f"{self.describe()} scores given tokens, {self.num_likeliest} likeliest ids at each"

    @property
    def num_likeliest(self) -> int:
        """Return of how many ids a token the log-probs are asked for: never of all."""
        return min(self.recipe.capture.top_k, len(self.tokenizers.asked) - 1)

    @property
    def way_out(self) -> str:
        """Return what can be done where the server scores nothing."""
        if not self.recipe.capture.scores_answers:
            return (
                f"rounds need {VLLM}, or set capture.from_server to false (the teacher's weights, or "
                "teacher.gguf, then score here), or rounds to null"
            )
        if self.recipe.teacher.gguf:
            here = "capture.from_server to false and teacher.server to null (the file then scores)"
            return f"capture.from_server scores needs {VLLM}, or set {here}"
        return (
            f"capture.from_server scores needs {VLLM}, or set capture.from_server to true (it gives "
            "log-probs with each answer, and all are asked for anew), or to false (the teacher's "
            "weights then score here)"
        )

    @property
    def tokens_a_block(self) -> int:
        return self.recipe.capture.shard_tokens

    def check(self, say: Callable[[str], None] = print) -> None:
        """Ask the server to score a few tokens.

        Raises ServerError, with the way out, where it does not, and MissingError where nothing
        answers.
        """

        async def ask() -> None:
            server = await self._connected(say)
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
        something else than was asked, and Stopped at a limit or a signal: what was scored till then
        is yielded before.
        """
        wanted = [s for batch in batches for s in batch if s.key not in captured]
        size = SEQUENCES_A_SLOT * self.num_at_once
        with RowLog(self.logs.scored.folder) as log:
            self.budget.leave_out(log.path)
            for start in range(0, len(wanted), size):
                group = wanted[start : start + size]
                records, ended = self._scored(group, header, columns, log)
                for sequence in (s for s in group if s.key in records):
                    yield sequence, records[sequence.key], None
                if ended is not None:
                    raise ended

    def _scored(
        self,
        group: Sequence[SignalSequence],
        header: SignalHeader,
        columns: Columns,
        log: RowLog,
    ) -> tuple[dict[str, SignalRecord], DistillError | None]:
        """Return (the records of the sequences, by their keys; what ended it before all were there)."""
        sequences = {sequence.key: sequence for sequence in group}
        found: dict[str, SignalRecord] = {}

        def requests() -> Iterator[CompletionRequest]:
            for sequence in group:
                yield CompletionRequest(sequence.key, [], sequence.shown_ids, 1)

        def deliver(sent: CompletionRequest, completion: Completion) -> None:
            if completion.usage is not None:
                log.append({"key": sent.key, **self._whose(), "server": completion.usage.row()})
            if completion.error is not None:
                raise ServerError(self._not_scored(completion.error, len(sent.prompt_ids)))
            if problem := self._problem(completion, sent.prompt_ids):
                raise ServerError(f"teacher.server: {self.endpoint.url}: {problem}; {self.way_out}")
            assert completion.scored is not None
            sequence = sequences[sent.key]
            rows = completion.scored.log_probs[len(sequence.prompt_ids) - 1 :]
            found[sent.key] = self._record_of(rows, sequence, header, columns)

        async def ask() -> None:
            server = await self._connected(print)
            try:
                pool = RequestPool(
                    server, SAMPLING, self.num_at_once, deliver, print, first_delay=self.first_delay
                )
                await pool.run(requests())
            finally:
                await server.client.aclose()

        try:
            asyncio.run(ask())
        except DistillError as error:
            return found, error
        return found, None

    def _not_scored(self, error: str, num_tokens: int) -> str:
        """Return what is told of a sequence that the server would not score."""
        return (
            f"teacher.server: {self.endpoint.url}: {error}; it was sent {num_tokens} tokens and writes one: "
            "if it reads fewer, raise its --max-model-len, or lower generate.max_new_tokens (of answers that "
            "are given generate.max_characters); else run the same command again: what was scored is kept"
        )

    def _whose(self) -> dict[str, str | None]:
        """Return what the log says of who was asked, where several teachers have limits of their own."""
        if not self.recipe.route:
            return {}
        return {"teacher": self.model, "server_model": self.served_name}

    async def _connected(self, say: Callable[[str], None]) -> Server:
        probe_ids = chat.prompt_ids(self.tokenizers.asked, PROBE_TEXT)
        try:
            return await connect(
                self.endpoint,
                probe_ids,
                self.budget,
                sampling=SAMPLING,
                adapters=(PromptScores(self.num_likeliest),),
                vocabulary=self.vocabulary(),
                disagreement=lambda completion: (
                    self._problem(completion, probe_ids) or self._other_vocabulary(completion)
                ),
                say=say,
                first_delay=self.first_delay,
            )
        except ServerError as error:
            raise ServerError(f"{error}; {self.way_out}") from None

    def _problem(self, completion: Completion, ids: Sequence[int]) -> str | None:
        """Return why what came is not what the model says at each of these ids, or None."""
        scored, num = completion.scored, self.num_likeliest
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
            if not all(map(math.isfinite, row.values())):
                return f"a log-prob at token {token} that is no finite number"
        return from_server.problem_of(scored.log_probs, len(self.tokenizers.asked))

    def _other_vocabulary(self, completion: Completion) -> str | None:
        """Return what is wrong where the server reads most of the ids as other text than we do.

        It would score another text. Ids in the middle of a character have none of their own.
        """
        assert completion.scored is not None, "_problem comes before"
        scored, tokenizer = completion.scored, self.tokenizers.asked
        pairs = [
            (text.strip(), tokenizer.decode([token]).strip())
            for token, text in zip(scored.ids[1:], scored.texts, strict=True)
            if text is not None and REPLACEMENT not in text
        ]
        others = [pair for pair in pairs if pair[0] != pair[1]]
        if 2 * len(others) <= len(pairs):
            return None
        theirs, ours = others[0]
        return (
            f"it reads {len(others)} of {len(pairs)} token ids as other text than the tokenizer of "
            f"teacher.model, as {theirs[:40]!r} for {ours[:40]!r}: another vocabulary"
        )

    def _record_of(
        self,
        rows: Sequence[LogProbs],
        sequence: SignalSequence,
        header: SignalHeader,
        columns: Columns,
    ) -> SignalRecord:
        """Return the record of an answer; `rows`: the log-probs at each of its tokens."""
        record = from_server.record_of(rows, self.num_likeliest, header.vocab_size)
        if header.kind == "top_k":
            return record
        ids = sequence.answer_ids
        own_T = np.array([row[token] for row, token in zip(rows, ids, strict=True)])
        return from_server.likelihoods_of(record, own_T, ids, columns.boundary_ids, columns.end_ids)
