"""Several teachers' answers to the held-out prompts, each to its own, as those of one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distill.data.samples import Prompt
from distill.evaluation.eval_set import EvalSet
from distill.evaluation.figures import figures_of_examples
from distill.recipe import Recipe


def joined_sets(recipe: Recipe, prompts: list[Prompt], sets: Sequence[EvalSet]) -> EvalSet:
    """Return what the students are evaluated on: the prompts in their order, as they came.

    `sets`: the students' of each teacher, in the same tokens. What may end an answer or stand round
    it is what any of them has.
    """
    places = {prompt.id: (s, i) for s in sets for i, prompt in enumerate(s.prompts)}
    found = [places[prompt.id] for prompt in prompts]
    return replace(
        sets[0],
        recipe=recipe,
        prompts=prompts,
        prompt_ids=[s.prompt_ids[i] for s, i in found],
        teacher_ids=[s.teacher_ids[i] for s, i in found],
        num_bytes=[s.num_bytes[i] for s, i in found],
        stop_ids=sorted({number for s in sets for number in s.stop_ids}),
        marks=tuple(dict.fromkeys(mark for s in sets for mark in s.marks)),
    )


def joined_figures(
    recipe: Recipe, prompts: list[Prompt], of_each: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the figures of all teachers together, from those of each by its name.

    Where one has no NLL there is none of all: it would be of other prompts than the students'.
    """
    rows = {row["prompt_id"]: row for figures in of_each.values() for row in figures["examples"]}
    examples = [rows[prompt.id] for prompt in prompts]
    unscored = [f"{name}: {f['unscored']}" for name, f in of_each.items() if f["unscored"]]
    if unscored:
        examples = [{**example, "nll": None} for example in examples]
    tokens = [figures["generated_tokens"] for figures in of_each.values()]
    speeds = [figures["tokens_per_second"] for figures in of_each.values()]
    seconds = sum(num / max(speed, 1e-9) for num, speed in zip(tokens, speeds, strict=True))
    return figures_of_examples(
        examples,
        runtime="; ".join(dict.fromkeys(figures["runtime"] for figures in of_each.values())),
        unscored="; ".join(unscored) or None,
        num_tokens=sum(tokens),
        seconds=seconds,
        languages=recipe.languages if recipe.generate.task is not None else None,
    )
