"""fetch: bring what a recipe needs of a hub to this machine, so that it runs without a network.

Models at their revisions, tokenizers and data sets, and of each only the files that are read. It is
for the login node of a cluster, and the one command that asks a hub whatever `privacy` says: it
sends the names of models and data sets, and nothing of the recipe's own.
"""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.benchmarks.reading import all_places
from distill.core.progress import Progress
from distill.data import sources
from distill.data.hub_sets import hub_sets, paths_of, repository
from distill.errors import DataError, MismatchError, MissingError
from distill.models import hub
from distill.models.find import patterns
from distill.models.hub import Listing, Repository
from distill.recipe import Recipe, advising
from distill.recipe.sources import Source

MB = 10**6


@dataclass(frozen=True)
class Wanted:
    """What is read of a model: its weights too, or code of its own?"""

    weights: bool
    code: bool

    def __or__(self, other: "Wanted") -> "Wanted":
        return Wanted(self.weights or other.weights, self.code or other.code)


def run(recipe: Recipe, *, only_plan: bool = False) -> None:
    """Bring the files of a recipe's models and data sets; `only_plan`: say what and how much.

    Raises MissingError for what the hub does not give, DataError where the disk is too small or
    what came is not what the hub lists. What has come stays: the same command goes on.
    """
    with advising(recipe):
        _require_network()
        models, sets = wanted_models(recipe), hub_sets(recipe, all_places(recipe))
        if not models and not sets:
            print("nothing to fetch: no model and no data set of the recipe is a hub's")
            return
        found = [_listed_model(one, wanted) for one, wanted in models.items()]
        num_models = len(found)
        found += [_listed_set(recipe, name, source) for name, source in sets]
        print(text(found))
        if only_plan:
            return
        _require_room(found)
        _bring(found)
        for model in found[:num_models]:
            hub.link(model)
        for data_set in found[num_models:]:
            hub.refer(data_set)
        for name, source in sets:
            sources.prepare(recipe, name, source)
        print("all is here and compared with the hub's hashes: set HF_HUB_OFFLINE=1 for the run")


def _require_network() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise MismatchError(
            "fetch asks the hub, and HF_HUB_OFFLINE forbids that: put HF_HUB_OFFLINE=0 before the "
            "command, where there is a network"
        )


def wanted_models(recipe: Recipe) -> dict[Repository, Wanted]:
    """Return the models of the recipe that are a hub's, and what is read of each."""
    wanted: dict[Repository, Wanted] = {}

    def add(model: str, revision: str | None, what: Wanted) -> None:
        if not Path(recipe.model_location(model)).is_dir():
            one = Repository("model", model, revision)
            wanted[one] = wanted.get(one, Wanted(False, False)) | what

    for view in recipe.views:
        teacher = view.teacher
        if not teacher.text_only:
            add(
                teacher.model,
                teacher.revision,
                Wanted(_brings_weights(view), teacher.trust_remote_code),
            )
    if recipe.student.model is not None:
        add(recipe.student.model, recipe.student.revision, Wanted(True, False))
    return wanted


def _brings_weights(view: Recipe) -> bool:
    """Return whether the run loads the teacher's weights.

    Of several teachers those on a server mostly give text alone: their tokenizers differ.
    """
    return view.loads_teacher and not (view.route and view.teacher.server is not None)


def _listed_model(one: Repository, wanted: Wanted) -> Listing:
    from huggingface_hub.utils import filter_repo_objects

    everything = hub.listing(one)
    allowed, ignored = patterns(weights=wanted.weights, code=wanted.code)
    paths = [file.path for file in everything.files]
    chosen = list(filter_repo_objects(paths, allow_patterns=allowed, ignore_patterns=ignored))
    if "config.json" not in chosen:
        raise MissingError(f"{one}: no config.json in it: it is no model that transformers loads")
    if wanted.weights and not any(path.endswith(".safetensors") for path in chosen):
        raise MissingError(
            f"{one}: no *.safetensors in it; other weight files can run code and are not read: "
            "name a revision or a copy that has them, or convert it"
        )
    return everything.only(chosen)


def _listed_set(recipe: Recipe, name: str, source: Source) -> Listing:
    from datasets import config

    from distill.data.sources import unloadable

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # that would ask another server than the hub
    everything = hub.listing(repository(source))
    try:
        paths = paths_of(source, everything.commit)
    except Exception as error:  # of any library's kind
        raise unloadable(recipe, name, source, error) from None
    return everything.only(paths)


def text(found: Sequence[Listing]) -> str:
    """Return what is to be fetched, from where, into which folder: a line each, and the sum."""
    from huggingface_hub import constants

    lines = [f"from {constants.ENDPOINT} into {constants.HF_HUB_CACHE}:"]
    for one in found:
        at = f"{one.repository.revision or 'main'} = {one.commit[:12]}"
        lines.append(
            f"  {one.repository} ({at}): {len(one.files)} files, {_megabytes(one.size)}, "
            f"of which {_megabytes(one.size - one.missing)} are here"
        )
    missing = sum(one.missing for one in _each_once(found))
    lines.append(f"to fetch: {_megabytes(missing)}; free there: {_megabytes(_free())}")
    return "\n".join(lines)


def _each_once(found: Sequence[Listing]) -> list[Listing]:
    """Return the same without files whose content one before has, too.

    Another split or revision of it, or two files of one content: the cache holds that once, and two
    downloads of it would write into one file.
    """
    before: set[Path] = set()
    once = []
    for one in found:
        first = {one.blob(file): file.path for file in reversed(one.files)}
        once.append(one.only(path for blob, path in first.items() if blob not in before))
        before |= first.keys()
    return once


def _megabytes(size: int) -> str:
    return f"{size / MB:,.1f} MB"


def _free() -> int:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _require_room(found: Sequence[Listing]) -> None:
    from huggingface_hub import constants

    missing = sum(one.missing for one in _each_once(found))
    free = _free()
    if missing > free:
        raise DataError(
            f"{constants.HF_HUB_CACHE}: {_megabytes(missing)} are to be fetched, {_megabytes(free)} are "
            "free there; free space, or set HF_HOME to a folder on another disk"
        )


def _bring(found: Sequence[Listing]) -> None:
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours counts all files together
    once = _each_once(found)
    size = sum(one.size for one in once)
    done = size - sum(one.missing for one in once)
    with Progress("fetch", size // MB, "MB", done=done // MB) as bar:
        counter = _Counter(bar, done)
        for one in once:
            bar.say(str(one.repository))
            hub.bring(one, counter.advance, _say)


class _Counter:
    """Counts the bytes of several threads, and moves a bar of megabytes."""

    def __init__(self, bar: Progress, done: int):
        self._bar, self._done, self._lock = bar, done, threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            before = self._done // MB
            self._done += count
            if moved := self._done // MB - before:
                self._bar.advance(moved)


def _say(news: str) -> None:
    print(f"  fetch: {news}", flush=True)
