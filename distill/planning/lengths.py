"""What a recipe asks of its models' embeddings and contexts, before the teacher has cost anything.

An id beyond the embedding ends a run after hours, and beyond its context a model answers nonsense.
What a server's model has room for is the server's to say. Where a model's files are not on this
machine yet, it is asked again when they are.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distill.chat import Messages
from distill.chat.tokenizers import load_students_tokenizer
from distill.data.samples import Prompt
from distill.errors import MismatchError, MissingError
from distill.models import find
from distill.recipe import Recipe
from distill.teachers import connect
from distill.teachers.base import Teacher

SHOWN = 3  # tokens in a message
# tokens that a template may add to a message, and that normalising may make of a byte
ADDED, TOKENS_A_BYTE = 64, 2
RANDOM_CONTEXT = 2048  # of a new model, at least


def check_models(recipe: Recipe, teacher: Teacher | None = None) -> None:
    """Raise MismatchError if a model's embedding or context is too small for the recipe.

    `teacher`: the one that will be asked, None: the recipe's.
    """
    teacher = teacher or connect(recipe)
    if teacher_is_here(recipe):
        config = text_config(teacher.location, recipe.teacher.revision)
        if config and not recipe.teacher.gguf and (tokenizer := _asked_tokenizer(teacher)):
            require_rows("teacher", teacher.location, config, tokenizer)
        _require_room(recipe, context_of(config), "teacher")
    if recipe.student.model is None:
        _require_room(recipe, _random_context(recipe), "student")
        return
    location = recipe.model_location(recipe.student.model)
    if config := text_config(location, recipe.student.revision):
        check_student(recipe, config, load_students_tokenizer(recipe))


def _asked_tokenizer(teacher: Teacher) -> Any | None:
    """Return the teacher's tokenizer; None where one of the recipe's models is not here yet.

    All of them are loaded together: whose tokens the student learns is told by comparing them.
    """
    try:
        return teacher.tokenizers.asked
    except MissingError:
        return None


def check_student(recipe: Recipe, config: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise MismatchError if the student's embedding or context is too small for the recipe.

    `config`: of its language model, as in config.json.
    """
    model = recipe.student.model or "random"
    require_rows("student", model, config, tokenizer)
    context, longest = context_of(config), recipe.train.max_length
    if context is not None and longest > context:
        raise MismatchError(
            f"{recipe.source}: train.max_length {longest} is beyond the context of the student "
            f"{model!r}, {context} tokens (config.json: max_position_embeddings): set "
            f"train.max_length={context}"
        )
    _require_room(recipe, context, "student")


def teacher_is_here(recipe: Recipe) -> bool:
    """Return whether the teacher reads its prompts, or the answers, on this machine."""
    return recipe.teacher.gguf is not None or recipe.loads_teacher


def text_config(location: str, revision: str | None) -> Mapping[str, Any]:
    """Return the config of the language model; {} where it is not on this machine yet."""
    try:
        config = find.read_config(location, revision)
    except MissingError:
        return {}
    return config.get("text_config") or config


def context_of(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model was made to read, None if its config does not say."""
    context = config.get("max_position_embeddings")
    if type(context) is not int or context <= 0:
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    stretched = int(original * factor) if original and factor else 0  # as Qwen's cards say of YaRN
    return max(context, stretched)


def require_rows(role: str, model: str, config: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise MismatchError if the tokenizer has ids for which the embedding has no row."""
    rows = config.get("vocab_size")
    if type(rows) is not int:
        return
    ids = tokenizer.get_vocab()
    beyond = sorted((number, token) for token, number in ids.items() if number >= rows)
    if not beyond:
        return
    names = ", ".join(repr(token) for _, token in beyond[:SHOWN])
    raise MismatchError(
        f"{role} {model!r}: its tokenizer has {len(beyond)} tokens beyond the {rows} rows of its "
        f"embedding (config.json: vocab_size): {names}. Take them out of tokenizer.json and "
        "tokenizer_config.json, or give the model rows for them (model.resize_token_embeddings("
        f"{beyond[-1][0] + 1}), then save_pretrained)"
    )


def _require_room(recipe: Recipe, context: int | None, role: str) -> None:
    """Raise MismatchError if a longest answer leaves no room for a prompt in a model's context.

    The student of rounds writes its answers, and the teacher reads them.
    """
    if context is None:
        return
    for section, longest in _longest_answers(recipe, role).items():
        if longest >= context:
            raise MismatchError(
                f"{recipe.source}: {section}.max_new_tokens {longest} leaves no room for a prompt in "
                f"the {role}'s context of {context} tokens (config.json: max_position_embeddings): "
                f"set {section}.max_new_tokens={context // 2} or so"
            )


def _longest_answers(recipe: Recipe, role: str) -> dict[str, int]:
    """Return the tokens of the longest answer that the model must have room for, by section."""
    found = {}
    if role == "teacher":
        found = {name: getattr(recipe, name).max_new_tokens for name in ("generate", "evaluate")}
    if recipe.rounds is not None:
        found["rounds"] = recipe.rounds.max_new_tokens or recipe.generate.max_new_tokens
    return found


def _random_context(recipe: Recipe) -> int:
    """Return the context of a new model."""
    return max(RANDOM_CONTEXT, recipe.train.max_length)


@dataclass(frozen=True)
class _Reader:
    """What a model was made to read, and a prompt as it reads it.

    `context`: tokens, those of its own answer among them; None where nobody says. `tokenizer`: what an
    answer that is given is read in.
    """

    context: int | None
    prompt_ids: Callable[[Messages], list[int]]
    tokenizer: Any

    @classmethod
    def teacher(cls, teacher: Teacher) -> "_Reader":
        recipe, context = teacher.recipe, None
        if teacher_is_here(recipe):
            context = context_of(text_config(teacher.location, recipe.teacher.revision))
        tokenizers = teacher.tokenizers
        return cls(context, partial(tokenizers.prompt_ids, recipe), tokenizers.asked)

    @classmethod
    def student(cls, teacher: Teacher) -> "_Reader":
        """Return the student, in the tokens that it has before any are taken from it."""
        recipe = teacher.recipe
        student = recipe.student
        context: int | None = _random_context(recipe)
        if student.model is not None:
            context = context_of(
                text_config(recipe.model_location(student.model), student.revision)
            )
        tokenizers = teacher.tokenizers
        return cls(context, partial(tokenizers.students_prompt_ids, recipe), tokenizers.student)

    def beyond(
        self, prompts: Sequence[Prompt], longest: int, tokens_a_byte: int = TOKENS_A_BYTE
    ) -> dict[int, int]:
        """Return the tokens of the prompts that leave no room for `longest` more, by their places.

        Those whose answer is given must have room for that. Only prompts that are long enough in
        bytes are tokenized.
        """
        if self.context is None:
            return {}
        around = len(self.prompt_ids([{"role": "user", "content": "a"}]))
        beyond = {}
        for place, prompt in enumerate(prompts):
            room = self.context - (0 if prompt.is_given else longest)
            if _num_bytes(prompt) >= (room - around) // tokens_a_byte:
                num_tokens = self._num_tokens(prompt)
                if num_tokens > room:
                    beyond[place] = num_tokens
        return beyond

    def _num_tokens(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt, and of its answer with its end where that is given."""
        num_tokens = len(self.prompt_ids(list(prompt.messages)))
        if prompt.answer is None:
            return num_tokens
        answer = self.tokenizer(prompt.answer, add_special_tokens=False).input_ids
        return num_tokens + len(answer) + 1


def within_context(
    teacher: Teacher, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Return the prompts that the teacher's context holds with a longest answer, and the others.

    Those have the reason beside them. Raises MismatchError if none fits.
    """
    recipe = teacher.recipe
    reasons = _beyond_teacher(teacher, prompts, recipe.generate.max_new_tokens)
    fitting, beyond = _divided(prompts, reasons)
    if beyond and not fitting:
        raise MismatchError(
            f"{recipe.source}: none of {len(beyond)} prompts fits ({beyond[0][1]}): lower "
            "generate.max_new_tokens, or take shorter prompts"
        )
    return fitting, beyond


def held_out_within_context(
    teacher: Teacher, held_out: Sequence[Prompt], field: str = "evaluate"
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Return the held-out prompts that teacher and student can answer, and the others, as above.

    The teacher answers them twice: as it answers prompts, and as the student is asked. The student
    must be able to begin. Where an answer is given both must hold that, too. `field` of the recipe has
    the prompts and the longest answer.
    """
    recipe, student = teacher.recipe, _Reader.student(teacher)
    longest = max(recipe.evaluate.max_new_tokens, recipe.generate.max_new_tokens)
    asked = [replace(p, answer=None) if p.is_given else p for p in held_out]
    reasons = {
        place: f"beyond_context: {num} tokens fill the student's context of {student.context}"
        for place, num in student.beyond(held_out, 1).items()
    }
    if asked != held_out:
        reasons |= _beyond_teacher(teacher, held_out, longest)
    reasons |= _beyond_teacher(teacher, asked, longest)
    fitting, beyond = _divided(held_out, reasons)
    if beyond and not fitting:
        raise MismatchError(
            f"{recipe.source}: {field}.prompts: none of {len(beyond)} held-out prompts fits "
            f"({beyond[0][1]}): take shorter prompts, or lower generate.max_new_tokens and "
            f"{field}.max_new_tokens"
        )
    return fitting, beyond


def length_notes(
    teacher: Teacher, prompts: Sequence[Prompt], held_out: Sequence[Prompt]
) -> list[str]:
    """Return what a person should know of long prompts before the teacher has cost anything.

    Raises MismatchError if no held-out prompt fits into the models' contexts.
    """
    notes = []
    if note := left_out_note(held_out, held_out_within_context(teacher, held_out)[1]):
        notes.append(note)
    recipe = teacher.recipe
    longest = recipe.train.max_length
    learner = replace(_Reader.student(teacher), context=longest)
    asked = [prompt for prompt in prompts if not prompt.is_given]
    if num := len(learner.beyond(asked, 1, tokens_a_byte=1)):
        notes.append(
            f"{num} of {len(asked)} prompts fill train.max_length {longest} alone: their answers "
            "are paid for and not learnt: raise it, or take them out"
        )
    return notes + _too_long_notes(learner, [p for p in prompts if p.is_given])


def _too_long_notes(learner: _Reader, given: Sequence[Prompt]) -> list[str]:
    """Return a note on each source with answers that no row of training holds."""
    beyond = learner.beyond(given, 0, tokens_a_byte=1)
    num_given = Counter(prompt.source for prompt in given)
    by_source: dict[str, list[int]] = {}
    for place, num_tokens in beyond.items():
        by_source.setdefault(given[place].source, []).append(num_tokens)
    return [
        f"{source}: {len(lengths):,} of {num_given[source]:,} answers that are given have with their "
        f"prompts more tokens than train.max_length {learner.context} (up to {max(lengths):,}), and are "
        "not learnt: raise it, or take shorter ones (of texts: fewer characters in passages)"
        for source, lengths in by_source.items()
    ]


def left_out_note(held_out: Sequence[Prompt], beyond: Sequence[tuple[Prompt, str]]) -> str | None:
    """Return what is told of held-out prompts that are not asked, None where all are."""
    if not beyond:
        return None
    reason = beyond[0][1].removeprefix("beyond_context: ")
    return f"{len(beyond)} of {len(held_out)} held-out prompts are left out: {reason}"


def _beyond_teacher(teacher: Teacher, prompts: Sequence[Prompt], longest: int) -> dict[int, str]:
    """Return why the teacher has no room for answers of `longest` tokens, by the prompts' places."""
    reader = _Reader.teacher(teacher)
    beyond = reader.beyond(prompts, longest)
    return {
        place: f"beyond_context: {num} tokens, {_answer_told(prompts[place], longest)} are beyond the "
        f"teacher's context of {reader.context}"
        for place, num in beyond.items()
    }


def _answer_told(prompt: Prompt, longest: int) -> str:
    """Return how an answer is counted, after a prompt's tokens."""
    if prompt.is_given:
        return "with the answer that is given"
    return f"and an answer of up to {longest},"


def _divided(
    prompts: Sequence[Prompt], reasons: Mapping[int, str]
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    fitting = [prompt for place, prompt in enumerate(prompts) if place not in reasons]
    return fitting, [(prompts[place], reasons[place]) for place in sorted(reasons)]


def _num_bytes(prompt: Prompt) -> int:
    texts = [message["content"].encode("utf-8", "replace") for message in prompt.messages]
    answer = (prompt.answer or "").encode("utf-8", "replace")
    return sum(map(len, texts)) + ADDED * (len(texts) - 1) + len(answer)
