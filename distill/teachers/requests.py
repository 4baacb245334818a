"""What a teacher is asked, and what it answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.data.samples import Prompt
from distill.models.sampling import Sampling
from distill.recipe import Recipe
from distill.teachers.server.budget import AnswerUsage

LogProbs = dict[
    int, float
]  # of the likeliest ids at a position, at T = 1 over the whole vocabulary


@dataclass(frozen=True)
class Request:
    """One answer to ask for."""

    key: str
    prompt: Prompt
    prompt_ids: Sequence[int]
    sample_index: int
    seed: int

    @property
    def is_conversation(self) -> bool:
        """Return whether the messages say all of it.

        Else the token ids go on from the middle of the chat template (magpie).
        """
        messages = self.prompt.messages
        return bool(messages) and messages[-1]["role"] != "system"


@dataclass(frozen=True)
class RequestOptions:
    """How all requests of one kind are asked.

    `resample_seed` is part of the answers' keys (generate.resample), so another seed asks for
    others.
    """

    sampling: Sampling
    system_prompt: str | None = None
    resample_seed: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "RequestOptions":
        """Return how the recipe's prompts are asked."""
        options = recipe.generate
        sampling = Sampling.of(options)
        if recipe.capture.comes_with_answers:
            sampling = replace(sampling, num_log_probs=recipe.capture.top_k)
        return cls(sampling, options.system_prompt, recipe.seed if options.resample else None)

    def with_sampling(self, **changes: Any) -> "RequestOptions":
        """Return the same with these fields of its sampling changed."""
        return replace(self, sampling=replace(self.sampling, **changes))


@dataclass(frozen=True)
class Scored:
    """What a server says of given ids: log-probs at each of them but the first.

    `texts`: what it reads each of those as, None where it does not say.
    """

    ids: list[int]
    log_probs: list[LogProbs]
    texts: list[str | None]


@dataclass(frozen=True)
class Completion:
    """What came back for a request.

    `finish_reason`: stop, length or error. `token_ids` is None where a server gave text only.
    `error` says that it refused this request; `raw` is then what it sent. `thinks`: it reasoned
    first. `usage` is with all tries. `log_probs` has an entry for each token, where they were asked
    for: None for a token of which the server tells nothing. `scored`: what it says of the prompt's
    own ids, where that was asked for.
    """

    text: str
    finish_reason: str
    token_ids: list[int] | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    error: str | None = None
    log_probs: list[LogProbs | None] | None = None
    raw: str = ""
    thinks: bool = False
    usage: AnswerUsage | None = None
    scored: Scored | None = None


@dataclass(frozen=True)
class Block:
    """Requests that are answered together; `num_slots` at once where the teacher is loaded here."""

    requests: list[Request]
    num_slots: int = 0


@dataclass(frozen=True)
class AnswerJob:
    """What a teacher is to answer.

    `blocks` come as they are claimed. `known`: the number of tokens of each answer that is there
    already, by its request's key; it grows. `needs_ids`: some requests are no conversations, so a
    server must take token ids. `say` shows news to the user.
    """

    blocks: Iterator[Block]
    options: RequestOptions
    known: Mapping[str, int]
    on_answer: Callable[[Request, Completion], None]
    say: Callable[[str], None]
    needs_ids: bool = False

    def missing(self, block: Block) -> list[Request]:
        """Return the requests of a block that have no answer yet."""
        return [request for request in block.requests if request.key not in self.known]
