"""What each stage takes on a machine: bytes of memory, seconds, bytes on disk and to download. Loads no weights.

Sizes come from config.json (or the catalogue, for models that are not here yet); times from a short measurement of this
machine's arithmetic, or what its GPU's maker says of it. They are estimates: within a factor of two on the quickstart; what
they say of a GPU was compared with an H200 (scripts/measure_plan.py), not with small cards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.catalog import catalog
from distill.chat.tokenizers import with_way_out
from distill.data.samples import mixed, split_prompts
from distill.errors import MismatchError, MissingError
from distill.models import find
from distill.planning.machine import GB, Machine
from distill.planning.preflight import EXPERTS
from distill.recipe import Recipe
from distill.recipe.sections import FOLDERS, W16A16
from distill.signals.hidden_states import bytes_per_token

PROCESS_BYTES = 0.75 * GB  # Python with torch and transformers loaded
SERVER_SECONDS_PER_TOKEN = 0.04  # of one request among many; servers differ by a factor of ten
START_SECONDS = 6.0  # importing them
STEP_SECONDS_PER_LAYER = 2.0e-3  # overhead of one decoding step on a CPU, beyond the arithmetic
# the same on a GPU, in a recorded step and in a pass that is not recorded (Python starts its kernels)
GPU_STEP_SECONDS_PER_LAYER, GPU_PASS_SECONDS_PER_LAYER = 1.4e-4, 2.0e-3
BANDWIDTH_SHARE = 0.6  # of a GPU's memory bandwidth, in products of few rows
TRAIN_OVERHEAD, GPU_TRAIN_OVERHEAD = 1.3, 2.0  # beyond the products' arithmetic
ANSWER_SHARE = 0.3  # a usual answer, of max_new_tokens
BYTES_PER_TOKEN = 3.5  # of a prompt's UTF-8 text
JSON_BYTES_PER_LOG_PROB = 86.0  # of llama.cpp; vLLM writes less
BYTES_PER_PARAMETER = {"bfloat16": 2.0, "int8": 1.1, "nf4": 0.65}  # of a whole model
# embedding and head, two bytes each, where they are not tied; less what the line below has counted of them already
UNQUANTIZED_BYTES_PER_NUMBER = 2.8
LAYER_BYTES_PER_PARAMETER = {
    "int8": 1.02,
    "nf4": 0.57,
}  # the embedding and the head stay in 16 bits
SHARED_EXPERTS = ("n_shared_experts", "moe_num_shared_experts")


@dataclass(frozen=True)
class Size:
    """A model's numbers, from its config.json or the catalogue."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_width: int
    is_local: bool

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary


ELSEWHERE = Size(0, 0, 0, 0, 0, True)


@dataclass(frozen=True)
class Cost:
    """One stage: bytes of memory (GPU memory where there is one), seconds, bytes on disk, bytes to download."""

    memory: float
    seconds: float
    disk: float = 0.0
    download: float = 0.0


def size_of(recipe: Recipe, model: str, revision: str | None) -> Size:
    """From config.json if it is on this machine, else from the catalogue; MissingError if neither knows the model."""
    location = recipe.model_location(model)
    try:
        config = find.read_config(location, revision)
    except MissingError:
        known = catalog.find(model)
        if known is None or known.params is None or known.shape is None or None in known.shape[:2]:
            raise MissingError(
                f"{recipe.source}: model {model!r} is neither on this machine nor in the catalogue, so its size is not known; "
                "fetch its config.json first, or run `distill run` without a plan"
            ) from None
        layers, hidden, _, kv_heads, head_dim = known.shape
        kv_width = (kv_heads or 8) * (head_dim or 128)
        return Size(known.params, layers or 1, hidden or 1, known.width or 151_936, kv_width, False)
    try:
        return _size_from(config)
    except KeyError as error:
        raise MismatchError(
            f"{location}: its config.json says nothing of {error}: not a language model of a kind that is known"
        ) from None


def teacher_size(recipe: Recipe) -> Size:
    """Of a teacher that is a name on somebody's server nothing need be known: then it is ELSEWHERE."""
    try:
        return size_of(recipe, recipe.teacher.model, recipe.teacher.revision)
    except MissingError as error:
        if recipe.teacher.text_only:
            return ELSEWHERE
        raise with_way_out(recipe, error) from None


def _size_from(config: Mapping[str, Any]) -> Size:
    config = config.get("text_config", config)  # Qwen3.5: the language model is one part of several
    hidden, layers, vocabulary = (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["vocab_size"],
    )
    attention, kv = _attention_size(config)
    experts = next((config[name] for name in EXPERTS if config.get(name)), 0)
    dense = 3 * hidden * config.get("intermediate_size", 0)
    shared = next((config[name] for name in SHARED_EXPERTS if config.get(name)), 0)
    mixture = (
        3
        * hidden
        * (config.get("moe_intermediate_size") or config.get("intermediate_size", 0))
        * (experts + shared)
    )
    num_dense = (
        min(layers, config.get("first_k_dense_replace") or config.get("moe_layer_start_index") or 0)
        if experts
        else layers
    )
    total = layers * (attention + 2 * hidden) + num_dense * dense + (layers - num_dense) * mixture
    tied = config.get("tie_word_embeddings", False)
    return Size(
        total + hidden * vocabulary * (1 if tied else 2), layers, hidden, vocabulary, kv, True
    )


def _attention_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """(parameters of a layer's attention, width of the keys that its cache holds for a token)."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get(
        "kv_lora_rank"
    ):  # DeepSeek, Kimi: latent attention; transformers' cache holds whole keys and values
        rope, query = (
            config["qk_rope_head_dim"],
            config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
        )
        value, rank = config["v_head_dim"], config["kv_lora_rank"]
        q_rank = config.get("q_lora_rank")
        queries = q_rank * (hidden + heads * query) if q_rank else hidden * heads * query
        keys = hidden * (rank + rope) + rank * heads * (config["qk_nope_head_dim"] + value)
        return queries + keys + heads * value * hidden, heads * (query + value) // 2
    head_dim = config.get("head_dim") or hidden // heads
    kv = (config.get("num_key_value_heads") or heads) * head_dim
    return hidden * (2 * heads * head_dim + 2 * kv), kv


def student_size(recipe: Recipe, teacher: Size) -> Size:
    shape = recipe.student
    if shape.method == "random":
        return _size_from(
            {
                "hidden_size": shape.hidden_size,
                "num_hidden_layers": shape.num_layers,
                "vocab_size": teacher.vocabulary,
                "num_attention_heads": shape.num_heads,
                "num_key_value_heads": shape.num_kv_heads,
                "head_dim": shape.head_dim,
                "intermediate_size": shape.intermediate_size,
                "tie_word_embeddings": True,
            }
        )
    base = size_of(recipe, shape.model or "", shape.revision)
    if shape.method == "base":
        return base
    kept = max(1, round(base.layers * shape.layer_share))
    per_layer = (
        base.parameters - base.head - base.hidden
    ) // base.layers  # without embedding and last norm
    return Size(
        base.parameters - (base.layers - kept) * per_layer,
        kept,
        base.hidden,
        base.vocabulary,
        base.kv_width,
        base.is_local,
    )


@dataclass(frozen=True)
class Work:
    """What the teacher is asked: prompts to write, answers, held-out prompts; mean tokens of a prompt and of an answer."""

    num_written: int
    num_answers: int
    num_held_out: int
    prompt: float
    answer: float

    def __str__(self) -> str:
        written = f"{self.num_written:,} prompts to write, " if self.num_written else ""
        tokens = (self.num_written + self.num_answers) * (self.prompt + self.answer)
        return f"the teacher is asked for {written}{self.num_answers:,} answers, about {tokens / 1000:,.0f} thousand tokens in all"


def work_of(recipe: Recipe) -> Work:
    """Counted as if every prompt that the teacher writes were worth asking, and cost as much as an answer."""
    learn, held_out = split_prompts(recipe)
    num_written = sum(source.num or 0 for source in recipe.generate.prompts)
    num_prompts = len(learn) + num_written
    if recipe.generate.mix is not None and not num_written:
        num_prompts = len(mixed(recipe.generate, learn))
    elif (
        recipe.generate.mix is not None
    ):  # what prompts that are not written yet will be is not known
        num_prompts = min(num_prompts, recipe.generate.num_prompts or num_prompts)
    known = learn or held_out
    prompt = sum(len(p.text.encode()) for p in known) / len(known) / BYTES_PER_TOKEN + 12
    answer = ANSWER_SHARE * recipe.generate.max_new_tokens
    return Work(
        num_written, num_prompts * recipe.generate.samples_per_prompt, len(held_out), prompt, answer
    )


def stage_costs(
    recipe: Recipe, machine: Machine, teacher: Size, student: Size, work: Work
) -> dict[str, Cost]:
    """Cost of each stage. FLOPs: 2 x parameters a token forward, 6 x forward and backward."""
    num_answers, prompt, answer = work.num_answers, work.prompt, work.answer
    judges_itself = (
        recipe.generate.judge_min_score is not None and recipe.generate.judge_server is None
    )
    num_requests = work.num_written + num_answers * (2 if judges_itself else 1)
    samples, tokens = num_answers * 0.9, num_answers * 0.9 * (prompt + answer)
    epochs_tokens = tokens * recipe.train.epochs
    if recipe.train.max_steps:
        epochs_tokens = min(epochs_tokens, recipe.train.max_steps * recipe.train.batch_tokens)
    captures = recipe.capture.signal != "none" and not recipe.capture.from_server
    answer_bytes = 2 * BYTES_PER_TOKEN + (
        JSON_BYTES_PER_LOG_PROB * recipe.capture.top_k if recipe.capture.from_server else 0
    )
    on_server = recipe.teacher.server is not None
    file = recipe.gguf_teacher
    teacher_bytes = file.stat().st_size if file else _teacher_bytes(recipe, machine, teacher)
    start = START_SECONDS
    roles = recipe.train.num_roles
    wait = SERVER_SECONDS_PER_TOKEN * answer / recipe.generate.concurrency
    asking_bytes = (
        0.0 if on_server else teacher_bytes + _decoding_bytes(recipe, machine, teacher, prompt)
    )
    longest = recipe.generate.max_new_tokens
    teacher_seconds = [
        count * wait
        if on_server
        else _answer_seconds(
            recipe, machine, teacher, teacher_bytes, count, prompt, answer, longest
        )
        for count in (num_requests, 2 * work.num_held_out)
    ]
    files = [W16A16, *recipe.quantize.formats]
    models = 2 + roles + len(files)
    evaluate_seconds = (
        teacher_seconds[1] + 3.0 * models
    )  # loading, and scoring the teacher's answers
    evaluate_seconds += (models - 2) * _answer_seconds(
        recipe,
        machine,
        student,
        2 * student.parameters,
        work.num_held_out,
        prompt,
        answer,
        recipe.evaluate.max_new_tokens,
    )
    signal_bytes = {
        "none": 0.0,
        "sampled": 36.0,
        "top_k": 6.0 * recipe.capture.top_k + 2,
        "dense": 2.0 * teacher.vocabulary,
    }
    logged_bytes = signal_bytes["top_k"] * 4 / 3 if recipe.capture.from_server else 0.0  # base64
    download = (
        0 if teacher.is_local or file or (on_server and not captures) else 2 * teacher.parameters
    )
    hidden_bytes = bytes_per_token(
        teacher.hidden if recipe.capture.hidden_states == "int8" else None
    )
    source = (
        size_of(recipe, recipe.student.model, recipe.student.revision)
        if recipe.student.model
        else None
    )
    source_bytes = 2 * source.parameters if source and not source.is_local else 0
    optimizer_bytes = 8 if recipe.train.optimizer == "adamw" else 2
    overhead = GPU_TRAIN_OVERHEAD if machine.gpu else TRAIN_OVERHEAD
    overhead *= 4 / 3 if recipe.train.gradient_checkpointing else 1  # the forward pass once more
    sizes = {
        "f16": 2.0,
        "bf16": 2.0,
        "q8_0": 1.06,
        "int8": 1.1,
        "q6_k": 0.82,
        "q5_k_m": 0.71,
        "q4_k_m": 0.61,
        "q4_0": 0.57,
        "iq4_nl": 0.57,
        "q3_k_m": 0.53,
        "q2_k": 0.45,
        "tq2_0": 0.37,
        "nf4": 0.7,
        "w4a16": 0.7,
        W16A16: 2.0,
        "mixed": (recipe.quantize.budget_mb or 0) * 1e6 / student.parameters,
    }
    mixed = "mixed" in recipe.quantize.formats  # a forward pass over the samples for each tensor
    mixed_seconds = (
        7
        * student.layers
        * recipe.quantize.num_sequences
        * (prompt + answer)
        * 2
        * student.parameters
        / machine.flops
    )
    recovered = len(recipe.quantize.recover)
    # forward twice, backward, and the rounding of every weight each fourth step
    recover_seconds = (
        recovered * recipe.quantize.recover_steps * 2048 * 10 * student.parameters / machine.flops
    )
    return {
        "generate": Cost(
            PROCESS_BYTES + asking_bytes,
            start + teacher_seconds[0],
            disk=num_requests * (prompt + answer) * 12 + num_answers * answer * logged_bytes,
            download=num_requests * answer * answer_bytes if on_server else download,
        ),
        "capture": Cost(
            PROCESS_BYTES
            + captures * (teacher_bytes + _pass_bytes(teacher, recipe.teacher.batch_tokens)),
            captures * tokens * 2 * teacher.parameters / machine.flops,
            download=download if on_server else 0,
            disk=samples * answer * (signal_bytes[recipe.capture.signal] + hidden_bytes),
        ),
        "initialize": Cost(
            PROCESS_BYTES + 4 * (source.parameters if source else student.parameters),
            1 + 4 * student.parameters / 2e8,
            disk=4 * student.parameters,
            download=source_bytes,
        ),
        "train": Cost(
            PROCESS_BYTES + _train_bytes(recipe, machine, student, optimizer_bytes),
            roles * epochs_tokens * 6 * student.parameters / machine.flops * overhead,
            disk=roles * 4 * student.parameters + 3 * student.parameters * (4 + optimizer_bytes),
        ),
        "quantize": Cost(
            PROCESS_BYTES + max(6 + 4 * mixed, 28 * (recovered > 0)) * student.parameters,
            sum(2 + 6 * (name in FOLDERS) + student.parameters / 2e7 for name in files)
            + mixed * mixed_seconds
            + recover_seconds,
            disk=sum(sizes[name] for name in files) * student.parameters,
        ),
        "evaluate": Cost(
            PROCESS_BYTES + asking_bytes, evaluate_seconds, disk=models * work.num_held_out * 1000
        ),
        "report": Cost(PROCESS_BYTES, 2, disk=1e6),
    }


def _teacher_bytes(recipe: Recipe, machine: Machine, teacher: Size) -> float:
    """Of the teacher's weights; bitsandbytes leaves its embedding and its head as they are."""
    if recipe.teacher.quantization != "none":
        layers = teacher.parameters * LAYER_BYTES_PER_PARAMETER[recipe.teacher.quantization]
        return layers + UNQUANTIZED_BYTES_PER_NUMBER * teacher.head
    half = recipe.teacher.dtype == "bfloat16" or (recipe.teacher.dtype == "auto" and machine.gpu)
    return teacher.parameters * (2.0 if half else 4.0)


def _num_slots(recipe: Recipe, prompt: float) -> float:
    return max(1.0, recipe.teacher.batch_tokens / (prompt + recipe.generate.max_new_tokens))


def _pass_bytes(size: Size, num_tokens: float) -> float:
    """What a forward pass of so many tokens needs beside the weights, logits in chunks among it."""
    return num_tokens * size.hidden * 40 + 2 * 64 * 2**20


def _decoding_bytes(recipe: Recipe, machine: Machine, teacher: Size, prompt: float) -> float:
    """Keys and values of every slot, and the pass that reads the prompts of all at the beginning."""
    each = 2 if machine.gpu and not recipe.gguf_teacher else 4
    kv_bytes = recipe.teacher.batch_tokens * teacher.layers * teacher.kv_width * 2 * each
    return kv_bytes + _pass_bytes(teacher, _num_slots(recipe, prompt) * prompt)


def _answer_seconds(
    recipe: Recipe,
    machine: Machine,
    size: Size,
    weight_bytes: float,
    count: int,
    prompt: float,
    answer: float,
    longest: int,
) -> float:
    """Of `count` answers by a model that is loaded here."""
    arithmetic = count * (prompt + answer) * 2 * size.parameters / machine.flops
    if not machine.gpu:
        batches = max(1.0, count * (prompt + longest * 0.6) / recipe.teacher.batch_tokens)
        return arithmetic + batches * longest * 0.6 * size.layers * STEP_SECONDS_PER_LAYER
    slots = min(max(1.0, count), _num_slots(recipe, prompt))
    # bitsandbytes writes the layers' weights out in 16 bits at each step, and reads them again
    moved = weight_bytes + (4 * size.parameters if recipe.teacher.quantization != "none" else 0)
    step = moved / (machine.bandwidth * BANDWIDTH_SHARE) + size.layers * GPU_STEP_SECONDS_PER_LAYER
    reads = (
        count / max(1.0, slots / 4) * size.layers * GPU_PASS_SECONDS_PER_LAYER
    )  # a quarter of the slots is refilled at a time
    return arithmetic + count * answer / slots * step + reads


def _train_bytes(recipe: Recipe, machine: Machine, student: Size, optimizer_bytes: int) -> float:
    """Weights, gradients and the optimizer's state in float32; on a GPU a copy in 16 bits; the gradients of head and embedding
    before they are added up; activations of one micro-batch."""
    options = recipe.train
    share = 0.02 if options.lora_rank else 1.0
    copies = 2 * student.parameters + 400 * 2**20 if machine.gpu else 200 * 2**20
    kept = (
        4 * student.layers + 70 if options.gradient_checkpointing else 70 * student.layers
    )  # bytes for each number of the width
    activations = options.micro_batch_tokens * student.hidden * kept
    return (
        student.parameters * (4 + share * (4 + optimizer_bytes))
        + 8 * student.head * (share == 1.0)
        + copies
        + activations
    )
