"""Which prompts the student answers in a round, and which its rounds are validated on."""

from collections.abc import Collection, Sequence

from distill.core.digests import digest
from distill.core.jsonl import Row, read_jsonl
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.recipe import Recipe
from distill.recipe.sources import Source


def asked_prompts(recipe: Recipe, folder: RunFolder) -> list[Prompt]:
    """Return the prompts that `generate` asked, those that the teacher wrote among them."""
    sources = {source.name: source for source in recipe.generate.prompts}
    path = folder.stage("generate") / "prompts.jsonl"
    return [_prompt(row, sources.get(row["source"])) for _, row in read_jsonl(path)]


def _prompt(row: Row, source: Source | None) -> Prompt:
    is_translation = source is not None and source.translate is not None
    is_passage = source is not None and source.passages is not None
    return Prompt(
        tuple(row["messages"]),
        row["language"],
        row["reference"],
        source=row["source"],
        source_id=row["source_id"],
        check_language=(source is None or source.check_language)
        and not (is_translation or is_passage),
        is_translation=is_translation,
        is_passage=is_passage,
        verify=(source is None or source.verify) and not is_passage,
    )


def prompts_of_round(
    prompts: Sequence[Prompt],
    validated_on: Collection[str],
    num: int | None,
    number: int,
    seed: int,
) -> list[Prompt]:
    """Return the prompts of round `number`, from 1: `num` (None: all) of those that none validates on.

    All are in one order that follows from the seed, and each round goes on where the last one ended.
    `validated_on`: ids of prompts. Raises DataError where none is left.
    """
    usable = [prompt for prompt in prompts if prompt.id not in validated_on]
    if not usable:
        raise DataError(
            f"rounds: all {len(prompts)} prompts are validated on, and none is left for the student to "
            "answer: add prompts, or lower train.validation_share"
        )
    usable.sort(key=lambda prompt: digest("rounds", str(seed), prompt.id))
    num = min(num or len(usable), len(usable))
    first = (number - 1) * num
    return [usable[(first + i) % len(usable)] for i in range(num)]
