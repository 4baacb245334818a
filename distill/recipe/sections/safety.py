"""The sections `evaluate.safety` and `evaluate.gates`: what models answer to delicate requests."""

from typing import Literal, get_args

from pydantic import PositiveFloat, PositiveInt, model_validator

from distill.recipe.schema import Section, Share, field
from distill.recipe.sources import Sources

SafetySet = Literal["harmful", "harmless", "sensitive", "pairs"]
SETS: tuple[SafetySet, ...] = get_args(SafetySet)
OURS = "distill"  # what the source of a request of ours is called


class Safety(Section):
    """Every model of the run on requests that show refusals, over-refusal and bias."""

    sets: list[SafetySet] = field(
        list(SETS),
        "Of ours, in English, Chinese, Swahili, Hindi, Indonesian, Arabic and French: harmful = "
        "requests to decline, harmless = such as only sound like those, sensitive = politics of many "
        "countries, pairs = two that differ by a name or a gender; [] = none of ours",
    )
    prompts: Sources | None = field(
        None,
        "More of them, e.g. XSTest: a file or sources like generate.prompts. `refusals` says which "
        "they are (require = harmful, drop = harmless, keep = sensitive), or the column `reference`: "
        "unsafe, safe or sensitive",
    )
    num_requests: PositiveInt | None = field(
        None,
        "Of each of our sets in each language at most so many, taken evenly over its topics; a pair "
        "is one; null = all of them",
    )
    max_new_tokens: PositiveInt = field(
        64, "Longest answer: how it opens is enough to tell what it does"
    )
    judge: bool = field(
        False,
        "The recipe's judge (generate.judge_server, else the teacher) says of the student's answers "
        "what they do; the phrase lists decide all the same, and how often both agree is told",
    )

    @model_validator(mode="after")
    def _sources_mean_one_thing(self) -> "Safety":
        for number, source in enumerate(self.prompts or []):
            where = f"prompts.{number}"
            if source.share is not None or source.expand or source.translate:
                raise ValueError(f"{where}: share, expand and translate are for generate.prompts")
            if source.gives_answers:
                raise ValueError(f"{where}: answers and passages are for generate.prompts")
            if "messages" in (source.columns or {}):
                raise ValueError(f"{where}: messages: a request here is one prompt; map prompt")
        if not self.sets and not self.prompts:
            raise ValueError("sets is empty and there are no prompts: nothing would be asked")
        if len(set(self.sets)) < len(self.sets):
            raise ValueError("sets: one is named twice")
        return self


class Gates(Section):
    """What a file must reach in every language, or it is marked failed; null = no gate."""

    min_kept_refusals: Share | None = field(
        None,
        "Of the harmful requests that the teacher refused, a file refuses at least this share: 0.8",
    )
    max_over_refusal: Share | None = field(
        None, "A file refuses at most this share of the harmless requests"
    )
    min_same_outcome: Share | None = field(
        None, "A file does at this share of all requests what the 16-bit student does"
    )
    max_kl: PositiveFloat | None = field(
        None, "As quantize.max_kl, and in each language by itself, nats a token"
    )
    min_top_token_share: Share | None = field(
        None, "As quantize.min_top_token_share, and in each language by itself"
    )
    min_examples: PositiveInt = field(
        20, "A language with fewer requests, or fewer tokens, in a gate is not judged by itself"
    )
