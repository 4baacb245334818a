"""Which students the race compares: each is a set of values of the recipe's section `student`.

A cut is solved from the sizes of the tensors, so that it takes no more than the budget asks for.
What cannot be, or does not fit, is left out, and why is said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from distill.catalog import catalog
from distill.catalog.facts import ModelFacts
from distill.race.sizes import (
    LEAST_LAYERS,
    WIDTH_STEP,
    Budget,
    Fits,
    Outline,
    Size,
    expert_counts,
    most_experts,
    most_layers,
    widest,
)
from distill.recipe.sections import Student
from distill.shaping.layers import num_kept_of

# what a candidate decides: all else in the section is the recipe's
DECIDED = (
    "method",
    "model",
    "revision",
    "licence",
    "layer_share",
    "layers_by",
    "ffn_width",
    "num_experts",
    "vocabulary",
)
# the criterion of the layers where the feed-forward is cut, too: after training it was as good as nll
BOTH_BY = Student.model_fields["layers_by"].default
Values = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A student in the race. `values`: of the section `student`, every field that is DECIDED."""

    name: str
    values: Values
    size: Size


@dataclass(frozen=True)
class LeftOut:
    """A student that is not in the race, and why.

    `size`: where that is why. `missing`: the model that is not on this machine, where that is why.
    """

    name: str
    reason: str
    size: Size | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Source:
    """A model that candidates are cut from.

    `values`: of the section `student`, without any cut. `whole`, `trimmed`: its outline with its own
    vocabulary and with the trimmed one; None where there is none.
    """

    values: Values
    whole: Outline
    trimmed: Outline | None
    name: str = ""  # of another model than the recipe's


@dataclass(frozen=True)
class Field:
    """What the candidates are listed from. `vocabulary`: how it is trimmed."""

    student: Student
    source: Source
    bases: Sequence[Source]
    vocabulary: Values
    budget: Budget
    format: str
    left_out: list[LeftOut] = field(default_factory=list)

    def candidates(self) -> list[Candidate]:
        """Return the candidates, each once, the recipe's own student first.

        It is there whether it fits or not; the others fit. What does not is added to `left_out`.
        """
        made: dict[str, Candidate] = {}
        for candidate in self._listed():
            made.setdefault(candidate.name, candidate)
        self.left_out[:] = [out for out in self.left_out if out.name not in made]
        return list(made.values())

    def _listed(self) -> Iterator[Candidate]:
        yield self._candidate(self.source, decided(self.student), self._own_outline())
        for source in (*self.bases, self.source):
            yield from self._from(source, source.values, source.whole, trims=False)
            if source.trimmed is not None:
                values = source.values | {"vocabulary": self.vocabulary}
                yield from self._from(source, values, source.trimmed, trims=True)

    def _from(
        self, source: Source, values: Values, outline: Outline, *, trims: bool
    ) -> Iterator[Candidate]:
        """Yield what of a model fits: itself, or what it can be cut to."""
        if self._fits(outline):
            yield self._candidate(source, values, outline)
            return
        self._leave_out(name_of(source, values), outline)
        if source.name or values["method"] == "random":  # what is not cut
            return
        yield from self._by_layers(source, values, outline)
        yield from self._by_width(source, values, outline)
        if trims:
            yield from self._by_both(source, values, outline)

    def _by_layers(self, source: Source, values: Values, outline: Outline) -> Iterator[Candidate]:
        name, kept = name_of(source, values), most_layers(outline, self._fits)
        if kept is None:
            self._leave_out(f"{name} cut by layers", outline.with_layers(LEAST_LAYERS))
            return
        for criterion in criteria():
            cut = values | _layer_values(outline, kept, criterion)
            yield self._candidate(source, cut, outline.with_layers(kept))

    def _by_width(self, source: Source, values: Values, outline: Outline) -> Iterator[Candidate]:
        narrow = _narrowed(outline, self._fits)
        if narrow is None:
            self._leave_out(f"{name_of(source, values)} cut in width", _narrowest(outline))
            return
        yield self._candidate(source, values | narrow.values, narrow.outline)

    def _by_both(self, source: Source, values: Values, outline: Outline) -> Iterator[Candidate]:
        """Yield the student that gives half of what is too much in layers, the rest in width."""
        use = self.budget.use(outline.size(self.format))
        kept = most_layers(outline, lambda cut: self._use(cut) <= (use + 1) / 2)
        if kept is None:
            return
        fewer = outline.with_layers(kept)
        narrow = _narrowed(fewer, self._fits)
        if narrow is None or self._fits(fewer):
            return
        cut = values | _layer_values(outline, kept, BOTH_BY) | narrow.values
        yield self._candidate(source, cut, narrow.outline)

    def _candidate(self, source: Source, values: Values, outline: Outline) -> Candidate:
        return Candidate(name_of(source, values), dict(values), outline.size(self.format))

    def _own_outline(self) -> Outline:
        """Return the outline of the recipe's own student."""
        student = self.student
        outline = self.source.whole
        if student.vocabulary is not None and self.source.trimmed is not None:
            outline = self.source.trimmed
        if student.method == "layers":
            kept = num_kept_of(outline.num_layers, student.layer_share)
            outline = outline.with_layers(kept)
        if student.num_experts is not None and outline.num_experts:
            outline = outline.with_experts(min(student.num_experts, outline.num_experts))
        width = student.ffn_width
        return outline if width is None else outline.with_width(width)

    def _use(self, outline: Outline) -> float:
        return self.budget.use(outline.size(self.format))

    def _fits(self, outline: Outline) -> bool:
        return self._use(outline) <= 1

    def _leave_out(self, name: str, outline: Outline) -> None:
        size = outline.size(self.format)
        self.left_out.append(LeftOut(name, f"{size}: beyond {self.budget}", size))


@dataclass(frozen=True)
class Narrowed:
    """A model cut in width: a dense one in its feed-forward, a mixture in the number of experts."""

    values: Values
    outline: Outline


def _narrowed(outline: Outline, fits: Fits) -> Narrowed | None:
    """Return the widest cut that fits; None where none does."""
    if outline.num_experts:
        experts = most_experts(outline, fits)
        if experts is None:
            return None
        return Narrowed({"num_experts": experts}, outline.with_experts(experts))
    width = widest(outline, fits)
    if width is None:
        return None
    return Narrowed({"ffn_width": width}, outline.with_width(width))


def _narrowest(outline: Outline) -> Outline:
    """Return the outline with the narrowest cut that a race makes."""
    if outline.num_experts:
        return outline.with_experts(min([*expert_counts(outline), outline.num_experts]))
    return outline.with_width(WIDTH_STEP)


def criteria() -> tuple[str, ...]:
    """Return the criteria by which layers can be chosen."""
    return get_args(Student.model_fields["layers_by"].annotation)


def decided(student: Student) -> Values:
    """Return what a candidate decides, as the section has it."""
    values = student.model_dump(mode="json")
    return {name: values[name] for name in DECIDED}


def uncut(student: Student) -> Values:
    """Return the values of the same model whole."""
    fields = Student.model_fields
    cuts = ("layer_share", "layers_by", "ffn_width", "num_experts", "vocabulary")
    whole = {name: fields[name].default for name in cuts}
    if student.method != "random":
        whole["method"] = "base"
    return decided(student) | whole


def _layer_values(outline: Outline, num_kept: int, criterion: str) -> Values:
    share = share_of(num_kept, outline.num_layers)
    return {"method": "layers", "layer_share": share, "layers_by": criterion}


def share_of(num_kept: int, num_layers: int) -> float:
    """Return the shortest share by which so many layers are kept."""
    for digits in range(1, 8):
        share = round(num_kept / num_layers, digits)
        if 0 < share <= 1 and num_kept_of(num_layers, share) == num_kept:
            return share
    raise AssertionError(f"{num_kept} of {num_layers}")


def name_of(source: Source, values: Mapping[str, Any]) -> str:
    """Return the name of a candidate, and of its folder: what is done to which model."""
    parts = [source.name] if source.name else []
    if values["method"] == "random":
        parts.append("random")
    if values["vocabulary"] is not None:
        parts.append("trimmed")
    if values["method"] == "layers":
        kept = num_kept_of(source.whole.num_layers, values["layer_share"])
        parts.append(f"{values['layers_by']}{kept}")
    if values["ffn_width"] is not None:
        parts.append(f"ffn{values['ffn_width']}")
    if values["num_experts"] is not None:
        parts.append(f"experts{values['num_experts']}")
    return "+".join(parts) or "whole"


def smaller_bases(model_id: str | None) -> list[ModelFacts]:
    """Return the smaller models of the same family and tokens that the catalogue knows.

    The largest first. None where it does not know the model.
    """
    model = catalog.find(model_id or "")
    if model is None or model.group is None or model.params is None:
        return []
    return sorted(
        (
            other
            for other in catalog.teachers()
            if other.family == model.family
            and other.group == model.group
            and other.active is None
            and other.params is not None
            and other.params < model.params
        ),
        key=lambda other: -(other.params or 0),
    )


def base_values(student: Student, model: ModelFacts) -> Values:
    """Return the values of a student that begins as another model of the catalogue."""
    return uncut(student) | {"model": model.id, "revision": None, "licence": None}
