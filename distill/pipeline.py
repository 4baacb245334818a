"""The stages in order: run what is missing, skip what is done, refuse what was made by another recipe.

Every question that a finished run needs answered is answered here from files alone, without torch.
"""

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.core import processes, shutdown
from distill.core.processes import Processes
from distill.core.run_folder import Manifest, RunFolder, StageOutput, disk_explained
from distill.data import sources
from distill.errors import MismatchError
from distill.models.find import identity
from distill.models.load import teacher_identity
from distill.recipe import STAGES, Recipe

SHARED = (
    "generate",
    "capture",
    "train",
)  # every process works on these; on the others the first works alone
CHEAP = ("plan", "report")  # made again without asking when anything changed

READS = {
    "plan": (),
    "generate": (),
    "capture": ("generate",),
    "initialize": (),
    "train": ("generate", "capture", "initialize"),
    "quantize": ("generate", "train"),
    "evaluate": ("train", "quantize"),
    "report": ("plan", "generate", "capture", "initialize", "train", "quantize", "evaluate"),
}


@dataclass(frozen=True)
class Needs:
    """What decides a stage's result: its resolved section, the identity of its inputs, the seed."""

    section: dict[str, Any]
    inputs: dict[str, str]
    seed: int


def needs(stage: str, recipe: Recipe, folder: RunFolder) -> Needs:
    """MissingError (naming the command to run) if an earlier stage that it reads is not finished."""
    section: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    if stage in ("generate", "capture", "evaluate", "plan"):
        section["teacher"] = recipe.teacher.identity()
        inputs["teacher"] = teacher_identity(recipe)
    if stage in ("generate", "evaluate", "plan"):
        section |= {"languages": recipe.languages, "generate": recipe.generate.identity()}
        section["teacher"]["server_model"] = recipe.teacher.served_name  # perhaps another model
        section["evaluate"] = recipe.evaluate.identity()
        if recipe.capture.from_server:
            section["capture"] = recipe.capture.identity()
        inputs["generate.prompts"] = sources.identity(
            recipe, "generate.prompts", recipe.generate.prompts
        )
        if recipe.evaluate.prompts:
            inputs["evaluate.prompts"] = sources.identity(
                recipe, "evaluate.prompts", recipe.evaluate.prompts
            )
    if stage in ("initialize", "plan"):
        section["student"] = recipe.student.identity()
        source = recipe.student.model or recipe.teacher.model
        inputs["student"] = identity(recipe.model_location(source), recipe.student.revision)
    if stage == "plan":
        section = recipe.identity()
    if stage in ("capture", "train", "quantize", "report"):
        section[stage] = getattr(recipe, stage).identity()
    for earlier in READS[stage]:
        inputs[earlier] = folder.require(earlier, recipe).digest
    seeded = stage in ("initialize", "train") or (stage == "generate" and recipe.generate.resample)
    return Needs(section, inputs, recipe.seed if seeded else 0)


@dataclass(frozen=True)
class Result:
    """A finished run, as a notebook sees it."""

    folder: Path
    manifests: dict[str, Manifest]

    @property
    def report(self) -> Path:
        return self.folder / "report" / "report.html"

    @property
    def table(self) -> list[dict[str, Any]]:
        """The report's table: a row a model."""
        return self.manifests["report"].result["table"]

    def _repr_html_(self) -> str:
        return (
            self.manifests["report"].result["table_html"]
            if "report" in self.manifests
            else f"<p>{self.folder}</p>"
        )


def run(recipe: Recipe, *, stages: Sequence[str] | None = None, redo: str | None = None) -> Result:
    """Run the recipe's stages (all, or those named) and return what is in the run folder.

    Raises a DistillError whose message says what to do: a changed recipe, a missing input, a full disk, a stop signal.
    """
    chosen = [s for s in STAGES if stages is None or s in stages]
    folder = RunFolder.of(recipe)
    if redo is None and _all_done(
        chosen, recipe, folder
    ):  # on every rank alike, before any of them writes
        if processes.launched_rank() == 0:
            print(f"{folder.path}: everything is done ({', '.join(chosen)})")
        return _result(folder)
    with at_work(recipe, folder) as team:
        if team.is_main:
            folder.write_recipe(recipe)
            for stage in STAGES[STAGES.index(redo) :] if redo else ():
                folder.set_aside(stage)
        team.barrier()
        for stage in chosen:
            _run_stage(stage, recipe, folder, team)
    return _result(folder)


def run_shard(recipe: Recipe, stage: str, shard: tuple[int, int] | None) -> None:
    """Do share `job` (from 0) of `num_jobs` of generate or capture, and no more: other launches do the others. None: do what
    nobody else has claimed, block by block.

    They may work in one run folder at once. What is made is only ever added; when all have ended, the stage itself
    (`run`) finds it, makes what is missing, and writes the manifest. Raises what `run` raises.
    """
    folder = RunFolder.of(recipe)
    if _all_done([stage], recipe, folder):
        print(f"{stage}: already done")
        return
    wanted = needs(stage, recipe, folder)
    with at_work(recipe, folder, shared=True) as whole:
        job, num_jobs = shard or (0, 1)
        team = replace(whole, job=job, num_jobs=num_jobs, leases=shard is None)
        if team.is_main:
            folder.start(stage, section=wanted.section, inputs=wanted.inputs, seed=wanted.seed)
        team.barrier()
        importlib.import_module(f"distill.{stage}").run(recipe, folder, team)
        if team.is_main:
            what = (
                f"shard {job + 1}/{num_jobs} is done"
                if shard
                else "nothing is left that no other job works on"
            )
            print(f"{stage}: {what}; when all jobs are done, run `distill {stage} {recipe.source}`")


@contextmanager
def at_work(recipe: Recipe, folder: RunFolder, *, shared: bool = False) -> Iterator[Processes]:
    """All processes of this launch, the run folder locked for them (`shared`: they bear other shards), and a full disk or a stop
    signal told as what it is."""
    with shutdown.listening(), disk_explained(folder):
        team = processes.start(recipe.num_processes)
        try:
            if team.is_main:
                folder.lock(shared=shared)
                folder.note_old_name(recipe)
            team.barrier()
            yield team
            processes.finish(team)
        finally:
            folder.unlock()


def _all_done(chosen: Sequence[str], recipe: Recipe, folder: RunFolder) -> bool:
    """Whether every stage is up to date; raises MismatchError (before any work) where the recipe has changed."""
    done = True
    for stage in chosen:
        if not folder.began(stage):
            return False
        if changes := _changes(stage, recipe, folder):
            if stage in CHEAP:
                done = False  # made anew, but only if no later stage refuses the recipe
                continue
            raise MismatchError(
                f"{folder.stage(stage)} was made by another recipe: {'; '.join(changes[:4])}. Set the values back, or "
                f"make it anew with --redo {stage} (nothing that cost teacher time is deleted), or set run_folder=PATH"
            )
        if folder.manifest(stage) is None:
            return False
    return done


def _changes(stage: str, recipe: Recipe, folder: RunFolder) -> list[str]:
    wanted = needs(stage, recipe, folder)
    return folder.changes(stage, section=wanted.section, inputs=wanted.inputs, seed=wanted.seed)


def _other_seed(stage: str, recipe: Recipe, folder: RunFolder) -> str:
    manifest = folder.manifest(stage)
    if (
        stage != "generate"
        or manifest is None
        or manifest.result.get("seed") in (None, recipe.seed)
    ):
        return ""
    return f", with seed {manifest.result['seed']}; its answers stay (generate.resample=true asks anew)"


def _run_stage(stage: str, recipe: Recipe, folder: RunFolder, team: Processes) -> None:
    """Run one stage unless it is done, and write its manifest last."""
    if team.broadcast(_all_done([stage], recipe, folder)):
        if team.is_main:
            print(f"{stage}: already done{_other_seed(stage, recipe, folder)}")
        return
    wanted = needs(stage, recipe, folder)
    started = time.time()
    if team.is_main:
        print(f"{stage} ...", flush=True)
        folder.start(stage, section=wanted.section, inputs=wanted.inputs, seed=wanted.seed)
    team.barrier()
    module = importlib.import_module(f"distill.{stage}")
    output = StageOutput({}, [])
    if stage in SHARED:
        output = module.run(recipe, folder, team)
    elif team.is_main:
        output = module.run(recipe, folder)
    if team.is_main:
        manifest = folder.finish(
            stage,
            section=wanted.section,
            inputs=wanted.inputs,
            seed=wanted.seed,
            result=output.result,
            files=output.files,
            started=started,
        )
        print(f"{stage}: done in {manifest.seconds:.1f} s", flush=True)
    team.barrier()


def _result(folder: RunFolder) -> Result:
    manifests = {stage: m for stage in STAGES if (m := folder.manifest(stage)) is not None}
    return Result(folder.path, manifests)
