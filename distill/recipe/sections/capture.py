"""The section `capture`: what is stored of the teacher's distribution."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from distill.recipe.schema import Section, field


class Capture(Section):
    """The teacher's distribution at each answer token, stored."""

    signal: Literal["sampled", "top_k", "dense", "chunks", "none"] = field(
        "sampled",
        "sampled = random-sampling KD: unbiased and small; none = learn from the text alone (a "
        "teacher that is only on a server). A signal is about the teacher's tokens, so the "
        "student must have them; with none and with chunks it keeps its own tokenizer and chat "
        "template, whatever the teacher's are. chunks = how likely the teacher's tokens of the "
        "answer were, for a student of another tokenizer: it matches the likelihood of the pieces "
        "that both cut alike, 4 bytes a token; best with train.hard_weight 0.1",
    )
    num_draws: Annotated[int, Field(gt=0, le=1000)] = field(50, "sampled: draws a token")
    draw_log_probs: bool = field(
        False,
        "sampled: also the teacher's log-prob of each id drawn, 2 bytes an id, for every "
        "train.divergence but forward_kl, which needs none",
        is_newer=True,
    )
    top_k: Annotated[int, Field(gt=0, le=1024)] = field(
        64, "top_k: ids a token; the rest is one tail bucket"
    )
    from_server: bool | Literal["scores"] = field(
        False,
        "The log-probs come from teacher.server, so that its weights are needed nowhere else: "
        "top_k or chunks. true = with each answer, from a server that gives them with exact token "
        "ids (vLLM: top_k up to its --max-logprobs, 20 by default; llama.cpp). scores = the kept "
        "answers are sent to it, and it says how likely each token was (vLLM's prompt_logprobs, "
        "top_k up to the same): also those that were given earlier, by its weights, by a server, or "
        "by teacher.gguf, which then answers while the server scores",
    )
    hidden_states: Literal["none", "int8"] = field(
        "none",
        "int8 = also the teacher's last hidden state, for train.hidden_weight; 1.03 bytes for "
        "each number of its width",
    )
    shard_tokens: PositiveInt = field(
        200_000, "Tokens in one file; a kill loses at most one", machine=True
    )

    @property
    def comes_with_answers(self) -> bool:
        """Return whether a server is asked for log-probs with each answer."""
        return self.from_server is True

    @property
    def scores_answers(self) -> bool:
        """Return whether a server scores the kept answers."""
        return self.from_server == "scores"

    @model_validator(mode="after")
    def _log_probs_are_of_draws(self) -> "Capture":
        if self.draw_log_probs and self.signal != "sampled":
            raise ValueError(
                f"draw_log_probs with signal {self.signal}: they are those of draws; remove it, or "
                "set signal to sampled"
            )
        return self
