"""Data sets of a hub: which of their files a source needs, and what was fetched of them.

The library keeps what it made of the files (Arrow) under <cache>/owner___name/<config>/<version>/
<commit>, and without a network takes the newest there, whatever revision was asked for. Here it is
the one of the revision.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.errors import MissingError, shown
from distill.models.hub import Repository
from distill.recipe import Recipe
from distill.recipe.sources import Source


def hub_sets(recipe: Recipe, benchmarks: Iterable[Source] = ()) -> list[tuple[str, Source]]:
    """Return the recipe's sources that are data sets of a hub, each with its field's name; each once.

    `benchmarks`: where the rows of its benchmarks are.
    """
    vocabulary = recipe.student.vocabulary
    texts = vocabulary.texts if vocabulary is not None else []
    safety = recipe.evaluate.safety
    requests = safety.prompts if safety is not None else None
    fields: list[tuple[str, Iterable[Source]]] = [
        ("generate.prompts", recipe.generate.prompts),
        ("evaluate.prompts", recipe.evaluate.prompts or []),
        ("evaluate.safety.prompts", requests or []),
        ("student.vocabulary.texts", [text.source for text in texts]),
        ("evaluate.benchmarks", benchmarks),
    ]
    found: dict[object, tuple[str, Source]] = {}
    for name, sources in fields:
        for source in sources:
            if source.dataset is not None and not source.dataset.startswith((".", "/", "~")):
                key = (source.dataset, source.config, source.split, source.revision)
                found.setdefault(key, (name, source))
    return list(found.values())


def repository(source: Source) -> Repository:
    assert source.dataset is not None
    return Repository("dataset", source.dataset, source.revision)


def paths_of(source: Source, commit: str) -> list[str]:
    """Return the files that the library reads of a hub's data set, of this commit.

    They are those of the configuration: it makes all splits of one.
    """
    import datasets

    builder = datasets.load_dataset_builder(str(source.dataset), source.config, revision=commit)
    files = builder.config.data_files or {}
    before = f"hf://datasets/{source.dataset}@{commit}/"
    return [
        str(url).removeprefix(before)
        for urls in files.values()
        for url in urls
        if str(url).startswith(before)
    ]


def fetched(source: Source) -> Any | None:
    """Return the rows of a hub's data set as they lie here; None where only the library may know.

    Raises MissingError where the source's revision is known, and not here.
    """
    from datasets import config

    assert source.dataset is not None
    commit = repository(source).cached_commit
    folders = _folders(Path(config.HF_DATASETS_CACHE), source, commit) if commit else []
    if not folders and source.revision is None:
        return None
    if not folders:
        raise MissingError(f"revision {shown(source.revision)} of it is not on this machine")
    folder = _chosen(folders)
    return _rows_in(folder, source)


def _folders(cache: Path, source: Source, commit: str) -> list[Path]:
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = str(source.dataset).rpartition("/")
    named = "___".join(part for part in (owner, camelcase_to_snakecase(name)) if part)
    configs = [path for path in (cache / named).glob("*") if path.is_dir()]
    if source.config is not None:
        configs = [path for path in configs if path.name == source.config]
    found = (path for of in configs for path in of.glob(f"*/{commit}"))
    return sorted(path for path in found if (path / "dataset_info.json").is_file())


def _chosen(folders: list[Path]) -> Path:
    """Return the folder of the default configuration, or of the only one."""
    by_config = {folder.parts[-3]: folder for folder in folders}
    if len(by_config) > 1 and "default" not in by_config:
        names = ", ".join(by_config)
        raise MissingError(
            f"there are several configurations of it here ({names}): name one by config"
        )
    return by_config.get("default") or folders[-1]


def _rows_in(folder: Path, source: Source) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    config, version, commit = folder.parts[-3:]
    builder = Cache(
        cache_dir=str(folder.parents[3]),
        dataset_name=str(source.dataset).rpartition("/")[2],
        config_name=config,
        version=version,
        hash=commit,
        repo_id=source.dataset,
    )
    builder.download_and_prepare()
    return builder.as_dataset(split=source.split or "train")
