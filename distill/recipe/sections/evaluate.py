"""The section `evaluate`: the prompts that no model of the run was trained on."""

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from distill.recipe.schema import Section, field
from distill.recipe.sections.benchmarks import BenchmarkUses
from distill.recipe.sections.safety import Gates, Safety
from distill.recipe.sources import Sources


class Evaluate(Section):
    """Every model of the run on held-out prompts."""

    prompts: Sources | None = field(
        None,
        "A file or sources like generate.prompts (by answers: given models are scored on the answers "
        "of its rows, else on the teacher's); null = hold out a share of those",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = field(
        0.1, "Share of generate.prompts to hold out, where prompts is null"
    )
    num_examples: PositiveInt = field(300, "At most so many, evenly over the languages")
    max_new_tokens: PositiveInt = field(512, "Longest answer")
    benchmarks: BenchmarkUses = field(
        [],
        "Benchmarks of every model of the run, each a name that ships with distill (belebele, "
        "global_mmlu, include, afrimmlu, xcopa, xstorycloze, sib200, mgsm, afrimgsm, gsm8k) or a "
        "section: {name: sib200, files: {sw: swh_test.tsv}}",
        is_newer=True,
    )
    safety: Safety | None = field(
        None,
        "Ask every model what should be declined and what only sounds so, what is politically "
        "sensitive, and the same with another name or gender; null = no (stage `safety`)",
        is_newer=True,
    )
    gates: Gates | None = field(
        None,
        "Mark a file as failed that refuses less than the teacher or is further from the student "
        "in one language; null = no (stage `gates`)",
        is_newer=True,
    )

    @model_validator(mode="after")
    def _sources_have_no_shares(self) -> "Evaluate":
        if any(source.share is not None for source in self.prompts or []):
            raise ValueError(
                "prompts: share is for generate.prompts: remove it; num_examples are taken evenly "
                "over the languages"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the held-out answers: not what stages of their own ask of it."""
        values = super().identity()
        own_stages = ("benchmarks", "safety", "gates")
        return {name: value for name, value in values.items() if name not in own_stages}
