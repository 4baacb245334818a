"""The stages in order: run what is missing, skip what is done, refuse what another recipe made.

Every question that a finished run needs answered is answered here from files alone, without torch.
"""

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill import (
    benchmark,
    capture,
    evaluate,
    gates,
    generate,
    initialize,
    plan,
    quantize,
    report,
    rounds,
    safety,
    train,
    trim,
)
from distill.core import processes, shutdown
from distill.core.disk_errors import disk_explained
from distill.core.processes import Processes
from distill.core.rank_times import RankClock
from distill.core.results import GenerateResult, ReportResult
from distill.core.run_folder import Fingerprint, Manifest, RunFolder, differences
from distill.core.stage import Stage
from distill.core.teams import in_teams
from distill.core.verification import RecordedFile, require_present, require_same_content, verifying
from distill.core.watch import watching
from distill.errors import MismatchError, RecipeError
from distill.models.find import keep_off_the_hub
from distill.recipe import Recipe, advising, in_full

PLANNED = (
    generate.STAGE,
    trim.STAGE,
    capture.STAGE,
    initialize.STAGE,
    train.STAGE,
    rounds.STAGE,
    quantize.STAGE,
    evaluate.STAGE,
    benchmark.STAGE,
    safety.STAGE,
    gates.STAGE,
    report.STAGE,
)
STAGES = (plan.stage(PLANNED), *PLANNED)


@dataclass(frozen=True)
class Result:
    """A finished run, as a notebook sees it."""

    folder: Path
    manifests: dict[str, Manifest[Any]]

    @property
    def report(self) -> Path:
        return self.folder / "report" / "report.html"

    @property
    def text(self) -> str:
        """Return the report as text: the table, and what distillation was worth."""
        return self._report.text

    @property
    def table(self) -> list[dict[str, Any]]:
        """Return the report's table: a row a model."""
        return self._report.table

    @property
    def _report(self) -> ReportResult:
        return self.manifests["report"].result

    def _repr_html_(self) -> str:
        if "report" not in self.manifests:
            return f"<p>{self.folder}</p>"
        return self._report.table_html


def run(
    recipe: Recipe,
    *,
    stages: Sequence[str] | None = None,
    redo: str | None = None,
    pipeline: Sequence[Stage] = STAGES,
) -> Result:
    """Run the recipe's stages (all, or those named) and return what is in the run folder.

    `redo`: make this stage and those after it anew. `pipeline`: the stages there are, in order.

    Raises a DistillError whose message says what to do: a changed recipe, a missing input, a full
    disk, a stop signal.
    """
    with advising(recipe):
        return _run(recipe, stages, redo, pipeline)


def _run(
    recipe: Recipe, stages: Sequence[str] | None, redo: str | None, pipeline: Sequence[Stage]
) -> Result:
    pipeline = _stages_of(recipe, pipeline, [*(stages or ()), *filter(None, [redo])])
    chosen = [stage for stage in pipeline if stages is None or stage.name in stages]
    folder = RunFolder.of(recipe)
    # asked on every rank alike, before any of them writes
    _refuse_redo(redo, chosen, recipe, folder)
    _refuse_new_inputs(redo, chosen, recipe, folder)
    _tell_of_other_recipes(pipeline, chosen, recipe, folder)
    if redo is None and _all_done(chosen, recipe, folder):
        if processes.launched_rank() == 0:
            names = ", ".join(stage.name for stage in chosen)
            print(f"{folder.path}: everything is done ({names})")
        return _result(pipeline, folder)
    only_plans = all(stage.name == "plan" for stage in chosen)
    with at_work(recipe, folder, any_number=only_plans) as running:
        if running.is_main:
            # what is only planned is not what the folder was made by
            others = [stage.name for stage in pipeline if stage not in chosen]
            if not only_plans or not any(map(folder.began, others)):
                folder.write_recipe(recipe)
            _set_aside(redo, pipeline, recipe, folder)
        running.barrier()
        run_stages(chosen, recipe, folder, running)
    return _result(pipeline, folder)


def run_stages(
    stages: Sequence[Stage], recipe: Recipe, folder: RunFolder, running: Processes
) -> None:
    """Run what is not done of these stages, in a folder that is held (`at_work`).

    Raises what `run` raises.
    """
    for stage in stages:
        # the main process's word for all: what it moved away another node may still see, and the
        # checks are made together
        if running.broadcast(folder.manifest(stage.name, stage.result) is None):
            stage.check_launch(recipe, running)
    for stage in stages:
        _run_stage(stage, recipe, folder, running)


def run_shard(recipe: Recipe, stage_name: str, shard: tuple[int, int] | None) -> None:
    """Do share `job` (from 0) of `num_jobs` of a stage that asks the teacher, and no more.

    Other launches do the other shares. None: do what nobody else has claimed, block by block. They
    may work in one run folder at once. What is made is only ever added; when all have ended, the
    stage itself (`run`) finds it, makes what is missing, and writes the manifest.

    Raises what `run` raises.
    """
    with advising(recipe):
        _run_shard(recipe, stage_name, shard)


def _run_shard(recipe: Recipe, stage_name: str, shard: tuple[int, int] | None) -> None:
    pipeline = _stages_of(recipe, STAGES, [stage_name])
    stage = next(stage for stage in pipeline if stage.name == stage_name)
    if not stage.asks_teacher:
        dividable = ", ".join(stage.name for stage in pipeline if stage.asks_teacher)
        raise RecipeError(
            f"--shard: independent jobs can divide {dividable}, and not {stage_name}, each step of "
            "which needs all of the last one: start several processes of one run instead "
            "(`accelerate launch --num_processes N distill/train.py RECIPE`)"
        )
    folder = RunFolder.of(recipe)
    _tell_of_other_recipes(pipeline, [stage], recipe, folder)
    if _all_done([stage], recipe, folder):
        print(f"{stage.name}: already done")
        return
    fingerprint = fingerprint_of(stage, recipe, folder)
    with at_work(recipe, folder, shared=True) as running:
        job, num_jobs = shard or (0, 1)
        running = replace(running, job=job, num_jobs=num_jobs, leases=shard is None)
        stage.check_launch(recipe, running)
        if running.is_main:
            folder.start(stage.name, fingerprint)
        running.barrier()
        stage.run(recipe, folder, running)
        if running.is_main:
            done = "nothing is left that no other job works on"
            if shard is not None:
                done = f"shard {job + 1}/{num_jobs} is done"
            advice = f"when all jobs are done, run `distill {stage.name} RECIPE`"
            print(f"{stage.name}: {done}; {in_full(advice, recipe)}")


@contextmanager
def at_work(
    recipe: Recipe, folder: RunFolder, *, shared: bool = False, any_number: bool = False
) -> Iterator[Processes]:
    """Join all processes of this launch and lock the run folder for them.

    `shared`: other shards may work there too. `any_number`: there may be more or fewer processes than
    the recipe's num_processes, as where one plans for all. A full disk or a stop signal is told as
    what it is.
    """
    if recipe.privacy == "local":
        keep_off_the_hub()
    with advising(recipe), shutdown.listening():
        patience = 60 * recipe.processes.patience
        launched = processes.start(None if any_number else recipe.num_processes, patience)
        try:
            # the disk within: what it did is told to the other ranks as a refusal, too
            with watching(launched, patience), disk_explained(folder.path):
                running = in_teams(launched, recipe.team_size)
                if running.is_main:
                    folder.lock(shared=shared)
                running.barrier()
                yield running
                processes.finish(running)
        finally:
            folder.unlock()


def fingerprint_of(stage: Stage, recipe: Recipe, folder: RunFolder) -> Fingerprint:
    """Return what decides the stage's result, the earlier stages that it reads among it.

    Raises MissingError, naming the command to run, if one of those is not finished.
    """
    fingerprint = stage.fingerprint(recipe)
    earlier = {name: folder.digest(name, recipe) for name in stage.reads(recipe)}
    return replace(fingerprint, inputs=fingerprint.inputs | earlier)


def _stages_of(recipe: Recipe, pipeline: Sequence[Stage], asked_for: Sequence[str]) -> list[Stage]:
    """Return the stages that the recipe has.

    Raises RecipeError where one that is asked for by name is not among them.
    """
    reasons = {stage.name: stage.left_out(recipe) for stage in pipeline}
    for name in asked_for:
        if (reason := reasons[name]) is not None:
            raise RecipeError(f"{recipe.source}: there is no stage {name} in it: {reason}")
    return [stage for stage in pipeline if reasons[stage.name] is None]


def _set_aside(
    redo: str | None, pipeline: Sequence[Stage], recipe: Recipe, folder: RunFolder
) -> None:
    """Set aside what the stage `redo` and those after it made, if what it reads is whole.

    Of a cheap one, as `plan`, its own alone: what reads that is cheap too, and is made anew by itself.
    """
    if redo is None:
        return
    number = [stage.name for stage in pipeline].index(redo)
    for file in _inputs_to_verify(pipeline[number], recipe, folder):
        require_same_content(file)
        folder.note_read(file.path)
    later = [] if pipeline[number].cheap else pipeline[number + 1 :]
    kept = []
    for stage in (pipeline[number], *later):
        keep_files = stage.asks_teacher or stage.keeps_files
        kept.append(folder.set_aside(stage.name, keep_files=keep_files))
    if names := ", ".join(path.name for path in kept if path is not None):
        print(f"--redo {redo}: what was made before is in {names}")


def _refuse_redo(
    redo: str | None, chosen: Sequence[Stage], recipe: Recipe, folder: RunFolder
) -> None:
    """Refuse a redo that could not go on once it has set aside what was made.

    Raises RecipeError where the stage would not be run, MissingError where one that it reads is not
    there and would not be made, MismatchError where one before it was made by another recipe.
    """
    if redo is None:
        return
    names = [stage.name for stage in chosen]
    if redo not in names:
        raise RecipeError(
            f"--redo {redo} sets aside what {redo} and the stages after it made, and this does not "
            f"run {redo}: run `distill run RECIPE --redo {redo}`"
        )
    for name in chosen[names.index(redo)].reads(recipe):
        if name not in names:
            folder.require(name, dict, recipe)
    _all_done(chosen[: names.index(redo)], recipe, folder)


def _tell_of_other_recipes(
    pipeline: Sequence[Stage], chosen: Sequence[Stage], recipe: Recipe, folder: RunFolder
) -> None:
    """Warn of earlier stages that are read, are not run now, and were made by another recipe.

    Who runs one stage may mean it so, as for one that needs less memory. Only the recipe and the run
    folder are compared: prompts, models and servers need not be in reach. What the recipe says of a
    chosen stage itself is no news to it.
    """
    if processes.launched_rank() != 0:
        return
    names = {stage.name for stage in pipeline}
    own_fields = tuple(f"{stage.name}." for stage in chosen)
    needed = _needed(pipeline, chosen, recipe)
    for stage in pipeline:
        if stage in chosen or stage.name not in needed:
            continue
        found = _changes_within(stage, recipe, folder, names)
        if changes := [change for change in found if not change.startswith(own_fields)]:
            print(
                f"warning: {folder.stage(stage.name)} was made by another recipe: "
                f"{'; '.join(changes[:4])}. It is read as it is",
                file=sys.stderr,
            )


def _needed(pipeline: Sequence[Stage], chosen: Sequence[Stage], recipe: Recipe) -> set[str]:
    """Return the names of the chosen stages, and of all that those read at first or second hand."""
    needed = {stage.name for stage in chosen}
    for stage in reversed(pipeline):
        if stage.name in needed:
            needed.update(stage.reads(recipe))
    return needed


def _changes_within(
    stage: Stage, recipe: Recipe, folder: RunFolder, names: Collection[str]
) -> list[str]:
    """Return what of recipe and run folder is other now than when the stage was made, if it was.

    `names`: of all stages, to tell them from its other inputs.
    """
    made_from = folder.made_from(stage.name)
    if made_from is None:
        return []
    inputs = {name: known for name, known in made_from.inputs.items() if name not in names}
    for name in stage.reads(recipe):
        manifest = folder.manifest(name, dict)
        inputs[name] = made_from.inputs.get(name, "") if manifest is None else manifest.digest
    return differences(made_from, Fingerprint(stage.section(recipe), inputs, stage.seed(recipe)))


def _refuse_new_inputs(
    redo: str | None, chosen: Sequence[Stage], recipe: Recipe, folder: RunFolder
) -> None:
    """Raise MismatchError where a stage that is there would read one that it was made without.

    It would be refused all the same, but after that one was made: hours, of rounds.
    """
    for stage in chosen:
        if stage.name == redo:
            return  # this one and those after it are made anew
        made_from = folder.made_from(stage.name)
        if made_from is None or stage.cheap:
            continue
        for name in stage.reads(recipe):
            if name not in made_from.inputs and folder.manifest(name, dict) is None:
                raise MismatchError(
                    f"{folder.stage(stage.name)} was made without {name}, which the recipe now has: "
                    f"run `distill run RECIPE --redo {stage.name}`, which makes it and what follows "
                    f"anew, after {name} (nothing that cost teacher time is deleted), or set "
                    "run_folder=PATH"
                )


def _all_done(chosen: Sequence[Stage], recipe: Recipe, folder: RunFolder) -> bool:
    """Return whether every stage is up to date.

    Raises MismatchError, before any work, where the recipe has changed.
    """
    done = True
    for stage in chosen:
        if not folder.began(stage.name):
            return False
        if changes := folder.changes(stage.name, fingerprint_of(stage, recipe, folder)):
            if stage.cheap:
                done = False  # made anew, but only if no later stage refuses the recipe
                continue
            raise MismatchError(
                f"{folder.stage(stage.name)} was made by another recipe: {'; '.join(changes[:4])}. "
                f"Set the values back, or make it anew with --redo {stage.name} (nothing that cost "
                "teacher time is deleted), or set run_folder=PATH"
            )
        if folder.manifest(stage.name, stage.result) is None:
            return False
        require_present(folder.recorded_files(stage.name))
    return done


def _run_stage(stage: Stage, recipe: Recipe, folder: RunFolder, running: Processes) -> None:
    """Run one stage unless it is done, and write its manifest last."""
    if running.broadcast(_all_done([stage], recipe, folder)):
        if running.is_main:
            print(f"{stage.name}: already done{_other_seed(stage, recipe, folder)}")
        return
    fingerprint = fingerprint_of(stage, recipe, folder)
    started, clock = time.monotonic(), RankClock()
    if running.is_main:
        print(f"{stage.name} ...", flush=True)
        folder.start(stage.name, fingerprint)
    running.barrier()
    output = None
    to_verify = _inputs_to_verify(stage, recipe, folder) if running.is_main else []
    try:
        with verifying(to_verify):
            if stage.shared or running.is_main:
                output = stage.run(recipe, folder, running)
    except BaseException:
        if running.is_main:
            folder.forget_start(stage.name)  # what is mended now need not be made anew
        raise
    for file in to_verify:
        folder.note_read(file.path)
    if running.is_main:
        assert output is not None, f"{stage.name}: no result of a whole stage"
        manifest = folder.finish(stage.name, fingerprint, output, started=started)
        print(f"{stage.name}: done in {manifest.seconds:.1f} s", flush=True)
    if running.num > 1:
        times = clock.meet(stage.name, running)
        if running.is_main:
            times.write(folder.path)
            print(f"  {times}", flush=True)


def _inputs_to_verify(stage: Stage, recipe: Recipe, folder: RunFolder) -> list[RecordedFile]:
    """Return the files of earlier stages that this process has not hashed since they last changed."""
    earlier = stage.reads(recipe)
    files = [file for name in earlier for file in folder.recorded_files(name)]
    return [file for file in files if folder.changed_since_read(file)]


def _other_seed(stage: Stage, recipe: Recipe, folder: RunFolder) -> str:
    """Return what is to be said of answers that were drawn with another seed than the recipe's."""
    if stage.name != generate.STAGE.name:
        return ""
    seed = folder.require(stage.name, GenerateResult, recipe).result.seed
    if seed == recipe.seed:
        return ""
    return f", with seed {seed}; its answers stay (generate.resample=true asks anew)"


def _result(pipeline: Sequence[Stage], folder: RunFolder) -> Result:
    manifests = {}
    for stage in pipeline:
        manifest = folder.manifest(stage.name, stage.result)
        if manifest is not None:
            manifests[stage.name] = manifest
    return Result(folder.path, manifests)
