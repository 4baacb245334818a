"""A teacher that transformers loads on this machine."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, cast

from distill import chat
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.core.teams import Team
from distill.errors import MismatchError, Stopped
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_transformers
from distill.losses.head import Head
from distill.models import divided, find, load, spread
from distill.models.batching import blocks_by_length
from distill.models.head import head_of
from distill.models.memory import free_memory
from distill.models.precision import FILE, Placed, Work, placed
from distill.models.sequences import TokenSequence
from distill.recipe import Recipe
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers.base import Signals, SignalSequence, Teacher
from distill.teachers.requests import AnswerJob, Block, Request, RequestOptions


class LocalTeacher(Teacher):
    """Here batches decide the floating-point results.

    So they are cut from all requests of a job, not from the missing ones, and a run that was killed
    ends with the same answers. What is captured again shares its batch again.

    Where a team of ranks holds it (teacher.tensor_parallel), all of them make each pass, and the
    leader does all else.
    """

    divides_prompts = True
    _model: Any = None
    _head: Head | None = None
    _team: Team | None = None
    _leads = False  # the others of the team follow now

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder | None = None,
        local_rank: int = 0,
        *,
        work: Literal["generate", "capture"] = "generate",
    ):
        super().__init__(recipe, folder, local_rank)
        self._stage = (folder or RunFolder.of(recipe)).stage(work)
        self._captures = work == "capture"
        if self._captures:  # a race's signals lie where the run's do: one type for both
            self._stage = (self._stage / "signals").resolve().parent

    @cached_property
    def _placed(self) -> Placed:
        """Return where it runs and in which type, chosen once for its work in the run."""
        teacher = self.recipe.teacher
        return placed(teacher.device, teacher.dtype, teacher.quantization, self._work())

    def _work(self) -> Work:
        """Return its work; one of several has begun where its choice is noted.

        Earlier versions had one note for all of them.
        """
        teacher, route = self.recipe.teacher, self.recipe.route
        num_rows, made = teacher.batch_tokens, "signals/*/*.shard"
        for_all = (self._stage / FILE).is_file()
        if not self._captures:  # decodes a token of each of so many answers at a time
            num_rows //= self.recipe.generate.max_new_tokens
            made = "*/*.jsonl"  # raw answers, written prompts, verdicts
        return Work(
            note=self._stage / (f"precision-{route}.json" if route and not for_all else FILE),
            began=lambda: not route and any(self._stage.glob(made)),
            folder=lambda: find.local_folder(self.location, teacher.revision),
            num_rows=num_rows,
        )

    @cached_property
    def placement(self) -> load.Placement:
        where = self._placed.placement
        is_spread = self.recipe.teacher.device_map == "auto" and where.device == "cuda"
        return replace(where, spread=is_spread, num_parts=self.num_parts)

    @property
    def num_parts(self) -> int:
        """Return how many ranks hold it together."""
        return self.recipe.teacher.num_parts

    @property
    def type_told(self) -> str | None:
        return self._placed.told

    def describe(self) -> str:
        return str(self.placement)

    def load(self, longest: int = 0) -> None:
        if self._model is not None:
            return
        if self.type_told is not None and self.local_rank == 0:
            print(f"  teacher: {self.type_told}", flush=True)
        teacher = self.recipe.teacher
        if self.num_parts > 1 and self._team is None:
            raise MismatchError(
                f"{self.recipe.source}: {self.recipe.teacher_section}.tensor_parallel {self.num_parts}: "
                "one process asks it here; set it to null, and device_map to auto"
            )
        if self._leads and self._team is not None:
            divided.tell_ready(self._team.members)
        self._model = load.load_model(
            self.location,
            self.placement,
            revision=teacher.revision,
            trust_remote_code=teacher.trust_remote_code,
            local_rank=self.local_rank,
            team=self._team,
        )
        text = spread.told(self._model) or divided.told(self._model)
        if text is not None and (self._team is None or self.local_rank == 0):
            print(f"  teacher: {text}", flush=True)

    def close(self) -> None:
        if self._model is not None:
            self._model = self._head = None
            free_memory()

    @contextmanager
    def dividing(self, processes: Processes) -> Iterator[Processes | None]:
        team = processes.team
        if self.num_parts == 1 or team is None:
            yield processes
            return
        if self._leads:  # within another such block
            yield team.leading(processes)
            return
        self._team = team
        if not team.is_led_here:
            divided.follow(team.members, lambda: self.model_here)
            yield None
            return
        self._leads = True
        try:
            yield team.leading(processes)
            divided.tell_end(team.members)
        except Stopped as stopped:
            divided.tell_end(team.members, str(stopped))
            raise
        finally:
            self._leads = False

    @property
    def model_here(self) -> Any:
        self.load()
        return self._model

    @property
    def head(self) -> Head:
        if self._head is None:
            self._head = head_of(self.model_here)
        return self._head

    def stop_ids(self) -> list[int]:
        if self.num_parts > 1:  # no rank loads its part for that
            return super().stop_ids()
        return chat.stop_ids(self.tokenizers.asked, load.stop_ids(self.model_here))

    def blocks(
        self,
        requests: Sequence[Request],
        options: RequestOptions,
        processes: Processes,
        groups: Sequence[Sequence[str]] = (),
    ) -> list[Block]:
        """Return blocks of similar length, each group's by itself: those are answered already."""
        group_of: dict[str, int] = {}
        for number, group in enumerate(groups):
            for prompt_id in group:
                group_of.setdefault(prompt_id, number)
        parts: list[list[Request]] = [[] for _ in range(len(groups) + 1)]
        for request in requests:
            parts[group_of.get(request.prompt.id, -1)].append(request)
        blocks = []
        for part in parts:
            widths = [len(r.prompt_ids) + options.sampling.max_new_tokens for r in part]
            blocks += [
                Block([part[i] for i in block.indices], block.num_slots)
                for block in blocks_by_length(widths, self.recipe.teacher.batch_tokens)
            ]
        return blocks

    def answer(self, job: AnswerJob) -> None:
        from distill.models.decode import answer

        tokenizer = self.tokenizers.asked
        sampling = self.full_sampling(job.options)
        for block in job.blocks:
            requests = block.requests
            known = {i: job.known[r.key] for i, r in enumerate(requests) if r.key in job.known}
            answer(
                self.model_here,
                [list(request.prompt_ids) for request in requests],
                seeds=[request.seed for request in requests],
                sampling=sampling,
                pad_id=tokenizer.pad_token_id,
                on_finished=self.recorder(job, requests),
                vocab_size=len(tokenizer),
                num_slots=block.num_slots,
                known_lengths=known,
            )

    def precision(self) -> tuple[str, str]:
        return self.placement.dtype, self.placement.quantization

    def signals(
        self,
        header: SignalHeader,
        columns: Columns,
        batches: Sequence[list[SignalSequence]],
        captured: Container[str],
    ) -> Signals:
        """Yield the records of whole batches, of which some sequence is not captured."""
        for batch in batches:
            if not all(sequence.key in captured for sequence in batch):
                yield from self._signals_of_batch(header, columns, batch)

    def _signals_of_batch(
        self, header: SignalHeader, columns: Columns, batch: list[SignalSequence]
    ) -> Signals:
        from distill.signals import hidden_states
        from distill.teachers.records import records_of

        hidden = self._hidden_states(batch)
        answers, keys = [s.answer_ids for s in batch], [s.key for s in batch]
        records = records_of(header, self.head, hidden, answers, keys, columns)
        for sequence, record, hidden_TH in zip(batch, records, hidden, strict=True):
            states = None
            if header.hidden_size:
                states = hidden_states.quantize(hidden_TH.float().cpu().numpy())
            yield sequence, record, states

    def _hidden_states(self, batch: Sequence[SignalSequence]) -> list[Any]:
        """Return for each sequence the states [T, H] that predict its answer tokens."""
        from distill.models.score import answer_hidden_states

        return answer_hidden_states(
            self.model_here,
            [TokenSequence(s.shown_ids, len(s.prompt_ids)) for s in batch],
            self.tokenizers.asked.pad_token_id,
        )

    def logits_of_batch(self, batch: Sequence[SignalSequence]) -> Iterator[tuple[slice, Any]]:
        import torch

        from distill.models.score import logit_chunks

        return logit_chunks(self.head, torch.cat(self._hidden_states(batch)))

    def evaluate(
        self, eval_set: EvalSet, bar: Progress, processes: Processes = ALONE
    ) -> ModelAnswers:
        if self.num_parts == 1:
            return evaluate_transformers(eval_set, self.model_here, bar, processes)
        made = None
        with self.dividing(processes) as sharing:
            if sharing is not None:
                made = evaluate_transformers(eval_set, self.model_here, bar, sharing)
        return processes.broadcast(cast(ModelAnswers, made))
