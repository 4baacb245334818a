"""`privacy: redact`: personal data is replaced before a conversation is sent, and put back in the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill import chat
from distill.models.sampling import Sampling
from distill.privacy.countries import countries_of
from distill.privacy.placeholders import Placeholders
from distill.recipe import Recipe
from distill.teachers.requests import Completion
from distill.teachers.server.token_ids import cut_at_stop


@dataclass
class Redaction:
    """The placeholders of the requests that are in flight, by their keys.

    `countries`: see personal_data.find; None where everything is sent as it is.
    """

    countries: Sequence[str] | None
    num_conversations: int = 0
    num_strings: int = 0
    _in_flight: dict[str, Placeholders] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe) -> "Redaction":
        """Return what the recipe asks for."""
        return cls(countries_of(recipe.languages) if recipe.privacy == "redact" else None)

    def redacted(self, key: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return the conversation as it is sent."""
        if self.countries is None:
            return messages
        placeholders = Placeholders(self.countries)
        redacted = placeholders.redact(messages)
        if placeholders.num:
            self._in_flight[key] = placeholders
            self.num_conversations += 1
            self.num_strings += placeholders.num
        return redacted

    def restored(
        self, key: str, completion: Completion, tokenizer: Any, sampling: Sampling
    ) -> Completion:
        """Return the completion as if nothing had been replaced.

        Where it has a placeholder, the token ids that came are of another text than the student's:
        they are None then, and so are the log-probs.
        """
        placeholders = self._in_flight.pop(key, None)
        if placeholders is None or completion.error is not None:
            return completion
        text = completion.text
        finish_reason = completion.finish_reason
        if completion.token_ids is not None:
            cut = cut_at_stop(completion, sampling.stop_ids)
            finish_reason = cut.finish_reason
            text = chat.text_of(tokenizer, cut.token_ids or [])
        restored = placeholders.restore(text)
        if restored == text:
            return completion
        return replace(
            completion,
            text=restored,
            finish_reason=finish_reason,
            token_ids=None,
            log_probs=None,
        )

    def tell(self, say: Callable[[str], None]) -> None:
        """Say how much was replaced, if anything was."""
        if self.num_conversations:
            say(
                f"privacy: redact: {self.num_strings:,} strings in {self.num_conversations:,} "
                "conversations were sent as placeholders"
            )
        self.num_conversations = self.num_strings = 0
