"""What is not worth asking: prompts are judged before they cost anything, in the order of PROMPT_REASONS."""

import re
from collections.abc import Sequence

from distill.data.samples import Prompt
from distill.filters.contamination import EvalIndex
from distill.filters.dedup import exact_key, near_prompts
from distill.text.language import wrong_language

PROMPT_REASONS = (
    "empty_prompt",
    "broken_prompt",
    "prompt_too_long",
    "duplicate_prompt",
    "wrong_prompt_language",
    "near_duplicate_prompt",
    "contaminated",
)

# Controls that normalisation leaves none of; lone surrogates; the replacement character that a broken decoder leaves.
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def judge_prompts(
    prompts: Sequence[Prompt],
    *,
    languages: Sequence[str] = (),
    eval_index: EvalIndex | None = None,
    max_characters: int = 20_000,
    near_duplicate: float | None = None,
) -> list[str | None]:
    """For each prompt why it is not worth asking, or None.

    What the user says must be in the prompt's language, told apart from `languages`, where the prompt is to be checked: a system
    message is often English. Of prompts that repeat each other under the same system message (near_prompts, from `near_duplicate`
    on) the first stays.
    """
    first: dict[str, int] = {}
    texts = [p.whole_text for p in prompts]
    reasons = [_alone(text, index, first, max_characters) for index, text in enumerate(texts)]
    for index, prompt in enumerate(prompts):
        if reasons[index] is None and prompt.check_language:
            reasons[index] = _named(
                "wrong_prompt_language",
                wrong_language(prompt.said_by("user"), prompt.language, languages),
            )
    if near_duplicate is not None:
        good = [index for index, reason in enumerate(reasons) if reason is None]
        systems = [exact_key(prompts[i].said_by("system")) for i in good]
        found = near_prompts(
            [prompts[i].said_by("user", "assistant") for i in good], near_duplicate, systems
        )
        for index, original in zip(good, found, strict=True):
            if original is not None:
                reasons[index] = f"near_duplicate_prompt: nearly prompt {good[original]}"
    for index, text in enumerate(texts):
        if reasons[index] is None and eval_index is not None:
            reasons[index] = _named("contaminated", eval_index.hit(text))
    return reasons


def _named(name: str, detail: str | None) -> str | None:
    return None if detail is None else f"{name}: {detail}"


def _alone(prompt: str, index: int, first: dict[str, int], max_characters: int) -> str | None:
    original = first.setdefault(exact_key(prompt), index)
    broken = _BROKEN.search(prompt)
    if not prompt.strip():
        return "empty_prompt: nothing in it"
    if broken:
        return f"broken_prompt: U+{ord(broken[0]):04X} at character {broken.start()}"
    if len(prompt) > max_characters:
        return f"prompt_too_long: {len(prompt)} characters, at most {max_characters}"
    return None if original == index else f"duplicate_prompt: same as prompt {original}"
