"""trim: the student's vocabulary, with the tokens that its languages need alone.

    trim/tokenizer/        the trimmed tokenizer
    trim/parent_ids.json   the id of each of its tokens in the tokenizer that it comes from
    trim/kept.jsonl        generate's samples in its ids

Tokens are counted over the prompts, the answers, the held-out prompts and student.vocabulary.texts;
a language that has less text counts as much as the others. The teacher keeps its own tokenizer:
generate asks in that, and every trimmed id is one of its.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill import chat
from distill.chat.tokenizers import Tokenizers, load_students_tokenizer
from distill.core.jsonl import Row, read_jsonl, write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.results import TrimResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage, always
from distill.data.counted_texts import texts_inputs
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt, Sample
from distill.data.stored_samples import Samples, read_samples
from distill.errors import MismatchError
from distill.models import find
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.shaping.corpus import Corpus
from distill.shaping.coverage import told
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import KEPT
from distill.shaping.trimming import Trimming, trim
from distill.teachers.routes import routes_of, students_tokenizers


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    tokenizers = students_tokenizers(recipe)
    parent = students_tokenizer(recipe, tokenizers)
    generated = folder.stage("generate")
    prompts = {row["prompt_id"]: row for _, row in read_jsonl(generated / "prompts.jsonl")}
    samples = read_samples(generated / KEPT)
    _require_languages(recipe, generated / "prompts.jsonl", prompts.values())
    own = _own_texts(recipe, parent, prompts.values(), split_prompts(recipe)[1], samples)
    made = trim(recipe, parent, Corpus(recipe, own))
    for note in made.notes:
        print(f"trim: {note}", file=sys.stderr)
    stage = folder.stage("trim")
    files = made.trimmed.write(stage)
    rows = _trimmed_samples(recipe, tokenizers, parent, made, samples, prompts)
    write_jsonl(stage / KEPT, (sample.row() for sample in rows))
    result = _result(made, parent, samples, read_samples(stage / KEPT))
    print(f"trim: {told(result)}")
    return StageOutput(result, [*files, stage / KEPT])


def _require_languages(recipe: Recipe, path: Path, prompts: Iterable[Row]) -> None:
    """Raise MismatchError where prompts are in a language that the recipe does not have any more."""
    others = sorted({row["language"] for row in prompts} - set(recipe.languages))
    if others:
        raise MismatchError(
            f"{path}: has prompts in {', '.join(others)}, and languages is {recipe.languages}: name all "
            "of them there, or make the samples anew with --redo generate (answers stay)"
        )


def students_tokenizer(recipe: Recipe, tokenizers: Tokenizers) -> Any:
    """Return the tokenizer that is trimmed: the student's own, with the chat template of its samples.

    Raises MismatchError where it has other ids than the teacher's, and learns from its signal.
    """
    if recipe.student.model is None or not tokenizers.same:
        return tokenizers.student
    own = load_students_tokenizer(recipe)
    chat.require_same_tokenizer(recipe, tokenizers.teacher, own)
    own.chat_template = tokenizers.student.chat_template
    return own


def _own_texts(
    recipe: Recipe,
    parent: Any,
    prompts: Iterable[Row],
    held_out: Iterable[Prompt],
    samples: Iterable[Sample],
) -> dict[str, list[str]]:
    """Return what is said in prompts, held-out prompts and answers, by language."""
    texts: dict[str, list[str]] = {code: [] for code in recipe.languages}
    for row in prompts:
        texts[row["language"]] += [message["content"] for message in row["messages"]]
    for prompt in held_out:
        texts[prompt.language] += [message["content"] for message in prompt.messages]
    for sample in samples:
        texts[sample.language].append(chat.text_of(parent, sample.answer_ids))
    return texts


def _trimmed_samples(
    recipe: Recipe,
    tokenizers: Tokenizers,
    parent: Any,
    made: Trimming,
    samples: Iterable[Sample],
    prompts: dict[str, Row],
) -> Iterator[Sample]:
    """Yield the samples in the trimmed ids. Raises MismatchError where they are not the same text."""
    reencoder = Reencoder.of(parent, made.trimmed, made.vocabulary)
    formats = {r.name: (r.recipe, r.tokenizers or tokenizers) for r in routes_of(recipe)}
    for sample in samples:
        messages = prompts[sample.prompt_id]["messages"]
        prompt_ids = reencoder.prompt_ids(*formats[sample.teacher], messages)
        answer_ids = reencoder.answer_ids(sample.answer_ids)
        reencoder.require_same_bytes(sample.prompt_ids, prompt_ids, f"the prompt of {sample.key}")
        reencoder.require_same_bytes(sample.answer_ids, answer_ids, f"the answer {sample.key}")
        yield replace(sample, prompt_ids=prompt_ids, answer_ids=answer_ids)


def _result(made: Trimming, parent: Any, samples: Samples, rows: Samples) -> TrimResult:
    return TrimResult(
        parent_vocab_size=len(parent),
        vocab_size=len(made.trimmed),
        stopped_by=made.pruned.stopped_by,
        coverage=made.coverage,
        format=chat.fingerprint_of_format(made.trimmed.tokenizer),
        num_samples=len(rows),
        tokens_before=samples.num_tokens,
        tokens_after=rows.num_tokens,
        notes=made.notes,
    )


def left_out(recipe: Recipe) -> str | None:
    return "student.vocabulary is null" if recipe.student.vocabulary is None else None


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides which tokens stay."""
    assert recipe.student.vocabulary is not None  # the stage is left out without
    return {"student.vocabulary": recipe.student.vocabulary.identity()}


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return which model's tokenizer is trimmed, and by which texts.

    `generate`, which it reads, stands for the teacher's tokenizer and the prompts.
    """
    model, found = recipe.student.model, {}
    if model is not None:
        location = recipe.model_location(model)
        found["student"] = find.identity(location, recipe.student.revision)
    return found | texts_inputs(recipe)


def cost(work: Workload) -> Cost:
    """Reckon the encoding of the samples; how large the named texts are is not known."""
    seconds = 3 + 1e-5 * work.sample_tokens
    return Cost(PROCESS_BYTES, seconds, disk=12 * work.sample_tokens + 4e6)


STAGE = Stage(
    "trim",
    "keep the tokens of the student that its languages need",
    run,
    TrimResult,
    section,
    inputs,
    reads=always("generate"),
    left_out=left_out,
    cost=cost,
)
