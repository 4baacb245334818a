"""A teacher on an OpenAI-compatible server, and a judge that has a server of its own."""

import asyncio
import sys
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distill import chat
from distill.core.jsonl import row_logs
from distill.core.run_folder import RunFolder
from distill.errors import DataError, ServerError
from distill.models.sampling import Sampling
from distill.recipe import Recipe
from distill.signals import from_server
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers.base import Signals, SignalSequence, Teacher
from distill.teachers.log import row_problem
from distill.teachers.logged_rows import LOG_PROBS, OWN_LOG_PROBS
from distill.teachers.requests import AnswerJob, Completion, Request, RequestOptions
from distill.teachers.server.adapters import (
    ADAPTERS,
    Chat,
    CompletionRequest,
    Completions,
    LlamaCpp,
    ServerAdapter,
)
from distill.teachers.server.checks import Vocabulary
from distill.teachers.server.client import Endpoint, Server
from distill.teachers.server.discover import FIRST_DELAY, PROBE_TEXT, connect
from distill.teachers.server.pool import RequestPool
from distill.teachers.server.redaction import Redaction
from distill.teachers.server.token_ids import other_vocabulary, with_token_ids

if TYPE_CHECKING:
    from distill.signals.encoding import SignalRecord

FROM_SERVER = "server"  # in place of dtype and quantization, which a server does not tell


class ServerTeacher(Teacher):
    """It is asked for many answers at once.

    By capture.from_server it gives log-probs with its answers, which the signal is taken over from;
    its own answers cannot be scored there, so it has no NLL.
    """

    on_server = True
    tells_every_token = False
    first_delay = FIRST_DELAY  # seconds before what failed for a moment is asked again

    def __init__(self, recipe: Recipe, folder: RunFolder | None = None, local_rank: int = 0):
        super().__init__(recipe, folder, local_rank)
        teacher = recipe.teacher
        assert teacher.server is not None, "connect asks"
        self.text_only = teacher.text_only
        self.takes_ids = self.has_own_tokenizer = not teacher.text_only
        self.num_at_once = recipe.generate.concurrency
        self.endpoint = Endpoint(
            teacher.server,
            teacher.server_model or teacher.model,
            teacher.api_key_env,
            recipe.generate.request_timeout,
            self.logs.answers.prices,
            local_only=recipe.privacy == "local",
        )
        self.redaction = Redaction.of(recipe)

    @property
    def runtime(self) -> str:
        return "server"

    def describe(self) -> str:
        return self.endpoint.url

    # answering

    def full_sampling(self, options: RequestOptions) -> Sampling:
        sampling = super().full_sampling(options)
        return replace(sampling, num_log_probs=self.num_log_probs(options))

    def num_log_probs(self, options: RequestOptions) -> int:
        """Return what is asked for, but never all ids: what is left of them is the tail."""
        return min(options.sampling.num_log_probs, len(self.tokenizers.asked) - 1)

    def answer(self, job: AnswerJob) -> None:
        """Ask the server, many at once; the next block is claimed when all of the last is sent."""
        sampling = self.full_sampling(job.options)
        self.budget.has_answered |= any(job.known.values())
        in_flight: dict[str, Request] = {}

        def requests() -> Iterator[CompletionRequest]:
            for block in job.blocks:
                for request in job.missing(block):
                    in_flight[request.key] = request
                    yield self._completion_request(request, job.options)

        def deliver(sent: CompletionRequest, came: Completion) -> None:
            tokenizer = self.tokenizers.asked
            restored = self.redaction.restored(sent.key, came, tokenizer, sampling)
            completion = with_token_ids(restored, tokenizer, sent.prompt_ids, sampling.stop_ids)
            if restored is not came and sampling.num_log_probs:
                # those that came are of the placeholders
                nothing_known = [None] * len(completion.token_ids or ())
                completion = replace(completion, log_probs=nothing_known)
            job.on_answer(in_flight.pop(sent.key), completion)

        async def ask() -> None:
            server = await self._connect(sampling, job.say)
            try:
                if job.needs_ids and not server.adapter.exact_ids:
                    raise ServerError(
                        f"teacher.server: {server.url} takes conversations only "
                        f"({server.adapter.path}), and expand: magpie goes on from the middle of one: "
                        "take expand: self_instruct or personas, or a server that takes token ids "
                        "(vLLM, llama.cpp)"
                    )
                job.say(describe_server(server, sampling))
                pool = RequestPool(
                    server,
                    sampling,
                    self.num_at_once,
                    deliver,
                    job.say,
                    first_delay=self.first_delay,
                )
                await pool.run(requests())
            finally:
                self.redaction.tell(job.say)
                await server.client.aclose()

        asyncio.run(ask())

    def _completion_request(self, request: Request, options: RequestOptions) -> CompletionRequest:
        """Return the request with the system prompt, as messages and as token ids alike."""
        messages = list(request.prompt.messages)
        if options.system_prompt:
            messages.insert(0, {"role": "system", "content": options.system_prompt})
        prompt_ids = list(request.prompt_ids)
        redacted = self.redaction.redacted(request.key, messages)
        if redacted != messages:
            prompt_ids = self._ids_of_redacted(request, redacted, options)
        return CompletionRequest(request.key, redacted, prompt_ids, request.seed)

    def _ids_of_redacted(
        self, request: Request, messages: list[dict[str, str]], options: RequestOptions
    ) -> list[int]:
        """Return the prompt as token ids, rendered anew.

        Raises DataError for ids that go on from the middle of a template (magpie).
        """
        if not request.is_conversation:
            raise DataError(
                "privacy: redact: the system prompt of expand: magpie holds what looks like "
                "personal data, and stands in the middle of a template: take it out"
            )
        if not self.takes_ids:
            return []
        return chat.prompt_ids(
            self.tokenizers.asked, messages, enable_thinking=options.sampling.enable_thinking
        )

    async def _connect(self, sampling: Sampling, say: Callable[[str], None]) -> Server:
        tokenizer = self.tokenizers.asked
        probe_ids: list[int] = []
        if self.takes_ids:
            probe_ids = chat.prompt_ids(
                tokenizer, PROBE_TEXT, enable_thinking=sampling.enable_thinking
            )
        return await connect(
            self.endpoint,
            probe_ids,
            self.budget,
            sampling=sampling,
            adapters=self._adapters(sampling),
            vocabulary=self.vocabulary(),
            disagreement=lambda completion: other_vocabulary(tokenizer, completion),
            say=say,
            first_delay=self.first_delay,
        )

    def vocabulary(self) -> Vocabulary:
        """Return what is known here of the server's tokens."""
        tokenizer = self.tokenizers.asked
        return Vocabulary(
            lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
            len(tokenizer),
            is_own=self.has_own_tokenizer,
        )

    def _adapters(self, sampling: Sampling) -> Sequence[ServerAdapter]:
        if sampling.num_log_probs:
            return (Completions, LlamaCpp)
        return ADAPTERS if self.takes_ids else (Chat,)

    # being listened to: log-probs that came with the answers

    def precision(self) -> tuple[str, str]:
        return FROM_SERVER, FROM_SERVER

    @property
    def signal_source(self) -> str:
        return "from the server's answers"

    @property
    def tokens_a_block(self) -> int:
        """Return more than there can be.

        What was given is only taken over, and each block reads the log to its end.
        """
        return sys.maxsize

    def signals(
        self,
        header: SignalHeader,
        columns: Columns,
        batches: Sequence[list[SignalSequence]],
        captured: Container[str],
    ) -> Signals:
        """Yield the log-probs that the server gave with the answers, from the log of those.

        Where some are none, which earlier versions took as they came, nothing is known of that
        answer's tokens, and that is said. Raises DataError where some are not there.
        """
        wanted = {
            (sequence.answer_key, _packed(sequence.answer_ids)): sequence
            for batch in batches
            for sequence in batch
            if sequence.key not in captured
        }
        num_wanted = len(wanted)
        log = self.logs.answers.folder
        bad: list[str] = []
        for row in row_logs(log, []):
            if row_problem(row, None) is not None or LOG_PROBS not in row:
                continue
            sequence = wanted.pop((row["key"], _packed(row["token_ids"])), None)
            if sequence is not None:
                yield sequence, self._record(row, sequence, header, columns, bad), None
        if bad:
            print(
                f"capture: {log}: what came as log-probs with {len(bad):,} of {num_wanted:,} "
                f"answers is none ({bad[0]}); they get no soft loss",
                file=sys.stderr,
            )
        if wanted:
            raise DataError(
                f"{log}: no log-probs with {len(wanted)} of {num_wanted} kept answers; "
                "run `distill run RECIPE --redo generate` to ask for them"
            )

    def _record(
        self,
        row: dict[str, Any],
        sequence: SignalSequence,
        header: SignalHeader,
        columns: Columns,
        bad: list[str],
    ) -> "SignalRecord":
        """Return a row's record; for one that is none the record that knows nothing, and a note."""
        num_tokens, vocab_size = len(sequence.answer_ids), header.vocab_size
        k = header.top_k or self.num_log_probs(RequestOptions.of(self.recipe))
        own_T = None
        try:
            record = from_server.unpacked(str(row[LOG_PROBS]), num_tokens, k, vocab_size)
            problem = from_server.problem_of_record(record, vocab_size)
            if header.kind == "chunks" and OWN_LOG_PROBS in row:
                own_T = from_server.unpacked_own(str(row[OWN_LOG_PROBS]), num_tokens)
        except DataError as error:
            record, problem = None, str(error)
        if record is None or problem is not None:
            bad.append(f"{sequence.answer_key[:40]}: {problem}")
            record, own_T = from_server.unknown_record(num_tokens, k, vocab_size), None
        if header.kind == "top_k":
            return record
        return from_server.likelihoods_of(
            record, own_T, sequence.answer_ids, columns.boundary_ids, columns.end_ids
        )


def _packed(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


class JudgeOnServer(ServerTeacher):
    """The judge, where it has a server of its own.

    Its tokenizer is not known: it gets conversations, and tokens are counted as the teacher's. It
    shares the teacher's budget.
    """

    def __init__(self, teacher: Teacher):
        options = teacher.recipe.generate
        assert options.judge_server is not None and options.judge_model is not None
        Teacher.__init__(self, teacher.recipe)
        self.budget, self.logs = teacher.budget, teacher.logs
        self.tokenizers = teacher.tokenizers
        self.text_only, self.takes_ids = teacher.text_only, False
        self.has_own_tokenizer = False
        self.num_at_once = options.concurrency
        self.endpoint = Endpoint(
            options.judge_server,
            options.judge_model,
            options.judge_api_key_env,
            options.request_timeout,
            self.logs.verdicts.prices,
            local_only=teacher.recipe.privacy == "local",
        )
        self.redaction = Redaction.of(teacher.recipe)

    @property
    def model(self) -> str:
        return self.endpoint.model

    @property
    def licence(self) -> str | None:
        return None

    @property
    def served_name(self) -> str | None:
        return None

    def key_fields(self) -> list[str]:
        """Return what its replies were always kept under: nothing is asked, or paid for, again."""
        return [f"judge/{self.model}@main", "none", "auto", self._template()]


def describe_server(server: Server, sampling: Sampling) -> str:
    """Return what the server gives, and what was found out about it."""
    gives = "exact token ids" if server.adapter.exact_ids else "text only"
    if sampling.num_log_probs:
        gives += f" and {sampling.num_log_probs} log-probs with each"
    notes = [*server.notes]
    if not server.tells_reasons:
        notes.append("it does not say why an answer ended: without an end token it counts as cut")
    extra = "".join(f"; {note}" for note in notes)
    return f"{server.url} gives {gives} ({server.adapter.path}){extra}"
