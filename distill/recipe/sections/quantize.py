"""The section `quantize`: the files for deployment, and when one of them is marked failed."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill.recipe.schema import Section, Share, field

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
UNRECOVERABLE = ("f16", "bf16", "mixed", "int8", "w4a16")


class Quantize(Section):
    """Files for deployment, each loaded back in its own runtime."""

    formats: list[Format] = field(
        ["f16", "q8_0", "q4_k_m"],
        "GGUF types (llama.cpp), nf4 and int8 (bitsandbytes), w4a16 (vLLM; needs `pip install "
        "'distill[w4a16]'`); mixed = GGUF, its types chosen to fit budget_mb. The student in 16 "
        "bits (w16a16) is always written beside them; [] = it alone",
    )
    budget_mb: PositiveFloat | None = field(
        None,
        "mixed: megabytes (10^6 bytes) of the file at most; each tensor's type is chosen by the "
        "KL divergence that its rounding costs",
    )
    num_sequences: PositiveInt = field(
        64, "Validation samples on which each file is compared with the student"
    )
    min_top_token_share: Share = field(
        0.8,
        "A file that has the 16-bit student's likeliest token at fewer positions is marked "
        "failed; 0 = no gate",
    )
    max_kl: PositiveFloat | None = field(
        0.1,
        "A file whose KL divergence from the 16-bit student is more nats a token is marked "
        "failed; null = no gate",
    )
    importance_sequences: NonNegativeInt = field(
        64,
        "Training samples, even over the languages, for the importance matrix of GGUF types "
        "below 8 bits and of w4a16; 0 = none",
    )
    threads: NonNegativeInt = field(
        0,
        "Threads of llama.cpp; 0 = OMP_NUM_THREADS where that is set, else every core that this "
        "process may use",
        machine=True,
    )

    recover: list[Format] = field(
        [],
        "Of these formats win back what rounding took: with rounded weights the student is "
        "trained to be itself again, and the better file is kept. Worth it from 3 bits down; "
        "any GGUF type below 16 bits but mixed, and nf4",
    )
    recover_steps: PositiveInt = field(
        500, "Optimizer steps of about 2,048 tokens for each of them"
    )
    recover_learning_rate: Annotated[float, Field(gt=0, lt=1)] = field(
        0.02, "Peak, as a share of the rounding error of each tensor (root mean square)"
    )

    @model_validator(mode="after")
    def _recovered_formats_are_written(self) -> "Quantize":
        for name in self.recover:
            if name in UNRECOVERABLE:
                raise ValueError(
                    f"recover: {name}: there is nothing to win back in it, or no way; take it out"
                )
            if name not in self.formats:
                raise ValueError(
                    f"recover: {name} is not among formats: add it there, or take it out"
                )
        return self

    @model_validator(mode="after")
    def _mixed_has_a_budget(self) -> "Quantize":
        if ("mixed" in self.formats) != (self.budget_mb is not None):
            raise ValueError("formats: mixed and budget_mb belong together: give both or neither")
        return self
