"""What a stage of the pipeline is: a record that stands in the stage's own file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.processes import Processes
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """What one stage takes: bytes of memory (of the GPU, where there is one), seconds, bytes on disk.

    `download`: bytes of what is fetched and stays there, `traffic`: of what a server sends beside.
    """

    memory: float
    seconds: float
    disk: float = 0.0
    download: float = 0.0
    traffic: float = 0.0


def always(*names: str) -> Callable[[Recipe], Sequence[str]]:
    """Return the function of a stage that reads these earlier stages, whatever the recipe."""
    return lambda _: names


def nothing(_: Recipe) -> Sequence[str]:
    """Return that a stage reads no earlier one."""
    return ()


def never(_: Recipe) -> str | None:
    """Return that a stage has work by every recipe."""
    return None


def no_inputs(_: Recipe) -> dict[str, str]:
    """Return that nothing decides a stage's result beside the recipe's values and earlier stages."""
    return {}


def without_seed(_: Recipe) -> int:
    """Return the seed of a stage that draws nothing."""
    return 0


def by_seed(recipe: Recipe) -> int:
    """Return the seed of a stage that draws by the recipe's."""
    return recipe.seed


def any_launch(_: Recipe, __: Processes) -> None:
    """Accept that a stage works with whatever processes there are."""


@dataclass(frozen=True)
class Stage:
    """One stage: what it reads, what makes it stale, what it costs, and the function that runs it.

    `run(recipe, folder, processes)` returns None where there is no manifest to write: on every
    process but the first, and in a job that does only a part. `result` is the type of what it
    returns otherwise.

    What decides the result, beside the earlier stages that it `reads`: of the recipe's values
    `section(recipe)` and `seed(recipe)`, which ask for nothing but the recipe, and of what lies
    outside it `inputs(recipe)`, the identity of models, texts and servers.

    `cost(workload)` takes a planning.costs.Workload; None: the stage costs nothing to speak of.
    `left_out(recipe)` returns why the recipe has no such stage, None where it has.
    `check_launch(recipe, processes)` raises MismatchError where these processes cannot do it: it is
    asked before any stage works.
    """

    name: str
    summary: str
    run: Callable[[Recipe, RunFolder, Processes], StageOutput | None]
    result: type
    section: Callable[[Recipe], dict[str, Any]]
    inputs: Callable[[Recipe], dict[str, str]] = no_inputs
    seed: Callable[[Recipe], int] = without_seed
    reads: Callable[[Recipe], Sequence[str]] = nothing
    left_out: Callable[[Recipe], str | None] = never
    cost: Callable[[Any], Cost] | None = None
    check_launch: Callable[[Recipe, Processes], None] = any_launch
    shared: bool = False  # every process works on it; else the first works alone
    cheap: bool = False  # made again without asking when anything changed
    asks_teacher: bool = False  # independent jobs may divide it, and its files stay on a redo
    keeps_files: bool = False  # its files stay on a redo: it knows what of them still fits

    def fingerprint(self, recipe: Recipe) -> Fingerprint:
        """Return what decides the result beside the earlier stages.

        Raises what the finding of models and reading of files raises.
        """
        return Fingerprint(self.section(recipe), self.inputs(recipe), self.seed(recipe))
