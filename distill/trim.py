"""trim: the student's vocabulary, with the tokens that its languages need alone.

    trim/tokenizer/        the trimmed tokenizer
    trim/parent_ids.json   the id of each of its tokens in the tokenizer that it comes from
    trim/kept.jsonl        generate's samples in its ids

Tokens are counted over the prompts, the answers, the held-out prompts and student.vocabulary.texts;
a language that has less text counts as much as the others. The teacher keeps its own tokenizer:
generate asks in that, and every trimmed id is one of its.
"""

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from distill import chat, teachers
from distill.chat.tokenizers import Tokenizers, load_students_tokenizer
from distill.core.jsonl import Row, read_jsonl, write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.results import Coverage, TrimResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage, always
from distill.data import counted_texts
from distill.data.samples import Prompt, Sample, read_samples, split_prompts
from distill.models import find
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.shaping.corpus import Corpus
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import KEPT
from distill.shaping.trimming import Trimming, trim


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    tokenizers = teachers.connect(recipe).tokenizers
    parent = students_tokenizer(recipe, tokenizers)
    generated = folder.stage("generate")
    prompts = {row["prompt_id"]: row for _, row in read_jsonl(generated / "prompts.jsonl")}
    samples = read_samples(generated / KEPT)
    own = _own_texts(recipe, parent, prompts.values(), split_prompts(recipe)[1], samples)
    corpus = Corpus(recipe, own)
    made = trim(recipe, parent, corpus)
    notes = [*corpus.left.notes, *corpus.notes()]
    for note in notes:
        print(f"trim: {note}", file=sys.stderr)
    rows = _trimmed_samples(recipe, tokenizers, parent, made, samples, prompts)
    stage = folder.stage("trim")
    files = made.trimmed.write(stage)
    write_jsonl(stage / KEPT, (sample.row() for sample in rows))
    result = _result(made, parent, samples, rows, notes)
    print(told(result))
    return StageOutput(result, [*files, stage / KEPT])


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
) -> list[Sample]:
    """Return the samples in the trimmed ids. Raises MismatchError where they are not the same text."""
    reencoder = Reencoder.of(parent, made.trimmed, made.vocabulary)
    rows = []
    for sample in samples:
        messages = prompts[sample.prompt_id]["messages"]
        prompt_ids = reencoder.prompt_ids(recipe, tokenizers, messages)
        answer_ids = reencoder.answer_ids(sample.answer_ids)
        reencoder.require_same_bytes(sample.prompt_ids, prompt_ids, f"the prompt of {sample.key}")
        reencoder.require_same_bytes(sample.answer_ids, answer_ids, f"the answer {sample.key}")
        rows.append(replace(sample, prompt_ids=prompt_ids, answer_ids=answer_ids))
    return rows


def _result(
    made: Trimming, parent: Any, samples: list[Sample], rows: list[Sample], notes: list[str]
) -> TrimResult:
    return TrimResult(
        parent_vocab_size=len(parent),
        vocab_size=len(made.trimmed),
        stopped_by=made.pruned.stopped_by,
        coverage=made.coverage,
        format=chat.fingerprint_of_format(made.trimmed.tokenizer),
        num_samples=len(rows),
        tokens_before=sum(len(sample.ids) for sample in samples),
        tokens_after=sum(len(sample.ids) for sample in rows),
        notes=notes,
    )


STOPPED = {
    "size": "student.vocabulary.size is reached",
    "fertility": "a text of one language would become longer by more than max_fertility_loss",
    "required": "all that is left must stay",
}


def told(result: TrimResult) -> str:
    """Return the result as lines for a terminal: how many tokens stay, why, and for each language."""
    share = result.vocab_size / result.parent_vocab_size
    lines = [
        f"trim: {result.vocab_size:,} of {result.parent_vocab_size:,} tokens stay ({share:.0%}): "
        f"{STOPPED[result.stopped_by]}",
        *coverage_lines(result.coverage),
    ]
    return "\n".join(lines)


def coverage_lines(coverage: list[Coverage]) -> list[str]:
    """Return a table: for each language its texts, and its tokens a word and a byte, before and after."""
    lines = [
        f"  {'':<10}{'MB':>8}{'tokens/word':>16}{'tokens/byte':>18}{'loss':>8}",
    ]
    for row in coverage:
        words, num_bytes = max(row.num_words, 1), max(row.num_bytes, 1)
        a_word = f"{row.tokens_before / words:.3f} {row.tokens_after / words:.3f}"
        a_byte = f"{row.tokens_before / num_bytes:.4f} {row.tokens_after / num_bytes:.4f}"
        megabytes = f"{row.num_bytes / 1e6:.2f}"
        lines.append(f"  {row.language:<10}{megabytes:>8}{a_word:>16}{a_byte:>18}{row.loss:>8.2%}")
    return lines


def left_out(recipe: Recipe) -> str | None:
    return "student.vocabulary is null" if recipe.student.vocabulary is None else None


def fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides the vocabulary beside the answers.

    `generate`, which it reads, stands for the teacher's tokenizer and the prompts.
    """
    vocabulary, model = recipe.student.vocabulary, recipe.student.model
    assert vocabulary is not None  # the stage is left out without
    inputs = {}
    if model is not None:
        location = recipe.model_location(model)
        inputs["student"] = find.identity(location, recipe.student.revision)
    if vocabulary.texts:
        inputs[counted_texts.FIELD] = counted_texts.identity(recipe, vocabulary.texts)
    return Fingerprint({"student.vocabulary": vocabulary.identity()}, inputs)


def cost(work: Workload) -> Cost:
    """Reckon the encoding of the samples; how large the named texts are is not known."""
    seconds = 3 + 1e-5 * work.sample_tokens
    return Cost(PROCESS_BYTES, seconds, disk=12 * work.sample_tokens + 4e6)


STAGE = Stage(
    "trim",
    "keep the tokens of the student that its languages need",
    run,
    TrimResult,
    fingerprint,
    reads=always("generate"),
    left_out=left_out,
    cost=cost,
)
