"""The key and the seed of an answer.

The key holds the prompt, the teacher and the sampling values, and the recipe's seed only with
`generate.resample`: then another seed asks for other answers. Else the seed asks for nothing that
is on disk. That of an answer that is given holds the answer, and nothing is drawn for it. Where the
model goes by another name on its server (`teacher.server_model`), that name is in the key, too.
"""

from array import array
from collections.abc import Sequence
from typing import Protocol

from distill import chat
from distill.core.digests import canonical_json, digest
from distill.data.samples import Prompt
from distill.teachers.base import Teacher
from distill.teachers.logged_rows import ChosenRows
from distill.teachers.requests import Request, RequestOptions

KEY_SCHEMA = "1"


class RequestMaker(Protocol):
    """Makes the request for a prompt's answer of an index.

    `prompt_ids`: token ids to go on from, where they are not a whole conversation in the template
    (magpie). Every draw has a key and a seed of its own.
    """

    def __call__(
        self, prompt: Prompt, sample_index: int, prompt_ids: list[int] | None = None
    ) -> Request: ...


def request_maker(teacher: Teacher, options: RequestOptions) -> RequestMaker:
    key_fields = canonical_json(_key_fields(teacher, options))
    given_fields = canonical_json(_given_fields(teacher, options))
    seed = str(teacher.recipe.seed)

    def make(prompt: Prompt, sample_index: int, prompt_ids: list[int] | None = None) -> Request:
        if prompt.answer is None:
            key = digest(KEY_SCHEMA, prompt.id, key_fields, str(sample_index))
        else:
            key = digest(KEY_SCHEMA, prompt.id, given_fields, "given", prompt.answer)
        ids = _prompt_ids(teacher, options, prompt) if prompt_ids is None else prompt_ids
        return Request(
            key_of(key, teacher.served_name),
            prompt,
            array("i", ids),  # a ninth of a list's memory
            sample_index,
            0 if prompt.is_given else _seed_of(seed, key),
        )

    return make


def _key_fields(teacher: Teacher, options: RequestOptions) -> list[object]:
    """Return what a key holds beside the prompt and the number of the draw.

    max_new_tokens is not in it: a longer limit asks again only for what was cut.
    """
    sampling = options.sampling
    key_fields: list[object] = [
        *teacher.key_fields(),
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.enable_thinking,
        options.system_prompt,
    ]
    if options.resample_seed is not None:
        key_fields.append(options.resample_seed)
    if sampling.num_log_probs:
        key_fields += ["top_k", sampling.num_log_probs]
    return key_fields


def _given_fields(teacher: Teacher, options: RequestOptions) -> list[object]:
    """Return the same of an answer that is given: what decides how the teacher would write it."""
    return [*teacher.key_fields(), options.sampling.enable_thinking, options.system_prompt]


def _prompt_ids(teacher: Teacher, options: RequestOptions, prompt: Prompt) -> list[int]:
    """Return the prompt as the teacher reads it; nothing where it gets the conversation."""
    if not teacher.takes_ids:
        return []
    return chat.prompt_ids(
        teacher.tokenizers.asked,
        list(prompt.messages),
        system_prompt=options.system_prompt,
        enable_thinking=options.sampling.enable_thinking,
    )


def key_of(key: str, served_name: str | None) -> str:
    """Return the key of an answer by a model with that name on its server; None: `key`."""
    return key if served_name is None else digest(key, "server_model", served_name)


def _seed_of(recipe_seed: str, key: str) -> int:
    return int(digest(recipe_seed, key)[:8], 16) & 0x7FFFFFFF


def num_of_other_seeds(requests: Sequence[Request], rows: ChosenRows) -> int:
    """Count the answers on disk that were drawn with another seed than the recipe's."""
    return sum(rows.head(request.key)["seed"] != request.seed for request in requests)
