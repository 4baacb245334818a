"""The section `rounds`: the student answers, the teacher judges, the student learns; again."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from distill.recipe.schema import SHARE_ERROR, PositiveShare, Section, Share, field
from distill.recipe.sections.train import Divergence


class Mix(Section):
    """What a round learns from, as shares of its samples."""

    current: PositiveShare = field(0.5, "The student's answers of this round")
    earlier: Share = field(0.25, "Its answers of the rounds before; in round 1 the others grow")
    teacher: Share = field(0.25, "The teacher's own answers")

    @model_validator(mode="after")
    def _add_up_to_one(self) -> "Mix":
        total = self.current + self.earlier + self.teacher
        if abs(total - 1) > SHARE_ERROR:
            raise ValueError(f"current, earlier and teacher add up to {total:g}, not to 1")
        return self


class Guards(Section):
    """When the rounds have gone wrong.

    A share is red where it has surely (95 %) risen by more than its limit since round 1, whose answers
    are the trained student's own: rounds may mend a student that loops, and must not make one.
    """

    max_cut: Share = field(0.1, "Rise of the share of answers that are cut at max_new_tokens")
    max_loops: Share = field(0.1, "... that repeat themselves endlessly")
    max_empty: Share = field(0.1, "... that have no text")
    max_other_language: Share = field(0.1, "... in another language than their prompt's")
    max_length_growth: Annotated[float, Field(ge=1)] = field(
        2.0, "Mean length of an answer, as a multiple of the trained student's"
    )


class Rounds(Section):
    """The student's own answers: it answers, the teacher says how likely each token was, it learns."""

    num_rounds: PositiveInt = field(3, "Rounds at most")
    prompts_per_round: PositiveInt | None = field(
        None, "Prompts that the student answers in a round, others each time; null = all of them"
    )
    answers_per_prompt: PositiveInt = field(1, "Answers of the student to a prompt, in a round")
    max_new_tokens: PositiveInt | None = field(
        None, "Longest answer of the student; null = generate.max_new_tokens"
    )
    sampling_temperature: Annotated[float, Field(ge=0, le=5)] = field(
        1.0, "1 = its own distribution, which is what is to be mended"
    )
    top_p: PositiveShare = field(1.0, "Nucleus; 1 = off")
    mix: Mix = Mix()
    epochs: PositiveInt = field(1, "Passes over a round's samples")
    max_steps: PositiveInt | None = field(
        None, "Stop a round's training after so many steps; null = all epochs"
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = field(
        None, "Peak in each round; null = a tenth of train.learning_rate"
    )
    learning_rate_decay: Literal["none", "inverse"] = field(
        "none",
        "How the peak falls from round to round; inverse: to 2/3, 2/4, 2/5 ... of the first round's",
        is_newer=True,
    )
    divergence: Divergence | None = field(
        None, "Distance from the teacher's distribution; null = train.divergence"
    )
    patience: PositiveInt = field(2, "Stop when so many rounds in a row brought nothing better")
    num_validated: PositiveInt = field(
        512, "Validation prompts (train.validation_share) by which the best round is found, at most"
    )
    guards: Guards = Guards()
    student_as: Literal["auto", "weights", "gguf"] = field(
        "auto",
        "What the student answers with: weights, or an 8-bit GGUF file in llama.cpp; auto = the "
        "faster of them here, which is measured once",
        machine=True,
    )

    @model_validator(mode="after")
    def _answers_are_drawn(self) -> "Rounds":
        if self.sampling_temperature == 0 and self.answers_per_prompt > 1:
            raise ValueError(
                f"answers_per_prompt {self.answers_per_prompt} with sampling_temperature 0: they "
                "would all be the same: set answers_per_prompt to 1, or a temperature above 0"
            )
        return self

    def for_one_round(self) -> dict[str, object]:
        """Return the fields that decide what a round makes: when to stop is not among them.

        Nor is num_validated: the prompts that it comes to decide (on_policy/work.py).
        """
        values = self.identity()
        for name in ("num_rounds", "patience", "guards", "num_validated"):
            values.pop(name)
        return values
