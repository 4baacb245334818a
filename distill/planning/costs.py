"""What the stages take on a machine: memory, seconds, disk, download. Loads no weights.

Here is what several stages reckon with; each stage's own cost stands in its file. Sizes come from
config.json (or the catalogue, for models that are not here yet); times from a short measurement of
this machine's arithmetic, or what its GPU's maker says of it. FLOPs: 2 x parameters a token
forward, 6 x forward and backward. They are estimates: within a factor of two on the quickstart;
what they say of a GPU was compared with an H200 (scripts/measure_plan.py), not with small cards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lgamma, log

from distill import teachers
from distill.core.stage import Cost
from distill.data.prompts import split_prompts
from distill.models.precision import LEAST_SPEEDUP
from distill.models.spread import GPU_SHARE, HOST_COPY_SPEED
from distill.planning.demands import Demand, SplitPrompts, demand_of, demands_of
from distill.planning.machine import GB, Machine
from distill.planning.sizes import Size, size_of, student_size, teacher_size
from distill.recipe import Recipe
from distill.teachers.base import Teacher

PROCESS_BYTES = 0.75 * GB  # Python with torch and transformers loaded
SERVER_SECONDS_PER_TOKEN = 0.04  # of one request among many; servers differ by a factor of ten
START_SECONDS = 6.0  # importing them
STEP_SECONDS_PER_LAYER = 2.0e-3  # overhead of one decoding step on a CPU, beyond the arithmetic
GPU_STEP_SECONDS_PER_LAYER = 1.4e-4  # the same on a GPU, in a recorded step
GPU_PASS_SECONDS_PER_LAYER = 2.0e-3  # in a pass that is not recorded: Python starts its kernels
EMULATED_SPEEDUP = 0.1  # of bfloat16 on a CPU that has no instructions for it
BANDWIDTH_SHARE = 0.6  # of a GPU's memory bandwidth, in products of few rows
DRAWN_IDS, COUNT_BITS = 14, 3  # different ids among the draws at a token, and bits of a count
KEPT_SHARE = 0.9  # of the answers
BYTES_PER_PARAMETER = {"bfloat16": 2.0, "int8": 1.1, "nf4": 0.65}  # of a whole model
# embedding and head, two bytes each, where they are not tied; less what the line below has counted
UNQUANTIZED_BYTES_PER_NUMBER = 2.8
LAYER_BYTES_PER_PARAMETER = {"int8": 1.02, "nf4": 0.57}  # embedding and head stay in 16 bits


def in_turn(costs: Sequence[Cost]) -> Cost:
    """Return the cost of several pieces of work of which one is done after the other."""
    return Cost(
        memory=max((cost.memory for cost in costs), default=0.0),
        seconds=sum(cost.seconds for cost in costs),
        disk=sum(cost.disk for cost in costs),
        download=sum(cost.download for cost in costs),
        traffic=sum(cost.traffic for cost in costs),
    )


@dataclass(frozen=True)
class Workload:
    """A recipe on a machine: what every stage's cost follows from.

    `parts`: where there are several teachers, the workload of each by itself. `teacher` is then the
    leading one's size.
    """

    recipe: Recipe
    machine: Machine
    teacher: Size
    student: Size
    demand: Demand
    parts: tuple["Workload", ...] = ()

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        machine: Machine,
        prompts: SplitPrompts | None = None,
        vocabulary: int | None = None,
        views: Sequence[Recipe] | None = None,
    ) -> "Workload":
        """Return the recipe's.

        `vocabulary`: tokens that the student keeps, None: all. `views`: of several teachers, where
        it is known which give text alone.
        """
        if recipe.teachers is None:
            teacher, demand = teacher_size(recipe), demand_of(recipe, prompts)
            student = student_size(recipe, teacher, vocabulary)
            return cls(recipe, machine, teacher, student, demand)
        prompts = prompts or split_prompts(recipe)
        views = views or recipe.views
        sizes = {view.route: teacher_size(view) for view in views}
        leading = next(sizes[v.route] for v in views if v.teacher is recipe.teacher)
        student = student_size(recipe, leading, vocabulary)
        demands = demands_of(recipe, prompts)
        parts = [
            cls(view, machine, sizes[view.route], student, demands[view.route]) for view in views
        ]
        demand = demand_of(recipe, prompts)
        return cls(recipe, machine, leading, student, demand, tuple(parts))

    @property
    def turns(self) -> "tuple[Workload, ...]":
        """Return the workload of each teacher, which take turns; itself where there is one."""
        return self.parts or (self,)

    @cached_property
    def asked(self) -> Teacher:
        """Return who answers; it is never loaded."""
        return teachers.connect(self.recipe)

    @property
    def on_server(self) -> bool:
        return self.asked.on_server

    @property
    def captures(self) -> bool:
        """Return whether `capture` makes a pass of the teacher over the samples."""
        on_server = teachers.connect_to_capture(self.recipe).on_server
        return self.recipe.capture.signal != "none" and not on_server

    @property
    def gives_log_probs(self) -> bool:
        """Return whether the signal comes with a server's answers."""
        return self.recipe.capture.comes_with_answers and self.on_server

    @property
    def num_samples(self) -> float:
        return (self.demand.num_answers + self.demand.num_given) * KEPT_SHARE

    @property
    def answer_tokens(self) -> float:
        """Return the tokens of the answers of all samples."""
        demand = self.demand
        return (demand.num_answers * demand.answer + demand.given) * KEPT_SHARE

    @property
    def sample_tokens(self) -> float:
        """Return the tokens of all samples, prompts and answers."""
        return self.num_samples * self.demand.prompt + self.answer_tokens

    @property
    def num_requests(self) -> int:
        """Return how often the teacher is asked by `generate`."""
        options = self.recipe.generate
        demand = self.demand
        num = demand.num_written + demand.num_answers
        if options.teacher_judges:
            num += demand.num_answers + demand.num_given
        return num

    @cached_property
    def teacher_bytes(self) -> float:
        """Return the bytes of the teacher's weights, where it runs on this machine."""
        size = self.asked.size_of_weights()
        if size is not None:
            return size
        quantization = self.recipe.teacher.quantization
        if quantization != "none":  # bitsandbytes leaves the embedding and the head as they are
            layers = self.teacher.parameters * LAYER_BYTES_PER_PARAMETER[quantization]
            return layers + UNQUANTIZED_BYTES_PER_NUMBER * self.teacher.head
        return self.teacher.parameters * (2.0 if self.in_bfloat16(self.teacher_dtype) else 4.0)

    @property
    def is_spread(self) -> bool:
        """Return whether the teacher's layers are spread over the GPUs here (models/spread.py)."""
        is_wanted = self.recipe.teacher.device_map is not None and self.recipe.loads_teacher
        return bool(self.machine.gpu) and is_wanted

    @property
    def host_bytes(self) -> float:
        """Return the bytes of a spread teacher's weights that have no room on the GPUs."""
        if not self.is_spread:
            return 0.0
        room = GPU_SHARE * self.machine.num_gpus * self.machine.gpu_memory
        return max(0.0, self.teacher_bytes - room)

    @property
    def bytes_on_a_gpu(self) -> float:
        """Return the bytes of the teacher's weights on one device; all where that one holds it."""
        return (self.teacher_bytes - self.host_bytes) / self._num_devices

    @property
    def num_parts(self) -> int:
        """Return how many processes hold the teacher together (models/divided.py)."""
        return self.recipe.teacher.num_parts if self.recipe.loads_teacher else 1

    @property
    def joined_head_bytes(self) -> float:
        """Return the bytes of the output head that a leader joins from the parts of a teacher."""
        if self.num_parts == 1:
            return 0.0
        return self.teacher.head * self.teacher_bytes / max(1, self.teacher.parameters)

    @property
    def num_processes(self) -> int:
        """Return how many processes the recipe wants, at least those that hold a teacher together."""
        return self.recipe.num_processes or self.recipe.team_size

    @property
    def num_at_work(self) -> int:
        """Return how many times as fast they do what they share: without GPUs they share the cores
        that one would take."""
        return self.num_processes if self.machine.gpu else 1

    @property
    def _num_devices(self) -> int:
        return self.machine.num_gpus if self.is_spread else self.num_parts

    def host_seconds(self, num_passes: float) -> float:
        """Return how long so many passes wait for the weights that lie in this machine's memory."""
        return num_passes * self.host_bytes / HOST_COPY_SPEED

    def pass_seconds(self, num_tokens: float) -> float:
        """Return how long the teacher reads so many tokens."""
        seconds = num_tokens * 2 * self.teacher.parameters / self.flops(self.teacher_dtype)
        return seconds + self.host_seconds(num_tokens / self.recipe.teacher.batch_tokens)

    @property
    def teacher_dtype(self) -> str:
        """Return what the recipe says of the type of the teacher's passes; float32 where that counts
        for nothing: in llama.cpp, and quantized on a CPU."""
        teacher = self.recipe.teacher
        is_quantized = teacher.quantization != "none" and not self.machine.gpu
        return teacher.dtype if self.asked.can_use_gpu and not is_quantized else "float32"

    def in_bfloat16(self, dtype: str) -> bool:
        """Return whether passes are in bfloat16, of which the recipe says `dtype`."""
        if dtype != "auto":
            return dtype == "bfloat16"
        return bool(self.machine.gpu) or self.machine.bfloat16_speedup >= LEAST_SPEEDUP

    def flops(self, dtype: str) -> float:
        """Return the operations a second of such passes."""
        machine = self.machine
        if machine.gpu or not self.in_bfloat16(dtype):
            return machine.flops
        return machine.flops * (machine.bfloat16_speedup or EMULATED_SPEEDUP)

    @property
    def asking_bytes(self) -> float:
        """Return the memory that asking the teacher takes, the process apart."""
        if self.on_server:
            return 0.0
        return self.bytes_on_a_gpu + self._decoding_bytes()

    @property
    def server_seconds(self) -> float:
        """Return the seconds of one answer of a server, of many that it is asked for at once."""
        return SERVER_SECONDS_PER_TOKEN * self.demand.answer / self.recipe.generate.concurrency

    def teacher_seconds(self, num_answers: int) -> float:
        if self.on_server:
            return num_answers * self.server_seconds
        longest = self.recipe.generate.max_new_tokens
        flops = self.flops(self.teacher_dtype)
        seconds = self.answer_seconds(
            self.teacher, self.teacher_bytes, num_answers, longest, flops=flops
        )
        steps = num_answers * self.demand.answer / min(max(1, num_answers), self._num_slots())
        return seconds + self.host_seconds(steps)

    @property
    def teacher_download(self) -> float:
        """Return the bytes of weights that are still to be fetched."""
        needed = self.captures or not self.on_server
        is_here = self.teacher.is_local or self.asked.size_of_weights() is not None
        if is_here or not needed:
            return 0
        return 2 * self.teacher.parameters

    @property
    def student_download(self) -> float:
        """Return the bytes of weights that the student begins as and that the teacher has not fetched."""
        source, student, teacher = self.student_source, self.recipe.student, self.recipe.teacher
        if source is None or source.is_local:
            return 0
        is_teacher = (student.model, student.revision) == (teacher.model, teacher.revision)
        return 0 if is_teacher and self.teacher_download else 2 * source.parameters

    def answer_seconds(
        self,
        size: Size,
        weight_bytes: float,
        num_answers: int,
        longest: int,
        *,
        flops: float | None = None,
    ) -> float:
        """Return the seconds of `num_answers` answers by a model that is loaded here.

        flops: operations a second, where they are not the machine's.
        """
        prompt, answer, machine = self.demand.prompt, self.demand.answer, self.machine
        batch_tokens = self.recipe.teacher.batch_tokens
        arithmetic = num_answers * (prompt + answer) * 2 * size.parameters
        arithmetic /= flops or machine.flops
        if not machine.gpu:
            batches = max(1.0, num_answers * (prompt + longest * 0.6) / batch_tokens)
            return arithmetic + batches * longest * 0.6 * size.layers * STEP_SECONDS_PER_LAYER
        slots = min(max(1.0, num_answers), self._num_slots())
        moved = weight_bytes
        if self.recipe.teacher.quantization != "none":
            # bitsandbytes writes the layers' weights out in 16 bits at each step, and reads them
            # again
            moved += 4 * size.parameters
        step = moved / (machine.bandwidth * BANDWIDTH_SHARE)
        step += size.layers * GPU_STEP_SECONDS_PER_LAYER
        # a quarter of the slots is refilled at a time
        num_refills = num_answers / max(1.0, slots / 4)
        reads = num_refills * size.layers * GPU_PASS_SECONDS_PER_LAYER
        return arithmetic + num_answers * answer / slots * step + reads

    def _num_slots(self) -> float:
        longest = self.demand.prompt + self.recipe.generate.max_new_tokens
        return max(1.0, self.recipe.teacher.batch_tokens / longest)

    def _decoding_bytes(self) -> float:
        """Return the bytes of all slots' keys and values, and of reading their prompts."""
        each = 2 if self.in_bfloat16(self.teacher_dtype) else 4
        tokens = self.recipe.teacher.batch_tokens
        kv_bytes = tokens * self.teacher.layers * self.teacher.kv_width * 2 * each
        return kv_bytes / self._num_devices + pass_bytes(
            self.teacher, self._num_slots() * self.demand.prompt
        )

    @cached_property
    def student_source(self) -> Size | None:
        """Return the size of the model that the student begins as, or is cut from."""
        student = self.recipe.student
        return size_of(self.recipe, student.model, student.revision) if student.model else None


def pass_bytes(size: Size, num_tokens: float, *, in_pieces: bool = False) -> float:
    """Return what a forward pass needs beside the weights, logits in chunks among it.

    `in_pieces`: what it says is told in a trimmed student's tokens (signals/pieces.py).
    """
    logits = 400 if in_pieces else 160  # MiB; losses/projection.py
    return num_tokens * size.hidden * 40 + logits * 2**20


def signal_bytes_per_token(recipe: Recipe, vocabulary: int) -> float:
    """Return the bytes on disk of the signal at one answer token, hidden states apart.

    `vocabulary`: how many ids it is about. As signals/encoding.py writes them.
    """
    options = recipe.capture
    if options.signal == "none":
        return 0.0
    if options.signal == "chunks":
        return 4.0
    if options.signal == "dense":
        return 2.0 * vocabulary
    if options.signal == "top_k":
        return 2.0 * (options.top_k + 1) + _bits_of_ids(options.top_k, vocabulary) / 8
    num_ids = min(DRAWN_IDS, options.num_draws)
    log_probs = 2.0 * (num_ids + 1) * options.draw_log_probs  # those and a tail
    return 5.0 + (_bits_of_ids(num_ids, vocabulary) + COUNT_BITS * num_ids) / 8 + log_probs


def _bits_of_ids(num: int, vocabulary: int) -> float:
    """Return log2 of how many sets of `num` ids there are: what their code comes near to."""
    num = min(num, vocabulary)
    sets = lgamma(vocabulary + 1) - lgamma(num + 1) - lgamma(vocabulary - num + 1)
    return sets / log(2)
