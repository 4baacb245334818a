"""The tokenizer that the teacher is asked in, and the one that the student learns in.

A signal is about the teacher's tokens, so the student has those. Of text alone, and of chunks of bytes,
it learns in its own tokenizer and by its own chat template; where that tokenizer is the teacher's, in the very tokens
that the teacher wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill import chat
from distill.errors import MissingError
from distill.models import load
from distill.recipe import Recipe


@dataclass(frozen=True)
class Tokenizers:
    """The teacher's tokenizer and the student's.

    `teacher` is None where it is asked for text alone; `difference` says why `student` is another
    one.
    """

    teacher: Any | None
    student: Any
    difference: str | None = None

    @property
    def same(self) -> bool:
        return self.teacher is self.student

    @cached_property
    def marks(self) -> list[chat.TemplateMarks]:
        """Return the marks of who answers, as far as they are known, and of who learns."""
        known = (
            [self.student] if self.same or self.teacher is None else [self.teacher, self.student]
        )
        return [chat.TemplateMarks.of(tokenizer) for tokenizer in known]

    def mark_in(self, messages: chat.Messages) -> str | None:
        """Return a mark of teacher or student that a conversation holds as text, or None."""
        found = (marks.first_in_messages(messages) for marks in self.marks)
        return next(filter(None, found), None)

    def mark_in_answer(self, text: str, ids: Sequence[int]) -> str | None:
        """Return a mark of teacher or student that an answer holds, or None.

        `text`: its reasoning and answer. `ids`: it in the ids of `asked`, without its end; they
        count where they are what is learnt.
        """
        found = [marks.first_in_answer(text) for marks in self.marks]
        if self.same:
            found.append(self.marks[0].first_in_ids(ids))
        return next(filter(None, found), None)

    @property
    def asked(self) -> Any:
        """Return the one whose ids stand beside an answer's text.

        It is the teacher's, or where that is not known the student's.
        """
        return self.student if self.teacher is None else self.teacher

    def prompt_ids(self, recipe: Recipe, messages: chat.Messages) -> list[int]:
        """Return the prompt as the teacher reads it; empty where that is not known."""
        if self.teacher is None:
            return []
        options = recipe.generate
        return chat.prompt_ids(
            self.teacher,
            messages,
            system_prompt=options.system_prompt,
            enable_thinking=options.enable_thinking,
        )

    def students_prompt_ids(self, recipe: Recipe, messages: chat.Messages) -> list[int]:
        """Return the prompt as the student reads it."""
        if self.same:
            return self.prompt_ids(recipe, messages)
        options = recipe.generate
        return chat.prompt_ids(
            self.student,
            messages,
            system_prompt=options.system_prompt,
            enable_thinking=self._students_thinking(recipe),
        )

    def students_prompt_text(self, recipe: Recipe, messages: chat.Messages) -> str:
        """Return the same as text, with the template's marks."""
        turns = chat.with_system_prompt(messages, recipe.generate.system_prompt)
        thinking = self._students_thinking(recipe)
        return chat.prompt_text(self.student, turns, enable_thinking=thinking)

    def _students_thinking(self, recipe: Recipe) -> bool | None:
        """Return the setting of its template's switch: another model's need not have one."""
        if self.same:
            return recipe.generate.enable_thinking
        return chat.thinking_of(self.student, recipe.whole.generate.enable_thinking)

    def split_answer(
        self, recipe: Recipe, prompt_ids: Sequence[int], text: str
    ) -> tuple[str | None, str, bool]:
        """Return (reasoning or None, answer, whether both were finished) of the teacher's text."""
        return chat.split_thinking(
            text,
            opened=chat.opens_thinking(self.asked, prompt_ids),
            marks=chat.answer_marks(self.teacher, recipe.teacher.model),
        )

    def training_ids(
        self,
        recipe: Recipe,
        messages: chat.Messages,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
        text: str,
    ) -> tuple[list[int], list[int]]:
        """Return (prompt ids, answer ids) that the student learns of an answer.

        `text`, and the same in the ids of `asked`, is what the teacher wrote.
        """
        if self.same:
            targets = chat.target_ids(recipe, self.teacher, messages, prompt_ids, answer_ids)
            return list(prompt_ids), targets
        reasoning, answer, _ = self.split_answer(recipe, prompt_ids, text)
        if recipe.generate.reasoning == "drop":
            reasoning = None
        return chat.retokenize_answer(recipe.whole, self.student, messages, reasoning, answer)


def first_mark(of_each: Sequence[Tokenizers], messages: chat.Messages) -> str | None:
    """Return a mark of a teacher or the student that a conversation holds as text, or None."""
    return next(filter(None, (tokenizers.mark_in(messages) for tokenizers in of_each)), None)


def tokenizers_of(recipe: Recipe, teacher: Any | None) -> Tokenizers:
    """Return the teacher's tokenizer (None: it is known by its text alone) and the student's.

    Raises MissingError where the student's is not there, or has no chat template to learn by. That
    a signal's student has the teacher's tokenizer is proved by `initialize`, which has both. Of one
    of several teachers see `tokenizers_of_several`.
    """
    if recipe.route:
        return tokenizers_of_several(recipe.whole)[recipe.route]
    has_own = recipe.capture.signal in ("none", "chunks")
    if not has_own or recipe.student.model is None:
        return Tokenizers(teacher, teacher)
    own = load_students_tokenizer(recipe)
    difference: str | None = "the teacher's is not known"
    if teacher is not None:
        difference = chat.same_tokenizer(teacher, own)
    if difference is None:
        return Tokenizers(teacher, teacher)
    chat.prompt_ids(own, "hi")
    return Tokenizers(teacher, own, difference)


def tokenizers_of_several(recipe: Recipe) -> dict[str, Tokenizers]:
    """Return the tokenizers of each of several teachers, by its name, and the student's.

    The student learns in one tokenizer and chat template: those of the leading teacher, the first
    that has its tokenizer (a new student takes recipe.teacher's), or its own, where none has. A
    teacher with another tokenizer or template is learnt from as text, written anew.

    Raises MissingError where a tokenizer is not there, MismatchError where a signal is captured and
    no teacher has the student's.
    """
    own = {view.route: _own_tokenizer(view) for view in recipe.views}
    leading = leading_teacher(recipe, own)
    if leading is not None:
        student = own[leading]
    else:
        student = load_students_tokenizer(recipe)
        chat.prompt_ids(student, "hi")
    return {name: _beside_others(teacher, student) for name, teacher in own.items()}


def _own_tokenizer(view: Recipe) -> Any | None:
    if view.teacher.text_only:
        return None
    return load_teachers_tokenizer(view, view.model_location(view.teacher.model))


def leading_teacher(recipe: Recipe, own: Mapping[str, Any | None]) -> str | None:
    """Return the name of the first of several teachers that has the student's tokenizer, or None.

    Where a signal is captured it is one that gives it. `own`: their tokenizers by name.

    Raises MismatchError where a signal is captured and no teacher has it.
    """
    captures = recipe.capture.signal != "none"
    able = [v for v in recipe.views if own[v.route] is not None]
    able = [v for v in able if not captures or v.capture.signal != "none"]
    if recipe.student.model is None:
        return next(view.route for view in able if view.teacher is recipe.teacher)
    student = load_students_tokenizer(recipe)
    for view in able:
        if chat.same_tokenizer(own[view.route], student) is None:
            return view.route
    if captures:
        chat.require_same_tokenizer(able[0], own[able[0].route], student)
    return None


def _beside_others(teacher: Any | None, student: Any) -> Tokenizers:
    """Return one teacher's tokenizer beside the student's; the same object, where they are alike."""
    if teacher is None:
        return Tokenizers(None, student, "the teacher's is not known")
    if teacher is student:
        return Tokenizers(teacher, teacher)
    difference = chat.same_tokenizer(teacher, student)
    if difference is None and not chat.same_template(teacher, student):
        difference = "another chat template"
    return Tokenizers(teacher, teacher if difference is None else student, difference)


def load_teachers_tokenizer(recipe: Recipe, location: str) -> Any:
    teacher = recipe.teacher
    try:
        return load.load_tokenizer(
            location, teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
    except MissingError as error:
        raise with_way_out(recipe, error) from None


def with_way_out(recipe: Recipe, error: MissingError) -> MissingError:
    """Return the same error, and how to do without the model's files where that is possible.

    It is so on a server, for its text alone.
    """
    learns_text = recipe.capture.signal == "none" and recipe.student.model is not None
    if recipe.teacher.server is None or not learns_text:
        return error
    return MissingError(
        f"{error}. To learn from its text alone nothing of the teacher is needed here: "
        f"set {recipe.teacher_section}.server_gives=text"
    )


def load_students_tokenizer(recipe: Recipe) -> Any:
    assert recipe.student.model is not None  # the recipe's own check
    return load.load_tokenizer(recipe.model_location(recipe.student.model), recipe.student.revision)
