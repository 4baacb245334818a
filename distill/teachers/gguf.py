"""A teacher that is a GGUF file (`teacher.gguf`), run by llama.cpp in this process, on the CPU.

With it a quantized model of 8 B parameters teaches on a laptop of 8 GB. Its logits are complete, so
that what is stored is what this file says, to the last id. Answers are drawn by our own code with a
seed a request; where weights are quantized a row's result does not depend on its neighbours, so
that a killed run goes on with what is missing alone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from distill.core.cores import usual_threads
from distill.core.digests import digest
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.errors import MismatchError
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_gguf
from distill.llama_cpp import gguf_header
from distill.llama_cpp.model import LlamaModel
from distill.models import find
from distill.recipe import Recipe
from distill.teachers.base import SignalSequence, Teacher
from distill.teachers.requests import AnswerJob, Block

PROBE_TEXT = "It's 12,345 o'clock. 今天天气很好。 Habari yako? Apa kabar? नमस्ते, آپ 🎉\n\n  x = 1"
MOST_SEQUENCES = 32  # more at once make llama.cpp's attention slower, not the answers faster


class GgufTeacher(Teacher):
    """The file answers and gives the signal; `teacher.model` only tokenizer and chat template."""

    can_use_gpu = False

    def __init__(self, recipe: Recipe, folder: RunFolder | None = None, local_rank: int = 0):
        super().__init__(recipe, folder, local_rank)
        path = recipe.gguf_teacher
        assert path is not None, "connect asks"
        self.path = path
        self._llama: LlamaModel | None = None
        self._opened_until_close = ExitStack()

    @cached_property
    def identity(self) -> str:
        model = find.identity(self.location, self.recipe.teacher.revision)
        return digest(model, find.digest_of_files([self.path]))

    @cached_property
    def quantization(self) -> str:
        """Return the type that holds most of the file's weights, e.g. Q4_K."""
        from gguf import GGMLQuantizationType

        weights: dict[int, int] = {}
        for tensor in gguf_header.read_tensor_infos(self.path):
            weights[tensor.type_id] = weights.get(tensor.type_id, 0) + tensor.num_weights
        return GGMLQuantizationType(max(weights, key=lambda type_id: weights[type_id])).name

    def describe(self) -> str:
        return f"llama.cpp, cpu, {self.quantization}"

    def precision(self) -> tuple[str, str]:
        return "gguf", self.quantization

    def size_of_weights(self) -> int | None:
        return self.path.stat().st_size

    def load(self, longest: int = 0) -> None:
        """Open the file to be listened to.

        Each block of answers opens it with a context of its own.

        Raises what `_opened` raises.
        """
        if longest and self._llama is None:
            self._llama = self._opened_until_close.enter_context(self._opened(longest, 1))

    def close(self) -> None:
        self._opened_until_close.close()
        self._llama = None

    def answer(self, job: AnswerJob) -> None:
        for block in job.blocks:
            missing = job.missing(block)
            if missing:
                self._answer_block(job, Block(missing))

    def _answer_block(self, job: AnswerJob, block: Block) -> None:
        import torch

        from distill.models.decode import Drawer

        sampling = self.full_sampling(job.options)
        prompts = [list(request.prompt_ids) for request in block.requests]
        seeds = [request.seed for request in block.requests]
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        fitting = self.recipe.teacher.batch_tokens // longest
        num_sequences = max(1, min(MOST_SEQUENCES, len(prompts), fitting))
        drawer = Drawer(seeds, sampling, len(self.tokenizers.asked))
        record = self.recorder(job, block.requests)

        def finished(index: int, ids: list[int]) -> None:
            record(index, ids, "stop" if ids[-1] in sampling.stop_ids else "length")

        with self._opened(longest, num_sequences) as llama:
            llama.generate(
                prompts,
                sampling.max_new_tokens,
                sampling.stop_ids,
                on_done=finished,
                choose=lambda logits_NV, places: drawer(torch.from_numpy(logits_NV), places),
            )

    def logit_chunks(self, sequence: SignalSequence) -> Iterator[tuple[slice, Any]]:
        import torch

        assert self._llama is not None, "load(longest) comes before"
        start = len(sequence.prompt_ids)
        for first, logits_NC in self._llama.logit_blocks(sequence.shown_ids[:-1], start - 1):
            yield slice(first, first + len(logits_NC)), torch.from_numpy(logits_NC)

    def evaluate(
        self, eval_set: EvalSet, bar: Progress, processes: Processes = ALONE
    ) -> ModelAnswers:
        return evaluate_gguf(eval_set, self.path, bar)

    @contextmanager
    def _opened(self, context_length: int, num_sequences: int) -> Iterator[LlamaModel]:
        """Yield the file, loaded.

        Raises MismatchError where it does not cut text into the tokenizer's tokens, and what
        LlamaModel raises.
        """
        with LlamaModel(
            self.path,
            num_threads=self.recipe.quantize.threads or usual_threads(),
            context_length=context_length,
            num_sequences=num_sequences,
        ) as llama:
            self._check_tokenizer(llama)
            yield llama

    def _check_tokenizer(self, llama: LlamaModel) -> None:
        tokenizer = self.tokenizers.asked
        ids = tokenizer(PROBE_TEXT, add_special_tokens=False).input_ids
        if llama.num_known_ids < len(tokenizer) or llama.tokenize(PROBE_TEXT) != ids:
            raise MismatchError(
                f"teacher.gguf: {self.path} has another tokenizer than teacher.model "
                f"{self.recipe.teacher.model!r}: give the model that the file was made from"
            )
