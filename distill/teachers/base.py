"""What a teacher is: the one place through which stages meet it, wherever it runs.

A new kind of teacher is a subclass in a file of its own, and a line in `connect` (__init__.py). It
must say who it is and answer; a signal, figures and more are methods with a default.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from distill import chat
from distill.chat.tokenizers import Tokenizers, load_teachers_tokenizer, tokenizers_of
from distill.core import shutdown
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.models import find
from distill.models.sampling import Sampling
from distill.recipe import Recipe
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers.log import AnswerLogs
from distill.teachers.requests import AnswerJob, Block, Completion, Request, RequestOptions
from distill.teachers.server.purses import budget_of

if TYPE_CHECKING:
    from distill.signals.encoding import SignalRecord

TEXT_ONLY = "text"  # in place of the template's fingerprint, where the template is the server's own
LEAST_CLAIM = 8  # requests in a block that a job claims
FEWEST_CLAIMS = 64  # blocks, so that the last ones end together


class SignalSequence:
    """One sample whose answer tokens the teacher is listened to at.

    `key` names it in the signal, `answer_key` in the log of answers. `prompt_ids` and `answer_ids`
    are what the student reads and learns; `teacher_ids` the same tokens, prompt and answer, in the
    teacher's ids where those are others (a trimmed vocabulary). All are held as 4 bytes an id.
    """

    __slots__ = ("_ids", "_num_prompt", "_teacher_ids", "answer_key", "key")

    def __init__(
        self,
        key: str,
        answer_key: str,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
        teacher_ids: Sequence[int] | None = None,
    ):
        self.key = key
        self.answer_key = answer_key
        self._ids = array("i", chain(prompt_ids, answer_ids))
        self._num_prompt = len(prompt_ids)
        self._teacher_ids = None if teacher_ids is None else array("i", teacher_ids)

    @property
    def prompt_ids(self) -> list[int]:
        return self._ids[: self._num_prompt].tolist()

    @property
    def answer_ids(self) -> list[int]:
        return self._ids[self._num_prompt :].tolist()

    @property
    def ids(self) -> list[int]:
        """Return the ids of prompt and answer."""
        return self._ids.tolist()

    @property
    def shown_ids(self) -> list[int]:
        """Return what the teacher is shown: as many ids as `ids`."""
        return self.ids if self._teacher_ids is None else self._teacher_ids.tolist()


# (sequence, its record, hidden states int8 [T, H] or None)
Signals = Iterator[tuple[SignalSequence, "SignalRecord", Any]]


class Teacher(ABC):
    """A teacher: a model that answers requests and says how likely each token was.

    To make one loads nothing. It is loaded when there is something to ask, and stays so until
    `close`.
    """

    text_only = False  # it is known by its text alone: no tokenizer, no signal
    takes_ids = True  # it reads token ids; else it gets the conversation
    on_server = False  # it answers on a server
    can_use_gpu = True
    stops_by_itself = False  # `signals` heeds a stop signal, after all that was paid for
    tells_every_token = True  # its signal has no token of which nothing is known
    divides_prompts = False  # ranks evaluate it together; else the first of them does
    num_at_once = LEAST_CLAIM  # requests that it answers side by side

    def __init__(self, recipe: Recipe, folder: RunFolder | None = None, local_rank: int = 0):
        """Raise MissingError if a file or folder that the recipe names for it is not there."""
        self.recipe = recipe
        self.local_rank = local_rank
        self.location = recipe.model_location(recipe.teacher.model)
        stage = (folder or RunFolder.of(recipe)).stage("generate")
        self.logs = AnswerLogs.of(recipe, stage, self._num_ids)
        self.budget = budget_of(recipe, self.logs)

    # who it is

    @property
    def model(self) -> str:
        """Return its name, as rows of the log say who answered."""
        return self.recipe.teacher.model

    @property
    def licence(self) -> str | None:
        return self.recipe.teacher.licence

    @property
    def served_name(self) -> str | None:
        """Return its name on its server, where that is another than `model`."""
        return self.recipe.teacher.served_name

    @cached_property
    def identity(self) -> str:
        """Return what tells it from others: a hash of its files, or hub id and revision."""
        return find.identity(self.location, self.recipe.teacher.revision)

    def key_fields(self) -> list[str]:
        """Return what an answer's key holds of who answers."""
        teacher = self.recipe.teacher
        return [self.identity, teacher.quantization, teacher.dtype, self._template()]

    def _template(self) -> str:
        tokenizer = self.tokenizers.teacher
        return TEXT_ONLY if tokenizer is None else chat.fingerprint_of_template(tokenizer)

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """Return its tokenizer, None where it is known by its text alone, and the student's.

        Raises MissingError where one that is needed is not there.
        """
        own = None if self.text_only else load_teachers_tokenizer(self.recipe, self.location)
        return tokenizers_of(self.recipe, own)

    def _num_ids(self) -> int | None:
        """Return how many token ids its answers can have.

        None where they are the student's tokens for its text: a student may be changed.
        """
        return None if self.text_only else len(self.tokenizers.asked)

    @abstractmethod
    def describe(self) -> str:
        """Return how it runs, as it is shown while it works: `cpu, float32`."""

    @property
    def runtime(self) -> str:
        """Return what the report says of where it ran."""
        return self.describe()

    # loading

    def load(self, longest: int = 0) -> None:  # noqa: B027 - some have nothing to load
        """Load what takes time, so that the work is timed without it.

        `longest`: tokens of the longest sequence that it will be listened to at; 0 = it only
        answers.
        """

    def close(self) -> None:  # noqa: B027 - nor to unload
        """Unload what was loaded."""

    @contextmanager
    def dividing(self, processes: Processes) -> Iterator[Processes | None]:
        """Yield the processes that divide what this teacher is asked in the block.

        Every rank of the launch calls it where one of them will ask. None on a rank that has
        helped its leader meanwhile (core/teams.py), and has nothing to do itself.
        """
        yield processes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size_of_weights(self) -> int | None:
        """Return the bytes of its weights on this machine where a file says them, else None."""
        return None

    # answering

    @abstractmethod
    def answer(self, job: AnswerJob) -> None:
        """Answer what has no answer yet; call `job.on_answer` as each answer ends.

        Raises Stopped at a limit or a signal.
        """

    def stop_ids(self) -> list[int]:
        """Return the ids that end its answers, ascending."""
        ids = None
        if not self.text_only:
            ids = find.stop_ids_of_files(self.location, self.recipe.teacher.revision)
        return chat.stop_ids(self.tokenizers.asked, ids)

    def full_sampling(self, options: RequestOptions) -> Sampling:
        """Return the options' sampling; an answer ends with the teacher's stop ids, too."""
        stop_ids = {*self.stop_ids(), *options.sampling.stop_ids}
        return replace(options.sampling, stop_ids=tuple(sorted(stop_ids)))

    def num_log_probs(self, options: RequestOptions) -> int:
        """Return how many log-probs it gives with each token of an answer."""
        return options.sampling.num_log_probs

    def blocks(
        self,
        requests: Sequence[Request],
        options: RequestOptions,
        processes: Processes,
        groups: Sequence[Sequence[str]] = (),
    ) -> list[Block]:
        """Return which of a job's requests are answered together.

        Here that decides no answer: a share is one block, or a claim is a small part. `groups`: ids
        of prompts that were asked before the others, for teachers where it does.
        """
        if not processes.leases:
            return [Block(list(requests[i :: processes.num])) for i in range(processes.num)]
        size = max(LEAST_CLAIM, min(16 * self.num_at_once, len(requests) // FEWEST_CLAIMS))
        return [Block(list(requests[i : i + size])) for i in range(0, len(requests), size)]

    def recorder(
        self, job: AnswerJob, requests: Sequence[Request]
    ) -> Callable[[int, list[int], str], None]:
        """Return the callback for a runtime that ends answers as (index, token ids, reason)."""

        def record(index: int, ids: list[int], finish_reason: str) -> None:
            text = chat.text_of(self.tokenizers.asked, ids)
            job.on_answer(requests[index], Completion(text, finish_reason, ids))
            shutdown.check()

        return record

    # being listened to

    def precision(self) -> tuple[str, str]:
        """Return (dtype, quantization) of its weights, as the signal's header says them."""
        return self.recipe.teacher.dtype, self.recipe.teacher.quantization

    @property
    def type_told(self) -> str | None:
        """Return how the type of its weights was chosen, None where nothing was measured for it."""
        return None

    @property
    def signal_source(self) -> str:
        """Return where the signal comes from, as it is shown meanwhile."""
        return self.describe()

    @property
    def tokens_a_block(self) -> int:
        """Return about how many answer tokens a job claims at a time when it captures."""
        return self.recipe.capture.shard_tokens

    def signals(
        self,
        header: SignalHeader,
        columns: Columns,
        batches: Sequence[list[SignalSequence]],
        captured: Container[str],
    ) -> Signals:
        """Yield what it says at each answer token, a record a sequence.

        `columns`: what its logits are of. Sequences whose key is
        `captured` may be left out. Here one comes after the other.
        """
        from distill.teachers.records import records_of_logits

        for sequence in (s for batch in batches for s in batch if s.key not in captured):
            chunks = self.logit_chunks(sequence)
            answers, keys = [sequence.answer_ids], [sequence.key]
            records = records_of_logits(header, chunks, answers, keys, columns)
            yield sequence, next(records), None

    def logit_chunks(self, sequence: SignalSequence) -> Iterator[tuple[slice, Any]]:
        """Yield (slice of the answer tokens, float32 logits [N, C] that predict them).

        Logits are valid until the next are asked for.
        """
        raise NotImplementedError(f"{self.describe()}: it gives no logits")

    def logits_of_batch(self, batch: Sequence[SignalSequence]) -> Iterator[tuple[slice, Any]]:
        """Yield the same of several sequences: slices are of all their answer tokens together.

        Here one comes after the other.
        """
        start = 0
        for sequence in batch:
            for part, logits_NC in self.logit_chunks(sequence):
                yield slice(start + part.start, start + part.stop), logits_NC
            start += len(sequence.answer_ids)

    # evaluation

    def evaluate(
        self, eval_set: EvalSet, bar: Progress, processes: Processes = ALONE
    ) -> ModelAnswers:
        """Return its greedy answers, and the NLL of those in `eval_set` where it can be had.

        `processes`: of ranks that all call it, where it `divides_prompts`.
        """
        from distill.teachers.held_out import greedy_answers

        return greedy_answers(self, eval_set, bar)
