"""What is not worth asking: the filters of prompts, in order, before anything is paid for.

To add a filter, write a function `(prompt, context) -> str | None` and add it to PROMPT_FILTERS.
"""

import re
import sys
from collections.abc import Iterator, Sequence

from distill.core.lazy_sequence import LazySequence
from distill.data.samples import Prompt
from distill.data.shares import mixed
from distill.errors import shown
from distill.filters.base import FilterContext, FindMark, PromptFilter, each
from distill.filters.contamination import EvalIndex
from distill.filters.dedup import exact_key, near_prompts
from distill.filters.over_cores import each_over_cores
from distill.recipe import Recipe
from distill.text import language
from distill.text.invisible import is_invisible
from distill.text.text import Text

# Controls that normalisation leaves none of; lone surrogates; the replacement character that a
# broken decoder leaves.
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def empty(prompt: Prompt, context: FilterContext) -> str | None:
    """Return that nothing is asked, or None: what the user says last is empty, or cannot be seen."""
    if not is_invisible(prompt.text):
        return None
    return f"only {prompt.text[:10]!a}" if prompt.text else "nothing in it"


def broken(prompt: Prompt, context: FilterContext) -> str | None:
    """Return the first character that no text has, or None."""
    match = _BROKEN.search(prompt.full_text)
    return None if match is None else f"U+{ord(match[0]):04X} at character {match.start()}"


def too_long(prompt: Prompt, context: FilterContext) -> str | None:
    """Return the length of a prompt that is too long, or None."""
    length, most = len(prompt.full_text), context.options.max_prompt_characters
    return f"{length} characters, at most {most}" if length > most else None


def template_marks(prompt: Prompt, context: FilterContext) -> str | None:
    """Return what in the prompt would end a turn or begin one, or None."""
    mark = None if context.find_mark is None else context.find_mark(prompt.messages)
    return None if mark is None else f"{mark!r} in it would be read as a mark of the chat template"


def repeated(
    prompts: Sequence[Prompt], left: Sequence[int], context: FilterContext
) -> Iterator[tuple[int, str]]:
    """Yield the prompts that are the same as an earlier one, whatever became of that.

    Of those with an answer (`answers: given`) it must be the same, too.
    """
    first: dict[str, int] = {}
    originals = [
        first.setdefault(exact_key(prompt.text_with_answer), index)
        for index, prompt in enumerate(prompts)
    ]
    for index in left:
        if originals[index] != index:
            yield index, f"the same as {_named(prompts[originals[index]])}"


def wrong_language(prompt: Prompt, context: FilterContext) -> str | None:
    """Return why what the user says is not in the prompt's language, or None.

    A system message is often English, so it does not count.
    """
    if not prompt.check_language:
        return None
    users_text = Text(prompt.text_of("user"))
    return language.wrong_language(users_text, prompt.language, context.languages)


def nearly_repeated(
    prompts: Sequence[Prompt], left: Sequence[int], context: FilterContext
) -> Iterator[tuple[int, str]]:
    """Yield the prompts that nearly repeat an earlier one under the same system message.

    See near_prompts, from `generate.near_duplicate` on.
    """
    originals = near_prompts(
        _TurnsOf(prompts, left),
        context.options.near_duplicate,
        [sys.intern(exact_key(prompts[index].text_of("system"))) for index in left],
    )
    for index, original in zip(left, originals, strict=True):
        if original is not None:
            yield index, f"nearly {_named(prompts[left[original]])}"


def _named(prompt: Prompt) -> str:
    """Return what a reader finds a prompt by: how it begins, and the source that it is from."""
    source = f" of {prompt.source}" if prompt.source else ""
    return f"{shown(prompt.text)}{source}"


class _TurnsOf(LazySequence[str, "_TurnsOf"]):
    """What user and assistant say in some of the prompts, put together when it is asked for.

    The answers that are given are part of it.
    """

    def __init__(self, prompts: Sequence[Prompt], numbers: Sequence[int]):
        self._prompts = prompts
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _some(self, chosen: slice) -> "_TurnsOf":
        return _TurnsOf(self._prompts, self._numbers[chosen])

    def _item(self, number: int) -> str:
        prompt = self._prompts[self._numbers[number]]
        return "\n".join(filter(None, (prompt.text_of("user", "assistant"), prompt.answer)))


def contaminated(prompt: Prompt, context: FilterContext) -> str | None:
    """Return which held-out prompt this one copies, or None."""
    if context.eval_index is None:
        return None
    return context.eval_index.hit(Text(prompt.full_text))


PROMPT_FILTERS: tuple[PromptFilter, ...] = (
    PromptFilter("empty_prompt", each(empty)),
    PromptFilter("broken_prompt", each(broken)),
    PromptFilter("prompt_too_long", each(too_long)),
    PromptFilter("template_marks", each(template_marks)),
    PromptFilter("duplicate_prompt", repeated),
    PromptFilter("wrong_prompt_language", each_over_cores(wrong_language)),
    PromptFilter("near_duplicate_prompt", nearly_repeated),
    PromptFilter("contaminated", each_over_cores(contaminated)),
)


def filter_prompts(prompts: Sequence[Prompt], context: FilterContext) -> list[str | None]:
    """Return for each prompt the first reason not to ask it, or None.

    Of prompts that repeat each other the first stays.
    """
    reasons: list[str | None] = [None] * len(prompts)
    for prompt_filter in PROMPT_FILTERS:
        left = [index for index, reason in enumerate(reasons) if reason is None]
        for index, detail in prompt_filter.check(prompts, left, context):
            reasons[index] = f"{prompt_filter.name}: {detail}"
    return reasons


def select_prompts(
    recipe: Recipe,
    prompts: list[Prompt],
    held_out: list[Prompt],
    *,
    are_all: bool = True,
    find_mark: FindMark | None = None,
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Split prompts before they cost anything: (those to ask, (prompt, reason) of the others).

    The others are not worth it, or too many. are_all: False before the teacher has written its own:
    then the shares of sources cannot be told. find_mark: of the models' tokenizers (FilterContext).
    """
    eval_index = EvalIndex(prompt.text for prompt in held_out)
    context = FilterContext(
        recipe.generate, recipe.languages, eval_index=eval_index, find_mark=find_mark
    )
    reasons = filter_prompts(prompts, context)
    good = [p for p, reason in zip(prompts, reasons, strict=True) if reason is None]
    bad = [(p, reason) for p, reason in zip(prompts, reasons, strict=True) if reason is not None]
    if recipe.generate.mix is None or (recipe.generate.mix[0] == "source" and not are_all):
        return good, bad
    chosen = mixed(recipe.generate, good)
    ids = {p.id for p in chosen}
    reason = f"beyond_share: its {recipe.generate.mix[0]} has enough prompts"
    return chosen, [*bad, *((p, reason) for p in good if p.id not in ids)]
