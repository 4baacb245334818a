"""Try the chat templates of teacher and student on every kind of conversation before any is paid for.

A template may refuse a system message or a second question, or write another prompt before an
answer than before its question. All that is made of a conversation until the student has learnt it
is made here once, of plain words.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from distill import chat
from distill.catalog import catalog
from distill.chat.tokenizers import Tokenizers
from distill.data.samples import Prompt
from distill.errors import DataError, MismatchError
from distill.recipe import Recipe

Roles = tuple[str, ...]
_LETTERS = {"s": "system", "u": "user", "a": "assistant"}
_ANSWER, _REASONED = "7", "3 + 4\n</think>\n\n7"


def check_conversations(recipe: Recipe, tokenizers: Tokenizers, prompts: Iterable[Prompt]) -> None:
    """Raise MismatchError where a template does not take a kind of conversation that there is.

    `prompts`: what is asked, held-out ones among it. Raises DataError where generate.system_prompt
    itself holds a mark of a template, or a prompt has a system message beside it.
    """
    _check_system_prompt(recipe, tokenizers)
    for roles, num in kinds_of(prompts).items():
        try:
            _try(recipe, tokenizers, roles)
        except (DataError, MismatchError) as error:
            raise type(error)(
                f"{recipe.source}: generate: {num:,} of the prompts are conversations of "
                f"{', '.join(roles)}: {error}. Leave those prompts out, or take another model or "
                "chat template"
            ) from None
    _check_own_requests(recipe, tokenizers)


def kinds_of(prompts: Iterable[Prompt]) -> dict[Roles, int]:
    """Return how many prompts there are of each kind of conversation, which is who speaks in turn.

    More than three questions with their answers are as good as three.
    """
    spoken = Counter("".join(m["role"][0] for m in prompt.messages) for prompt in prompts)
    kinds: Counter[Roles] = Counter()
    for letters, num in spoken.items():
        shortened = re.sub(r"(?:ua){3,}", "ua" * 3, letters)
        kinds[tuple(_LETTERS[letter] for letter in shortened)] += num
    return dict(kinds)


def _messages(roles: Sequence[str], last: str = "How many?") -> list[dict[str, str]]:
    texts = ["How many?"] * (len(roles) - 1) + [last]
    return [{"role": r, "content": text} for r, text in zip(roles, texts, strict=True)]


def _try(recipe: Recipe, tokenizers: Tokenizers, roles: Roles) -> None:
    """Make of a conversation what generate makes of it, for an answer of each kind."""
    messages, others = _messages(roles), _messages(roles, "Which one?")
    prompt_ids = tokenizers.prompt_ids(recipe, messages)
    students_ids = tokenizers.students_prompt_ids(recipe, messages)
    if prompt_ids and prompt_ids == tokenizers.prompt_ids(recipe, others):
        raise MismatchError("the teacher's chat template does not write what the user says")
    if students_ids and students_ids == tokenizers.students_prompt_ids(recipe, others):
        raise MismatchError("the student's chat template does not write what the user says")
    asked = tokenizers.asked
    opened = chat.opens_thinking(asked, prompt_ids)
    answers = [_REASONED] if opened else [_ANSWER]
    if not opened and _thinks(recipe):
        answers.append(f"<think>\n{_REASONED}")
    end = chat.end_of_turn(asked, [asked.eos_token_id or 0])
    for text in answers:
        ids = [*asked(text, add_special_tokens=False).input_ids, end]
        tokenizers.training_ids(recipe, messages, prompt_ids, ids, text)


def _thinks(recipe: Recipe) -> bool:
    """Return whether the teacher is known to write its reasoning."""
    wanted = recipe.generate.enable_thinking
    facts = catalog.find(recipe.teacher.model)
    template = None if facts is None else catalog.template(facts)
    if wanted is not None or template is None:
        return bool(wanted)
    return template.thinking in ("always", "on")


def _check_system_prompt(recipe: Recipe, tokenizers: Tokenizers) -> None:
    system_prompt = recipe.generate.system_prompt
    if system_prompt is None:
        return
    mark = tokenizers.mark_in([{"role": "system", "content": system_prompt}])
    if mark is not None:
        raise DataError(
            f"{recipe.source}: generate.system_prompt: {mark!r} in it would be read as a mark of the "
            "chat template: take it out"
        )


def _check_own_requests(recipe: Recipe, tokenizers: Tokenizers) -> None:
    """Try what we ask the teacher beside the prompts: to write some, and to grade answers."""
    options = recipe.generate
    if tokenizers.teacher is None:
        return  # its server's template is not known
    for source in options.prompts:
        if source.expand == "magpie":
            for system_prompt in (source.system_prompts or {"": None}).values():
                chat.user_turn(tokenizers.teacher, system_prompt)
        elif source.expand is not None:
            _ask(recipe, tokenizers, ("user",))
    if options.teacher_judges:
        _ask(recipe, tokenizers, ("user",))
        _ask(recipe, tokenizers, ("user", "assistant", "user"))  # asked again for a score


def _ask(recipe: Recipe, tokenizers: Tokenizers, roles: Roles) -> None:
    enable_thinking = recipe.generate.enable_thinking
    chat.prompt_ids(tokenizers.teacher, _messages(roles), enable_thinking=enable_thinking)
