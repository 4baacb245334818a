"""What an answer must be before it is taken: no key in it, and ids and log-probs as asked for.

Each check raises RetryableError with the server's own words.
"""

from collections.abc import Callable
from dataclasses import dataclass

from distill.teachers.requests import Completion
from distill.teachers.server.adapters import LARGEST_ID
from distill.teachers.server.replies import Reply, RetryableError

# At most; llama.cpp tells nothing of those of one that an answer does not complete
TOKENS_OF_A_CHARACTER = 8


@dataclass(frozen=True)
class Vocabulary:
    """What is known of the model's tokens here.

    `count` says how many a text has, `num_ids` how many there are. `is_own`: it is the model's own
    tokenizer that says so.
    """

    count: Callable[[str], int] = len
    num_ids: int = LARGEST_ID
    is_own: bool = True


UNKNOWN = Vocabulary()


def check_text(completion: Completion, reply: Reply) -> None:
    """Refuse an answer that holds the key: it would be kept, and learnt."""
    if reply.key.is_in(completion.text):
        raise RetryableError("its answer holds the key", "other", raw=reply.raw)


def check_ids(
    completion: Completion, vocabulary: Vocabulary, max_new_tokens: int, reply: Reply
) -> None:
    """Refuse token ids that nobody could learn from."""
    ids = completion.token_ids or []
    if len(ids) > max_new_tokens + 1:  # an end of its own
        problem = f"{len(ids):,} tokens, where {max_new_tokens:,} were asked for"
        raise RetryableError(problem, "other", raw=reply.raw)
    if ids and max(ids) >= vocabulary.num_ids:
        problem = (
            f"token id {max(ids)}, and the tokenizer of teacher.model has {vocabulary.num_ids:,} "
            "ids: another vocabulary"
        )
        raise RetryableError(problem, "other", raw=reply.raw)


def check_num_log_probs(completion: Completion, wanted: int, reply: Reply) -> None:
    """Refuse an answer where fewer log-probs came with a token than were asked for."""
    rows = completion.log_probs or [{}]
    untold = wanted if len(rows) <= TOKENS_OF_A_CHARACTER else 0
    fewest = min((len(row) for row in rows if row is not None), default=untold)
    if fewest < wanted:
        problem = f"log-probs of {fewest} tokens where {wanted} were asked for (capture.top_k)"
        raise RetryableError(problem, "other", raw=reply.raw)
