"""The recipe: two nouns, and a section for each stage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distill.errors import MissingError, RecipeError, shown
from distill.recipe.paths import PathText, absolute
from distill.recipe.rules import RULES
from distill.recipe.rules_of_several import RULES_OF_SEVERAL
from distill.recipe.schema import Section, field
from distill.recipe.sections import (
    Capture,
    Evaluate,
    Generate,
    Launch,
    Quantize,
    Report,
    Rounds,
    RoutedTeacher,
    Student,
    Teacher,
    Train,
)

GGUF_MAGIC = b"GGUF"


class Recipe(Section):
    """From a teacher to a deployed student."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = field(
        ..., "Name of the run and of its folder under runs/"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = field(0, "Everything random follows from it")
    languages: list[str] = field(..., "Codes such as en, zh, sw: answers in others are dropped")
    run_folder: PathText | None = field(
        None, "Where the run lives; null = runs/<name>", machine=True
    )
    num_processes: PositiveInt | None = field(
        None, "Refuse to start with another number of processes; null = any", machine=True
    )
    processes: Launch = field(Launch(), "The processes of one launch", machine=True, is_newer=True)
    privacy: Literal["open", "local", "redact"] = field(
        "open",
        "What a teacher or judge on a server may be sent: open = the prompts as they are; local = "
        "nothing leaves this machine and its own network (nor is the hub asked); redact = e-mail "
        "addresses, telephone, card, bank and id numbers are replaced before sending, and put back "
        "in the answers",
        is_newer=True,
    )
    licence_accepted: Annotated[str, Field(pattern=r"\S", max_length=2000)] | None = field(
        None,
        "Why you may do what a licence forbids (a permission of your own, say): without it such a "
        "run stops in `plan`; the model card shows it word for word",
        is_newer=True,
    )
    teacher: Teacher
    teachers: Annotated[list[RoutedTeacher], Field(min_length=1)] | None = field(
        None,
        "In place of `teacher`: several, each with the prompts that it answers; one is loaded at a "
        "time. null = the one of `teacher`",
        is_newer=True,
    )
    student: Student
    generate: Generate
    capture: Capture = Capture()
    train: Train = Train()
    rounds: Rounds | None = field(
        None,
        "Go on after `train` with the student's own answers; null = no",
        is_newer=True,
    )
    quantize: Quantize = Quantize()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()

    _source: Path = PrivateAttr(default=Path("recipe"))
    _origin: Path | None = PrivateAttr(default=None)
    _overrides: tuple[str, ...] | None = PrivateAttr(default=None)
    _whole: "Recipe | None" = PrivateAttr(default=None)

    @classmethod
    def from_values(
        cls,
        values: dict[str, Any],
        source: Path,
        *,
        origin: Path | None = None,
        overrides: Sequence[str] | None = None,
    ) -> Self:
        """Return the recipe of these values, read from the file `source`.

        `origin`: see the property; None = `source`. `overrides`: those of the command line that
        are in the values already; None where no command line makes this recipe.

        Raises pydantic's ValidationError with every problem.
        """
        recipe = cls.model_validate(values)
        recipe._source = source
        recipe._origin = origin
        recipe._overrides = None if overrides is None else tuple(overrides)
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _has_teacher_or_teachers(cls, values: Any) -> Any:
        """Let `teacher` be missing where there are `teachers`: it is then the leading one of them."""
        if not isinstance(values, dict) or values.get("teachers") is None:
            return values
        if values.get("teacher") is not None:
            raise ValueError(
                "teacher and teachers: give one of them (a field of one of several is set as "
                "teachers.NAME.field)"
            )
        return {**values, "teacher": Teacher(model="one of teachers")}

    @model_validator(mode="after")
    def _sections_go_together(self) -> Self:
        if self.teachers is None:
            for rule in RULES:
                rule(self)
            return self
        for rule_of_several in RULES_OF_SEVERAL:
            rule_of_several(self)
        object.__setattr__(self, "teacher", self._leading(self.teachers))  # it is frozen
        for view in self.views:
            for rule in RULES:
                _named(view, rule)
        return self

    def _leading(self, teachers: Sequence[RoutedTeacher]) -> RoutedTeacher:
        """Return the first that gives more than text, else the first: a new student has its tokens."""
        return next((t for t in teachers if not (t.gives or t.text_only)), teachers[0])

    @model_serializer(mode="wrap")
    def _without_the_leading_teacher(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = write(self)
        if self.teachers is not None:
            values.pop("teacher", None)
        return values

    @property
    def views(self) -> list["Recipe"]:
        """Return for each of several teachers the recipe as if it were the only one.

        One that gives text alone has no signal there. Of one teacher: the recipe itself.
        """
        if self.teachers is None:
            return [self]
        switch = self.generate.enable_thinking
        return [
            self.view_of(t, text=bool(t.gives or t.text_only), enable_thinking=switch)
            for t in self.teachers
        ]

    def view_of(
        self, teacher: Teacher, *, text: bool, enable_thinking: bool | None = None
    ) -> "Recipe":
        """Return the recipe as if this were its only teacher.

        `text`: it gives no signal. `enable_thinking`: None where its template has no such switch.
        """
        changes: dict[str, Any] = {"teacher": teacher, "teachers": None}
        if isinstance(teacher, RoutedTeacher):
            asked = {**teacher.asks_for, "enable_thinking": enable_thinking}
            changes["generate"] = self.generate.model_copy(update=asked)
        if text and self.capture.signal != "none":
            changes["capture"] = Capture(signal="none")
            learning = {"soft_weight": 0.0, "hard_weight": 1.0, "hidden_weight": 0.0}
            changes["train"] = self.train.model_copy(update=learning)
        view = self.model_copy(update=changes)
        view._whole = self
        return view

    @property
    def teacher_section(self) -> str:
        """Return where the teacher's fields are set: `teacher`, or `teachers.NAME` of one of several."""
        return f"teachers.{self.route}" if self.route else "teacher"

    @property
    def teachers_named(self) -> str:
        """Return the teacher's model; of several each one's, once."""
        return ", ".join(dict.fromkeys(view.teacher.model for view in self.views))

    @property
    def whole(self) -> "Recipe":
        """Return the recipe that this one is a teacher's view of; itself, if it is none."""
        return self._whole or self

    @property
    def route(self) -> str:
        """Return the name of the teacher whose view this is; "" where there is only one."""
        return self.teacher.name if self._whole and isinstance(self.teacher, RoutedTeacher) else ""

    @property
    def learns(self) -> Literal["outputs", "logits"]:
        """Return what the student learns of the teacher, as licences tell it apart."""
        return "outputs" if self.capture.signal == "none" else "logits"

    @property
    def source(self) -> Path:
        """Return the file that the recipe was read from."""
        return self._source

    @property
    def origin(self) -> Path:
        """Return the file whose folder paths are relative to.

        It is the source, but for a run folder's recipe: that one was resolved from another.
        """
        return self._origin or self._source

    @property
    def typed(self) -> tuple[str, ...] | None:
        """Return the words of a command line that name this recipe: its file, then its overrides.

        None if it was made in Python.
        """
        return None if self._overrides is None else (str(self._source), *self._overrides)

    def path(self, value: str) -> Path:
        """Return the absolute path of one that the recipe gives, relative to its origin's folder.

        Raises RecipeError where there can be none.
        """
        try:
            return absolute(self.origin.parent, value)
        except ValueError as error:
            raise RecipeError(f"{self._source}: {error}") from None

    def existing_file(self, name: str, value: str) -> Path:
        """Return the path of the file that the field `name` gives.

        Raises MissingError if it is not there.
        """
        path = self.path(value)
        if not path.is_file():
            raise MissingError(f"{self._source}: {name}: {shown(value)}: no such file ({path})")
        return path

    @property
    def loads_teacher(self) -> bool:
        """Return whether the teacher's own weights are loaded here: to answer, or for the signal."""
        captures = self.capture.signal != "none" and not self.capture.from_server
        is_here = self.teacher.server is None or captures
        return self.teacher.gguf is None and is_here

    @property
    def team_size(self) -> int:
        """Return how many processes hold a teacher together; 1 where none is loaded, or each holds it."""
        return max((v.teacher.num_parts for v in self.views if v.loads_teacher), default=1)

    @property
    def gguf_teacher(self) -> Path | None:
        """Return the file of teacher.gguf.

        Raises MissingError if it is not there, and RecipeError if it is another kind of file.
        """
        if not self.teacher.gguf:
            return None
        path = self.existing_file("teacher.gguf", self.teacher.gguf)
        if not _begins_with(path, GGUF_MAGIC):
            raise RecipeError(
                f"{self._source}: teacher.gguf: {path}: not a GGUF file (it does not begin with "
                "GGUF); name one, or remove teacher.gguf to load teacher.model"
            )
        return path

    def model_location(self, value: str) -> str:
        """Return an absolute folder for `./x`, `/x` and `~/x`, else the hub id as it is.

        Raises MissingError if no model is in the folder.
        """
        if not value.startswith((".", "/", "~")):
            return value
        folder = self.path(value)
        if not (folder / "config.json").is_file():
            raise MissingError(
                f"{self._source}: model {shown(value)}: no config.json in {folder}; "
                "give a model folder or a hub id"
            )
        return str(folder)


def _named(view: Recipe, rule: Callable[[Recipe], None]) -> None:
    """Check one teacher's view by a rule; its error says whose it is."""
    try:
        rule(view)
    except ValueError as error:
        raise ValueError(f"teachers: {view.route}: {error}") from None


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(len(magic)) == magic
    except OSError:
        return False
