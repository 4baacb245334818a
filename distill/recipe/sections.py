"""The sections of a recipe, one for the teacher, one for the student, one for each stage: every field with its description.

Fields marked `machine=True` say how a machine does the work, not what comes out: changing them never makes a finished
stage stale.
"""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.losses.parameters import parameter_problem
from distill.recipe.addresses import NO_VARIABLE, address_problem, is_variable
from distill.recipe.schema import Section, field
from distill.recipe.sources import Sources

Divergence = Literal[
    "forward_kl",
    "reverse_kl",
    "jsd",
    "jsd_normalised",
    "skew_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "total_variation",
]
Format = Literal[
    "f16",
    "bf16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q4_k_m",
    "q4_0",
    "iq4_nl",
    "q3_k_m",
    "q2_k",
    "tq2_0",
    "mixed",
    "nf4",
    "int8",
    "w4a16",
]
BITSANDBYTES = ("nf4", "int8")
W16A16 = "w16a16"  # is always written, whatever the formats
FOLDERS = (*BITSANDBYTES, "w4a16", W16A16)  # folders for transformers; all others are GGUF files
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Teacher(Section):
    """The large model that is learnt from."""

    model: str = field(..., "Folder (./, / or ~) or hub id of the teacher")
    revision: str | None = field(None, "Hub revision; pin a commit to make the run repeatable")
    licence: str | None = field(None, "Licence key, where the catalogue does not know the model")
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", "auto = cuda if there is one, else cpu", machine=True
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto", "auto = bfloat16 on cuda, float32 on cpu"
    )
    quantization: Literal["none", "nf4", "int8"] = field(
        "none", "bitsandbytes, when the GPU is small"
    )
    gguf: str | None = field(
        None,
        "A GGUF file of the model, run by llama.cpp on the CPU: it answers and gives the signal, `model` only the tokenizer "
        "and the chat template (a folder or hub id; its weights are not needed)",
    )
    batch_tokens: Positive = field(
        16384, "Tokens (prompt + answer) in one batch; less = less memory"
    )
    server: str | None = field(
        None,
        "URL of an OpenAI-compatible server that serves the model (http://host:8000; a path with a version in it, such as "
        "https://open.bigmodel.cn/api/paas/v4, is used as it is, else /v1 is added); null = load it here",
        machine=True,
    )
    server_model: str | None = field(
        None,
        "The model's name on that server; null = teacher.model. Another name may be another model, with answers of its own",
        machine=True,
    )
    api_key_env: str | None = field(
        None,
        "Environment variable that holds the server's key (its name, never the key itself); null = no key",
        machine=True,
    )
    server_gives: Literal["text"] | None = field(
        None,
        "text = ask the server for text alone, in conversations; the teacher's tokenizer is then not needed and `model` may be any "
        "name (capture.signal: none, and a student with a tokenizer of its own); null = what it gives is found out by asking",
    )
    trust_remote_code: bool = field(
        False, "Run code from the model's folder; needs a pinned revision"
    )

    @model_validator(mode="after")
    def _pinned(self) -> "Teacher":
        if self.trust_remote_code and not self.revision:
            raise ValueError(
                "trust_remote_code needs a pinned revision: set teacher.revision to a commit"
            )
        if self.gguf and (self.server or self.quantization != "none" or self.device == "cuda"):
            raise ValueError(
                "gguf runs on the CPU in its own quantization: remove gguf, or server, quantization and device: cuda"
            )
        if self.server and (problem := address_problem(self.server)):
            raise ValueError(f"server: {problem}")
        if self.api_key_env is not None and not is_variable(self.api_key_env):
            raise ValueError(f"api_key_env: {NO_VARIABLE}")
        if self.server_gives and not self.server:
            raise ValueError(
                f"server_gives {self.server_gives} without server: name the server, or remove server_gives"
            )
        return self

    @property
    def text_only(self) -> bool:
        """Whether it is asked for text alone, so that nothing here needs its tokenizer."""
        return self.server_gives == "text"

    @property
    def served_name(self) -> str | None:
        """Return the model's name on its server, where that is another than `model`."""
        if self.server is None or self.server_model in (None, self.model):
            return None
        return self.server_model


class Student(Section):
    """The small model that learns, before training."""

    method: Literal["base", "layers", "random"] = field(
        ...,
        "base = a model as it is; layers = evenly kept layers of a bigger one; random = a new one of a given shape",
    )
    model: str | None = field(None, "Folder or hub id (base, layers)")
    revision: str | None = field(None, "Hub revision of that model")
    licence: str | None = field(
        None, "Licence key of that model, where the catalogue does not know it"
    )
    layer_share: Annotated[float, Field(gt=0, le=1)] = field(
        0.5, "Share of the layers to keep (layers)"
    )
    num_layers: Positive = field(2, "random: transformer layers")
    hidden_size: Positive = field(256, "random: width; multiples of 256 can have every GGUF type")
    intermediate_size: Positive = field(256, "random: feed-forward width")
    num_heads: Positive = field(8, "random: query heads")
    num_kv_heads: Positive = field(2, "random: key/value heads")
    head_dim: Positive = field(32, "random: width of a head")

    @model_validator(mode="after")
    def _complete(self) -> "Student":
        if self.method != "random" and self.model is None:
            raise ValueError(f"method: {self.method} needs student.model")
        if self.method == "random" and self.model is not None:
            raise ValueError(
                "method: random takes its tokenizer from the teacher: remove student.model"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self


class Generate(Section):
    """The teacher answers the prompts; the answers are filtered."""

    prompts: Sources = field(
        ...,
        "A file of prompts (.jsonl with prompt or messages, language, and reference where answers can be checked; .parquet, "
        ".csv, .tsv, .txt), or a list of sources: see `distill explain generate.prompts.file` and its neighbours, also for prompts that "
        "the teacher writes (expand)",
    )
    num_prompts: Positive | None = field(
        None,
        "Use the first so many prompts of files and data sets; with shares, of languages or sources, ask so many in all; null = all",
    )
    shares: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = field(
        None,
        "Share of the prompts by language, after the filters, e.g. {sw: 0.6, en: 0.4}; the scarcest sets the number; null = as it is",
    )
    samples_per_prompt: Positive = field(1, "Answers wanted for each prompt")
    max_tries: Positive | None = field(
        None,
        "Draw on where answers are dropped, up to so many draws a prompt, until samples_per_prompt are kept; null = no more",
    )
    task: Literal["market", "final_number", "math_answer", "python_tests"] | None = field(
        None,
        "Verifier of answers against `reference`. final_number = last number; math_answer = \\boxed{} or final answer, by value; "
        "python_tests = code that must pass asserts (see run_code); market = the quickstart's; null = none",
    )
    run_code: Literal["off", "sandboxed", "limited"] = field(
        "off",
        "python_tests runs code that models wrote: sandboxed = on Linux, without network, other files, or much time and memory, "
        "and not at all where the system cannot promise that; limited = as sandboxed as this system can",
        machine=True,
    )
    system_prompt: str | None = field(None, "System message put before every prompt")
    enable_thinking: bool | None = field(
        None,
        "The chat template's switch (enable_thinking, thinking), or whichever a server obeys; null = its default. A student with a "
        "template of its own gets it where that has one",
    )
    reasoning: Literal["keep", "drop", "short"] = field(
        "keep",
        "The teacher's reasoning: keep = the student learns it with the answer; drop = it learns the answer alone, as the chat "
        "template writes one without reasoning; short = samples with more than max_reasoning_tokens of it are dropped",
    )
    max_reasoning_tokens: Positive = field(
        1024, "More is long reasoning: `reasoning: short` drops it, keep warns where it is too much"
    )
    max_new_tokens: Positive = field(
        1024, "Longest answer, or prompt that the teacher writes; a longer one is cut and dropped"
    )
    sampling_temperature: Annotated[float, Field(ge=0, le=5)] = field(0.7, "0 = greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = field(0.8, "Nucleus; 1 = off")
    top_k: Annotated[int, Field(ge=0)] = field(20, "Keep the k likeliest tokens; 0 = off")
    concurrency: Positive = field(
        64, "Server: at most so many requests at once; fewer while it refuses", machine=True
    )
    request_timeout: Annotated[float, Field(gt=0)] = field(
        600.0, "Server: seconds to wait for one answer", machine=True
    )
    retry_errors: bool = field(
        False,
        "Server: ask again what it refused, or answered too badly, in an earlier run",
        machine=True,
    )
    max_requests: Positive | None = field(
        None,
        "Server: stop after so many requests for this run folder, those of earlier runs and of other jobs among them",
        machine=True,
    )
    max_tokens: Positive | None = field(
        None,
        "Server: stop before so many tokens, prompts and answers, are used for this run folder, all runs and jobs together: the "
        "longest answer must still fit",
        machine=True,
    )
    max_cost: Annotated[float, Field(gt=0)] | None = field(
        None,
        "Server: stop before more than this is spent for this run folder, by the prices below, all runs and jobs together",
        machine=True,
    )
    price_prompt: Annotated[float, Field(ge=0)] = field(
        0.0, "Price of a million prompt tokens", machine=True
    )
    price_answer: Annotated[float, Field(ge=0)] = field(
        0.0, "Price of a million answer tokens", machine=True
    )
    max_megabytes: Annotated[float, Field(gt=0)] | None = field(
        None, "Server: stop after so much traffic for this run folder", machine=True
    )
    max_hours: Annotated[float, Field(gt=0)] | None = field(
        None, "Server: stop after so long, in each run anew", machine=True
    )
    min_characters: Annotated[int, Field(ge=0)] = field(1, "Drop shorter answers")
    max_characters: Positive = field(20000, "Drop longer answers")
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = field(
        0.9,
        "Jaccard similarity from which answers to one prompt are duplicates; and prompts, if the sentences that only one has are "
        "alike, too: questions about one text are not",
    )
    resample: bool = field(
        False,
        "true = another `seed` asks for other answers; false = what is on disk stays, whatever the seed",
    )
    keep_per_prompt: Positive | None = field(
        None, "Of the good answers to a prompt keep so many, the shortest; null = all"
    )
    judge_min_score: Annotated[int, Field(ge=2, le=5)] | None = field(
        None,
        "A model grades each answer that passed the filters, from 1 to 5; those below are dropped. Its replies are kept: another "
        "score asks nothing again. null = no judge",
    )
    judge_server: str | None = field(
        None,
        "URL of the judge's OpenAI-compatible server; null = the teacher judges itself",
        machine=True,
    )
    judge_model: str | None = field(None, "judge_server: the judge's name there")
    judge_api_key_env: str | None = field(
        None, "judge_server: environment variable that holds its key; null = no key", machine=True
    )
    judge_price_prompt: Annotated[float, Field(ge=0)] = field(
        0.0,
        "judge_server: price of a million prompt tokens; counts towards max_cost, 0 = nothing",
        machine=True,
    )
    judge_price_answer: Annotated[float, Field(ge=0)] = field(
        0.0, "judge_server: price of a million answer tokens", machine=True
    )

    @model_validator(mode="after")
    def _judge(self) -> "Generate":
        if (self.judge_server is None) != (self.judge_model is None):
            raise ValueError(
                "judge_server and judge_model belong together: give both, or neither and the teacher judges itself"
            )
        if self.judge_min_score is None and self.judge_server is not None:
            raise ValueError(
                "judge_server without judge_min_score judges nothing: set judge_min_score, e.g. to 4"
            )
        if self.judge_server is not None and (problem := address_problem(self.judge_server)):
            raise ValueError(f"judge_server: {problem}")
        if self.judge_api_key_env is not None and not is_variable(self.judge_api_key_env):
            raise ValueError(f"judge_api_key_env: {NO_VARIABLE}")
        return self

    @model_validator(mode="after")
    def _prices(self) -> "Generate":
        prices = (
            self.price_prompt,
            self.price_answer,
            self.judge_price_prompt,
            self.judge_price_answer,
        )
        if self.max_cost is not None and not any(prices):
            raise ValueError(
                f"max_cost {self.max_cost:g} without prices stops nothing: set price_prompt and price_answer (of a million tokens), or "
                "max_tokens instead"
            )
        return self

    @model_validator(mode="after")
    def _source_shares(self) -> "Generate":
        given = {source.name: source.share for source in self.prompts if source.share is not None}
        if not given:
            return self
        if self.shares is not None:
            raise ValueError(
                "shares (by language) and a source's share exclude each other: remove one"
            )
        if without := [source.name for source in self.prompts if source.share is None]:
            raise ValueError(
                f"prompts: {without[0]} has no share and {next(iter(given))} has: give one to every source, or to none"
            )
        if len(given) < len(self.prompts):
            raise ValueError(
                "prompts: two sources with a share are the same file or data set: make one of them"
            )
        if abs(sum(given.values()) - 1) > 1e-6:
            raise ValueError(
                f"prompts: the shares of the sources add up to {sum(given.values()):g}, not to 1"
            )
        return self

    @property
    def mix(self) -> tuple[Literal["language", "source"], dict[str, float]] | None:
        """Of what each share is, and the shares; None where all prompts are asked."""
        by_source = {
            source.name: source.share for source in self.prompts if source.share is not None
        }
        return (
            ("language", self.shares)
            if self.shares is not None
            else ("source", by_source)
            if by_source
            else None
        )

    @model_validator(mode="after")
    def _code(self) -> "Generate":
        if (self.task == "python_tests") != (self.run_code != "off"):
            raise ValueError(
                f"task {self.task} with run_code {self.run_code}: python_tests, and nothing else, runs code that models wrote on this "
                "machine; set run_code to sandboxed to allow that, or take another task"
            )
        return self

    @model_validator(mode="after")
    def _tries(self) -> "Generate":
        if self.max_tries is not None and self.max_tries < self.samples_per_prompt:
            raise ValueError(
                f"max_tries {self.max_tries} is less than samples_per_prompt {self.samples_per_prompt}: raise it"
            )
        if (self.keep_per_prompt or 0) > self.samples_per_prompt:
            raise ValueError(
                f"keep_per_prompt {self.keep_per_prompt} is more than samples_per_prompt {self.samples_per_prompt}: raise that, or lower it"
            )
        if (self.max_tries or 1) > 1 and self.sampling_temperature == 0:
            raise ValueError(
                f"max_tries {self.max_tries} with sampling_temperature 0 would draw the same answer again: raise the temperature"
            )
        return self


class Capture(Section):
    """The teacher's distribution at each answer token, stored."""

    signal: Literal["sampled", "top_k", "dense", "none"] = field(
        "sampled",
        "sampled = random-sampling KD: unbiased and small; none = learn from the text alone (a teacher that is only on a "
        "server). A signal is about the teacher's tokens, so the student must have them; with none it keeps its own tokenizer and "
        "chat template, whatever the teacher's are",
    )
    num_draws: Annotated[int, Field(gt=0, le=1000)] = field(50, "sampled: draws a token")
    top_k: Annotated[int, Field(gt=0, le=1024)] = field(
        64, "top_k: ids a token; the rest is one tail bucket"
    )
    from_server: bool = field(
        False,
        "The log-probs come from teacher.server with each answer, so that its weights are needed nowhere else: top_k only, and a "
        "server that gives them with exact token ids (vLLM: top_k up to its --max-logprobs, 20 by default; llama.cpp)",
    )
    hidden_states: Literal["none", "int8"] = field(
        "none",
        "int8 = also the teacher's last hidden state, for train.hidden_weight; 1.03 bytes for each number of its width",
    )
    shard_tokens: Positive = field(
        200_000, "Tokens in one file; a kill loses at most one", machine=True
    )


class Train(Section):
    """Knowledge distillation, and the supervised control on the same tokens."""

    divergence: Divergence = field("forward_kl", "Distance from the teacher's distribution")
    beta: Share = field(0.5, "jsd, jsd_normalised: weight of the teacher in the mixture")
    alpha: Share = field(0.1, "skew_kl, skew_reverse_kl, adaptive_kl")
    soft_weight: Annotated[float, Field(ge=0)] = field(1.0, "Weight of the divergence")
    hard_weight: Annotated[float, Field(ge=0)] = field(
        0.0, "Weight of cross-entropy on the teacher's answer"
    )
    hidden_weight: Annotated[float, Field(ge=0)] = field(
        0.0,
        "Weight of 1 - cosine of the last hidden states, the student's through a learned projection (capture.hidden_states)",
    )
    control: bool = field(
        True, "Also train the same student by cross-entropy alone, so that the gain is known"
    )
    epochs: Positive = field(2, "Passes over the kept samples")
    max_steps: Positive | None = field(
        None, "Stop after so many optimizer steps; null = all epochs"
    )
    max_length: Positive = field(
        2048, "Tokens in a packed row; longer samples are dropped and counted"
    )
    batch_tokens: Positive = field(16384, "Tokens in an optimizer step, over all processes")
    micro_batch_tokens: Positive = field(
        4096, "Tokens in one forward pass of one process", machine=True
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = field(2e-5, "Peak")
    schedule: Literal["cosine", "linear", "constant"] = field(
        "cosine", "After the warm-up, down to 0"
    )
    warmup_share: Share = field(0.05, "Share of the steps for the linear warm-up")
    weight_decay: Annotated[float, Field(ge=0)] = field(0.0, "On matrices only")
    max_grad_norm: Annotated[float, Field(gt=0)] = field(1.0, "Clip the global gradient norm")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = field(
        "adamw", "8bit: bitsandbytes, CUDA only"
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", "auto = cuda if there is one, else cpu", machine=True
    )
    precision: Literal["auto", "float32", "bfloat16"] = field(
        "auto", "auto = bfloat16 on cuda (float32 weights), float32 on cpu"
    )
    gradient_checkpointing: bool = field(False, "Less memory, a third more time", machine=True)
    lora_rank: Annotated[int, Field(ge=0)] = field(
        0, "0 = train all weights; else a LoRA adapter, merged at the end"
    )
    lora_alpha: Positive = field(32, "LoRA scale is lora_alpha / lora_rank")
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = field(
        0.05, "Share of the samples held out for the loss curve"
    )
    validate_every: Positive = field(50, "Optimizer steps between validations")
    keep: Literal["best", "last"] = field(
        "best", "Weights kept: lowest validation loss, or the last"
    )
    checkpoint_minutes: Annotated[float, Field(gt=0)] = field(
        10.0, "Minutes between checkpoints", machine=True
    )
    checkpoint_every: Positive | None = field(None, "Also every so many steps", machine=True)
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = field(
        "none", "Experiment tracker", machine=True
    )

    @property
    def num_roles(self) -> int:
        """2 where a control is trained beside the student: if the student learns anything that the control does not."""
        return 2 if self.control and (self.soft_weight or self.hidden_weight) else 1

    @model_validator(mode="after")
    def _weights(self) -> "Train":
        if self.soft_weight == 0 and self.hard_weight == 0:
            raise ValueError(
                "soft_weight and hard_weight are both 0: there is nothing to learn for the output head"
            )
        if problem := parameter_problem(self.divergence, beta=self.beta, alpha=self.alpha):
            raise ValueError(problem)
        if self.micro_batch_tokens < self.max_length:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} holds no row of max_length {self.max_length}: raise it"
            )
        if self.batch_tokens < self.max_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is less than max_length {self.max_length}: raise it"
            )
        return self


class Quantize(Section):
    """Files for deployment, each loaded back in its own runtime."""

    formats: list[Format] = field(
        ["f16", "q8_0", "q4_k_m"],
        "GGUF types (llama.cpp), nf4 and int8 (bitsandbytes), w4a16 (vLLM; needs `pip install "
        "'distill[w4a16]'`); mixed = GGUF, its types chosen to fit budget_mb. The student in 16 bits (w16a16) "
        "is always written beside them; [] = it alone",
    )
    budget_mb: Annotated[float, Field(gt=0)] | None = field(
        None,
        "mixed: megabytes (10^6 bytes) of the file at most; each tensor's type is chosen by the KL divergence that its rounding costs",
    )
    num_sequences: Positive = field(
        64, "Validation samples on which each file is compared with the student"
    )
    min_top_token_share: Share = field(
        0.8,
        "A file that has the 16-bit student's likeliest token at fewer positions is marked failed; 0 = no gate",
    )
    max_kl: Annotated[float, Field(gt=0)] | None = field(
        0.1,
        "A file whose KL divergence from the 16-bit student is more nats a token is marked failed; null = no gate",
    )
    importance_sequences: Annotated[int, Field(ge=0)] = field(
        64,
        "Training samples, even over the languages, for the importance matrix of GGUF types below 8 bits and of w4a16; 0 = none",
    )
    threads: Annotated[int, Field(ge=0)] = field(
        0,
        "Threads of llama.cpp; 0 = OMP_NUM_THREADS where that is set, else every core that this process may use",
        machine=True,
    )

    recover: list[Format] = field(
        [],
        "Of these formats win back what rounding took: with rounded weights the student is trained to be itself again, and the "
        "better file is kept. Worth it from 3 bits down; any GGUF type below 16 bits but mixed, and nf4",
    )
    recover_steps: Positive = field(500, "Optimizer steps of about 2,048 tokens for each of them")
    recover_learning_rate: Annotated[float, Field(gt=0, lt=1)] = field(
        0.02, "Peak, as a share of the rounding error of each tensor (root mean square)"
    )

    @model_validator(mode="after")
    def _recoverable(self) -> "Quantize":
        for name in self.recover:
            if name in ("f16", "bf16", "mixed", "int8", "w4a16"):
                raise ValueError(
                    f"recover: {name}: there is nothing to win back in it, or no way; take it out"
                )
            if name not in self.formats:
                raise ValueError(
                    f"recover: {name} is not among formats: add it there, or take it out"
                )
        return self

    @model_validator(mode="after")
    def _budget(self) -> "Quantize":
        if ("mixed" in self.formats) != (self.budget_mb is not None):
            raise ValueError("formats: mixed and budget_mb belong together: give both or neither")
        return self

    @property
    def num_threads(self) -> int:
        return (
            self.threads
            or int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)
            or len(os.sched_getaffinity(0))
        )


class Evaluate(Section):
    """Every model of the run on held-out prompts."""

    prompts: Sources | None = field(
        None, "A file or sources like generate.prompts; null = hold out a share of those"
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = field(
        0.1, "Share of generate.prompts to hold out, where prompts is null"
    )
    num_examples: Positive = field(300, "At most so many, evenly over the languages")
    max_new_tokens: Positive = field(512, "Longest answer")

    @model_validator(mode="after")
    def _no_shares(self) -> "Evaluate":
        if any(source.share is not None for source in self.prompts or []):
            raise ValueError(
                "prompts: share is for generate.prompts: remove it; num_examples are taken evenly over the languages"
            )
        return self


class Report(Section):
    """report.html and the model card."""

    title: str | None = field(None, "Heading; null = the run's name")
