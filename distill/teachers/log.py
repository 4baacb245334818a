"""A request to the teacher, its key and seed, and the row that its answer becomes in the log.

The key holds the prompt, the teacher and the sampling values, and the recipe's seed only with `generate.resample`: then
another seed asks for other answers. Else it asks for nothing that is on disk. Where the model goes by another name on its
server (`teacher.server_model`), that name is in the key, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import chat
from distill.core.digests import canonical_json, digest
from distill.core.jsonl import Row, row_logs
from distill.data.samples import Prompt
from distill.models import load
from distill.recipe import Recipe

KEY_SCHEMA = "1"
TEXT_ONLY = "text"  # in place of the template's fingerprint, where the teacher's template is the server's own business
LOG_PROBS = "top_k"  # field of a row: what the server said about each token (capture.from_server), base64 of the encoded record
RAW = "raw"  # field of a row: what the server sent where it was no answer


@dataclass(frozen=True)
class Request:
    """One answer to ask for."""

    key: str
    prompt: Prompt
    prompt_ids: list[int]
    sample_index: int
    seed: int


def request_maker(recipe: Recipe, tokenizer: Any) -> Callable[..., Request]:
    """The request for a prompt's answer of an index; every draw has a key and a seed of its own.

    Its third argument: token ids to go on from, where they are not a whole conversation in the template (magpie)."""
    options = recipe.generate
    teacher = load.teacher_identity(recipe)
    template = TEXT_ONLY if recipe.teacher.text_only else chat.fingerprint_of_template(tokenizer)
    # max_new_tokens is not in the key: a longer limit re-asks only what was cut
    sampling = canonical_json(
        [
            teacher,
            recipe.teacher.quantization,
            recipe.teacher.dtype,
            template,
            options.sampling_temperature,
            options.top_p,
            options.top_k,
            options.enable_thinking,
            options.system_prompt,
            *([recipe.seed] if options.resample else []),
            *(["top_k", recipe.capture.top_k] if recipe.capture.from_server else []),
        ]
    )

    def make(prompt: Prompt, sample_index: int, ids: list[int] | None = None) -> Request:
        if recipe.teacher.text_only:
            ids = []  # it gets the conversation
        elif ids is None:
            ids = chat.prompt_ids(
                tokenizer,
                list(prompt.messages),
                system_prompt=options.system_prompt,
                enable_thinking=options.enable_thinking,
            )
        key = digest(KEY_SCHEMA, prompt.id, sampling, str(sample_index))
        return Request(
            key_of(key, recipe.teacher.served_name), prompt, ids, sample_index, seed_of(recipe, key)
        )

    return make


def num_prompt_tokens(request: Request, tokenizer: Any) -> int:
    """As the teacher's tokenizer counts them, or of a conversation about so many, by another's."""
    return len(request.prompt_ids) or len(
        tokenizer(request.prompt.whole_text, add_special_tokens=False).input_ids
    )


def key_of(key: str, name_there: str | None) -> str:
    """The key of an answer by a model that goes by another name on its server; else `key` itself."""
    return key if name_there is None else digest(key, "server_model", name_there)


def seed_of(recipe: Recipe, key: str) -> int:
    return int(digest(str(recipe.seed), key)[:8], 16) & 0x7FFFFFFF


def num_of_other_seeds(requests: list[Request], rows: dict[str, Row]) -> int:
    """How many answers on disk were drawn with another seed than the recipe's."""
    return sum(rows[r.key]["seed"] != r.seed for r in requests)


def raw_row(recipe: Recipe, request: Request, ids: list[int], finish_reason: str, text: str) -> Row:
    """What the raw log keeps of an answer. `finish_reason`: stop, length, or error (`text` is then the server's words)."""
    return {
        "key": request.key,
        "prompt_id": request.prompt.id,
        "sample_index": request.sample_index,
        "seed": request.seed,
        "finish_reason": finish_reason,
        "max_new_tokens": recipe.generate.max_new_tokens,
        "text": text,
        "token_ids": ids,
        "teacher": recipe.teacher.model,
        "teacher_licence": recipe.teacher.licence,
        "server_model": recipe.teacher.served_name,
    }


def num_log_probs(recipe: Recipe, tokenizer: Any) -> int:
    """How many log-probs a server is asked for with each token."""
    return min(recipe.capture.top_k, len(tokenizer) - 1) if recipe.capture.from_server else 0


def read_answers(log: Path) -> tuple[list[Row], list[str]]:
    """(rows, notes on torn lines) of a log, without the log-probs, which are twenty times the rest, and what was no answer: what a
    row is used for does not need them."""
    broken: list[str] = []
    return [
        {key: value for key, value in row.items() if key not in (LOG_PROBS, RAW)}
        for row in row_logs(log, broken)
    ], broken


def is_final(row: Row, recipe: Recipe) -> bool:
    if row["finish_reason"] == "error":
        return not recipe.generate.retry_errors
    return (
        row["finish_reason"] != "length" or row["max_new_tokens"] >= recipe.generate.max_new_tokens
    )


def final_rows(rows: list[Row], recipe: Recipe) -> dict[str, Row]:
    """Of each key the best row, where nothing more is to be asked: it is final, or was cut and is refused at this length."""
    refused = {
        r["key"]
        for r in rows
        if r["finish_reason"] == "error"
        and is_final(r, recipe)
        and r["max_new_tokens"] >= recipe.generate.max_new_tokens
    }
    return {
        key: row for key, row in best_rows(rows).items() if is_final(row, recipe) or key in refused
    }


def best_rows(rows: list[Row]) -> dict[str, Row]:
    """One row a key: a finished answer before a cut one, the longer cut before the shorter, any before an error, then the first
    written."""
    best: dict[str, Row] = {}
    for row in rows:
        old = best.get(row["key"])
        if old is None or _rank(row) > _rank(old):
            best[row["key"]] = row
    return best


def _rank(row: Row) -> tuple[int, int]:
    if row["finish_reason"] == "length":
        return 1, row["max_new_tokens"]
    return (0 if row["finish_reason"] == "error" else 2), 0
