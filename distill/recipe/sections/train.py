"""The section `train`: the loss, the optimizer, and how the work is cut."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill.losses.parameters import parameter_problem
from distill.recipe.schema import Section, Share, field

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


class Train(Section):
    """Knowledge distillation, and the supervised control on the same tokens."""

    divergence: Divergence = field(
        "forward_kl",
        "Distance from the teacher's distribution. capture.signal dense: each as it is. top_k: over "
        "the ids kept and one bucket of all others, at most as large; 0 for equals; what differs "
        "within the bucket is not seen. sampled: forward_kl alone, without bias; with "
        "capture.draw_log_probs also skew_kl, without bias, and the others over the ids drawn, the "
        "answer's own token and a bucket",
    )
    beta: Share = field(0.5, "jsd, jsd_normalised: weight of the teacher in the mixture")
    alpha: Share = field(0.1, "skew_kl, skew_reverse_kl, adaptive_kl")
    stop_tokens: Literal["apart", "together"] = field(
        "apart",
        "Tokens that end an answer, in the divergence: apart = each is one like others; together = "
        "all at which the student stops (generation config, tokenizer, chat template) count as one, "
        "so that it need not learn which of them the teacher says",
        is_newer=True,
    )
    soft_weight: NonNegativeFloat = field(1.0, "Weight of the divergence")
    hard_weight: NonNegativeFloat = field(0.0, "Weight of cross-entropy on the teacher's answer")
    hidden_weight: NonNegativeFloat = field(
        0.0,
        "Weight of 1 - cosine of the last hidden states, the student's through a learned "
        "projection (capture.hidden_states)",
    )
    control: bool = field(
        True, "Also train the same student by cross-entropy alone, so that the gain is known"
    )
    repeats: PositiveInt = field(
        1,
        "Train student and control so many times, each time with another seed, and tell the gain with "
        "the training's own noise; the files are made of the first. 5 are enough; 1 tells no noise",
        is_newer=True,
    )
    epochs: PositiveInt = field(2, "Passes over the kept samples")
    max_steps: PositiveInt | None = field(
        None, "Stop after so many optimizer steps; null = all epochs"
    )
    max_length: PositiveInt = field(
        2048, "Tokens in a packed row; longer samples are dropped and counted"
    )
    batch_tokens: PositiveInt = field(16384, "Tokens in an optimizer step, over all processes")
    micro_batch_tokens: PositiveInt = field(
        4096, "Tokens in one forward pass of one process", machine=True
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = field(2e-5, "Peak")
    schedule: Literal["cosine", "linear", "constant"] = field(
        "cosine", "After the warm-up, down to 0"
    )
    warmup_share: Share = field(0.05, "Share of the steps for the linear warm-up")
    weight_decay: NonNegativeFloat = field(0.0, "On matrices only")
    max_grad_norm: PositiveFloat = field(1.0, "Clip the global gradient norm")
    optimizer: Literal["adamw", "muon", "adamw_8bit", "paged_adamw_8bit"] = field(
        "adamw",
        "muon: learns faster from random weights; hidden matrices by Muon, the rest by adamw. "
        "8bit: bitsandbytes, CUDA only",
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", "auto = cuda if there is one, else cpu", machine=True
    )
    precision: Literal["auto", "float32", "bfloat16"] = field(
        "auto",
        "Of the passes; weights stay float32. auto = bfloat16 on cuda; on cpu float32, or bfloat16 "
        "where the processor multiplies it and a measurement at the start finds it faster (the "
        "choice is noted in train/precision.json, and a run that goes on keeps it)",
    )
    shard: Literal["none", "full", "hybrid"] = field(
        "none",
        "How several processes hold the student. none: each whole, as DDP has it. full: weights, "
        "gradients and optimizer divided over all of them, for a student that does not fit one GPU. "
        "hybrid: divided within a node, a copy on each: less traffic between nodes",
        machine=True,
    )
    gradient_checkpointing: bool = field(False, "Less memory, a third more time", machine=True)
    lora_rank: NonNegativeInt = field(
        0, "0 = train all weights; else a LoRA adapter, merged at the end"
    )
    lora_alpha: PositiveInt = field(32, "LoRA scale is lora_alpha / lora_rank")
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = field(
        0.05, "Share of the samples held out for the loss curve"
    )
    validate_every: PositiveInt = field(50, "Optimizer steps between validations")
    keep: Literal["best", "last"] = field(
        "best", "Weights kept: lowest validation loss, or the last"
    )
    checkpoint_minutes: PositiveFloat = field(10.0, "Minutes between checkpoints", machine=True)
    checkpoint_every: PositiveInt | None = field(None, "Also every so many steps", machine=True)
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = field(
        "none", "Experiment tracker", machine=True
    )

    @property
    def num_roles(self) -> int:
        """Return how many models are trained: 2 where a control is trained beside the student.

        It is, if the student learns anything that the control does not.
        """
        return 2 if self.control and (self.soft_weight or self.hidden_weight) else 1

    @model_validator(mode="after")
    def _something_is_learnt(self) -> "Train":
        if self.soft_weight == 0 and self.hard_weight == 0:
            raise ValueError(
                "soft_weight and hard_weight are both 0: there is nothing to learn for the "
                "output head"
            )
        if problem := parameter_problem(self.divergence, beta=self.beta, alpha=self.alpha):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> "Train":
        if self.optimizer == "muon" and self.lora_rank:
            raise ValueError(
                f"optimizer: muon is for whole matrices, not for an adapter (lora_rank "
                f"{self.lora_rank}): use adamw"
            )
        return self

    @model_validator(mode="after")
    def _sharded_states_are_no_8_bit_ones(self) -> "Train":
        if self.shard != "none" and "8bit" in self.optimizer:
            raise ValueError(
                f"shard: {self.shard} with optimizer: {self.optimizer}: nobody has shown that its "
                "8-bit states can be divided; use optimizer: adamw (divided over N processes, its "
                "states take 8/N bytes a parameter), or shard: none"
            )
        return self

    @model_validator(mode="after")
    def _batches_hold_a_row(self) -> "Train":
        if self.micro_batch_tokens < self.max_length:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} holds no row of max_length "
                f"{self.max_length}: raise it"
            )
        if self.batch_tokens < self.max_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is less than max_length {self.max_length}: "
                "raise it"
            )
        return self
