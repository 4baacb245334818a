"""How an answer is drawn; without torch."""

from dataclasses import dataclass

from distill.recipe.sections import Generate


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are drawn, and when it ends.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off. An answer ends with the first of
    `stop_ids`, or after `max_new_tokens`. `enable_thinking` None leaves the chat template's own
    default. `num_log_probs`: how many of the likeliest ids a server gives with each token.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 1
    stop_ids: tuple[int, ...] = ()
    enable_thinking: bool | None = None
    num_log_probs: int = 0

    @classmethod
    def of(cls, options: Generate) -> "Sampling":
        """Return what the recipe's section `generate` asks for."""
        return cls(
            options.sampling_temperature,
            options.top_p,
            options.top_k,
            options.max_new_tokens,
            enable_thinking=options.enable_thinking,
        )
