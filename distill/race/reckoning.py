"""What a race will take: the tokens that each candidate learns, minutes, and disk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distill import train
from distill.core.run_folder import RunFolder
from distill.core.stage import Cost, Stage
from distill.data.stored_samples import read_samples, split_samples
from distill.planning import sizes
from distill.planning.costs import Workload, in_turn
from distill.planning.demands import demand_of
from distill.planning.machine import this_machine
from distill.planning.several import without_gpu
from distill.race.candidates import Candidate
from distill.race.recipes import recipe_of_candidate, vocabulary_name
from distill.race.sizes import Size
from distill.race.stages import HELD_OUT, OF_CANDIDATE, OF_VOCABULARY, Folders
from distill.race.stored import Race
from distill.recipe import Recipe
from distill.shaping.trimmed import KEPT

RACE_SECONDS = 3600.0  # of the whole race, where nobody says how many tokens
LEAST_STEPS = 10


def with_costs(recipe: Recipe, folders: Folders, race: Race, tokens: int | None) -> Race:
    """Return the race with its tokens, and what it takes."""
    reckoner = _Reckoner.of(recipe, folders, race)
    learnt = _learnt_tokens(recipe, folders.run)
    if tokens is None:
        tokens = reckoner.affordable_tokens(most=learnt * recipe.train.epochs)
    epochs = max(recipe.train.epochs, math.ceil(1.25 * tokens / max(learnt, 1)) + 1)
    return reckoner.reckoned(replace(race, tokens=tokens, epochs=epochs))


def _learnt_tokens(recipe: Recipe, folder: RunFolder) -> int:
    """Return the tokens of the samples that a candidate learns from, prompts and answers."""
    samples = read_samples(folder.stage("generate") / KEPT)
    fitting = samples.fitting(recipe.train.max_length)
    learn, _ = split_samples(fitting, recipe.train.validation_share)
    return learn.num_tokens


@dataclass(frozen=True)
class _Reckoner:
    """Reckons seconds and bytes, with the estimates of `plan`."""

    recipe: Recipe
    folders: Folders
    race: Race
    work: Workload

    @classmethod
    def of(cls, recipe: Recipe, folders: Folders, race: Race) -> "_Reckoner":
        machine = this_machine(folders.path, with_gpu=not without_gpu(recipe))
        teacher = sizes.teacher_size(recipe)
        return cls(
            recipe, folders, race, Workload(recipe, machine, teacher, teacher, demand_of(recipe))
        )

    def affordable_tokens(self, most: int) -> int:
        """Return the tokens with which the race takes about an hour, in whole steps.

        No more than `most`, what the recipe itself trains on.
        """
        step = self.recipe.train.batch_tokens
        per_step = sum(self._cost(c, [train.STAGE]).seconds for c in self.race.candidates)
        others = [stage for stage in OF_CANDIDATE if stage is not train.STAGE]
        fixed = self._shared().seconds
        fixed += sum(self._cost(c, others).seconds for c in self.race.candidates)
        steps = int((RACE_SECONDS - fixed) / per_step)
        return step * max(LEAST_STEPS, min(steps, most // step))

    def reckoned(self, race: Race) -> Race:
        """Return the race with its minutes and bytes."""
        reckoner = replace(self, race=race)
        costs = [reckoner._cost(c, OF_CANDIDATE) for c in race.candidates]
        kept = sum(candidate.size.num_bytes for candidate in race.candidates)
        return replace(
            race,
            minutes=[round(cost.seconds / 60, 2) for cost in costs],
            shared_minutes=round(reckoner._shared().seconds / 60, 2),
            kept_bytes=kept + reckoner._shared().disk,
            passing_bytes=max(cost.disk for cost in costs),
        )

    def _shared(self) -> Cost:
        """Return what is made once for several candidates."""
        costs = [self._cost(self.race.candidates[0], [HELD_OUT])]
        names = {}
        for candidate in self.race.candidates:
            names.setdefault(vocabulary_name(candidate.values, self.recipe), candidate)
        costs += [self._cost(candidate, OF_VOCABULARY) for candidate in names.values()]
        return in_turn(costs)

    def _cost(self, candidate: Candidate, stages: Sequence[Stage]) -> Cost:
        """Return what the stages take of a candidate."""
        recipe = recipe_of_candidate(
            self.recipe, self.folders, candidate.name, candidate.values, self.race
        )
        work = replace(self.work, recipe=recipe, student=_planned(candidate.size))
        left = [s for s in stages if s.left_out(recipe) is None and s.cost is not None]
        return in_turn([stage.cost(work) for stage in left if stage.cost is not None])


def _planned(size: Size) -> sizes.Size:
    return sizes.Size(size.parameters, size.layers, size.hidden, size.vocabulary, size.hidden, True)
