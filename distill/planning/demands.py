"""What the teacher is asked: how many prompts, answers and tokens; of several teachers what each is."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from distill.data.prompts import split_prompts
from distill.data.routes import route_of_written, routed
from distill.data.samples import Prompt, given_answers
from distill.data.shares import mixed
from distill.recipe import Recipe

ANSWER_SHARE = 0.3  # a usual answer, of max_new_tokens
BYTES_PER_TOKEN = 3.5  # of a prompt's UTF-8 text


@dataclass(frozen=True)
class Demand:
    """What the teacher is asked: prompts to write, answers, held-out prompts.

    `prompt` and `answer`: mean tokens of one. `num_given`: answers that the rows have themselves
    (`answers: given`), of `given` tokens in all.
    """

    num_written: int
    num_answers: int
    num_held_out: int
    prompt: float
    answer: float
    num_given: int = 0
    given: float = 0.0

    def __str__(self) -> str:
        written = f"{self.num_written:,} prompts to write, " if self.num_written else ""
        tokens = (self.num_written + self.num_answers) * (self.prompt + self.answer)
        told = (
            f"the teacher is asked for {written}{self.num_answers:,} answers, "
            f"about {tokens / 1000:,.0f} thousand tokens in all"
        )
        if self.num_given:
            told += f"; {self.num_given:,} more are given, about {self.given / 1000:,.0f} thousand tokens"
        return told


SplitPrompts = tuple[list[Prompt], list[Prompt]]


def demand_of(recipe: Recipe, prompts: SplitPrompts | None = None) -> Demand:
    """Count what the teacher is asked. `prompts`: (to learn from, held out), read here if not given.

    As if every prompt that it writes were worth asking and cost as much as an answer.
    """
    learn, held_out = prompts or split_prompts(recipe)
    options = recipe.generate
    num_written = num_written_by(recipe)
    chosen = learn
    if options.mix is not None and not num_written:
        chosen = mixed(options, learn)
    given = given_answers(chosen)
    num_prompts = len(chosen) + num_written
    # what those that are not written yet will be is not known
    if options.mix is not None and num_written:
        num_prompts = min(num_prompts, options.num_prompts or num_prompts)
    return Demand(
        num_written,
        max(0, num_prompts - len(given)) * options.samples_per_prompt,
        len(held_out),
        prompt=_prompt_tokens(learn or held_out),
        answer=ANSWER_SHARE * options.max_new_tokens,
        num_given=len(given),
        given=_answer_tokens(given),
    )


def given_notes(recipe: Recipe, prompts: list[Prompt]) -> list[str]:
    """Return what a person should know of how answers that are given are learnt."""
    num_given = len(given_answers(prompts))
    if not num_given or recipe.capture.signal == "none" or recipe.train.hard_weight >= 0.5:
        return []
    return [
        f"{num_given:,} answers are given, and train.hard_weight is {recipe.train.hard_weight:g}: at each of "
        "their tokens the student learns what the teacher would say there. Where it would not say these "
        "answers, their text is learnt by cross-entropy: set train.hard_weight to 1 and "
        "train.soft_weight to 0, or to something between"
    ]


def _answer_tokens(answers: list[str]) -> float:
    """Return about how many tokens answers have, all together."""
    return sum(len(answer.encode()) for answer in answers) / BYTES_PER_TOKEN


def _prompt_tokens(prompts: list[Prompt]) -> float:
    """Return about how many tokens a prompt has."""
    return sum(len(p.text.encode()) for p in prompts) / len(prompts) / BYTES_PER_TOKEN + 12


def demands_of(recipe: Recipe, prompts: SplitPrompts) -> dict[str, Demand]:
    """Return what each of several teachers is asked, by its name; together it is `demand_of`.

    Raises DataError for prompts that none takes.
    """
    whole, (learn, held_out) = demand_of(recipe, prompts), prompts
    written = _written(recipe)
    asked = learn
    if recipe.generate.mix is not None and not whole.num_written:
        asked = mixed(recipe.generate, learn)
    own, of_exam, known = routed(recipe, asked), routed(recipe, held_out), routed(recipe, learn)
    given = {name: given_answers(of_route) for name, of_route in own.items()}
    wanted = {name: len(own[name]) - len(given[name]) + written[name] for name in own}
    answers = _in_proportion(whole.num_answers, wanted)
    return {
        name: replace(
            whole,
            num_written=written[name],
            num_answers=answers[name],
            num_held_out=len(of_exam[name]),
            prompt=_prompt_tokens(known[name] or of_exam[name] or [*learn, *held_out]),
            num_given=len(given[name]),
            given=_answer_tokens(given[name]),
        )
        for name in own
    }


def num_written_by(recipe: Recipe) -> int:
    """Return how many prompts the teacher is to write: of several the one whose view this is."""
    if recipe.route:
        return _written(recipe.whole)[recipe.route]
    return sum(source.num or 0 for source in recipe.generate.prompts)


def _written(recipe: Recipe) -> Counter[str]:
    """Return how many prompts each of several teachers is to write."""
    written: Counter[str] = Counter()
    for source in recipe.generate.prompts:
        languages = list(source.system_prompts or ([source.language] if source.language else ()))
        if not languages:
            languages = [""] if source.expand == "magpie" else recipe.languages
        num = source.num or 0
        for position, language in enumerate(languages if num else ()):
            of_language = num // len(languages) + (position < num % len(languages))
            written[route_of_written(recipe, source, language)] += of_language
    return written


def _in_proportion(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` by the shares, in whole numbers that add up to it."""
    return dict(zip(shares, _parts(total, list(shares.values())), strict=True))


def _parts(total: int, shares: list[int]) -> Iterator[int]:
    until, before = 0, 0
    for share in shares:
        until += share
        end = round(total * until / max(1, sum(shares)))
        yield end - before
        before = end
