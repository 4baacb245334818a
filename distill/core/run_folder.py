"""The run folder: a folder a stage, each with a manifest that is written last.

If `manifest.json` is there, the stage is done. It holds the resolved section, the identity of every input, versions,
counts, files with size and SHA-256, and times. Stages meet only here.
"""

import errno
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from distill.core.jsonl import (
    canonical_json,
    digest,
    file_sha256,
    fsync_folder,
    row_of,
    write_atomic,
)
from distill.errors import DataError, DistillError, MismatchError, MissingError
from distill.recipe import Recipe, to_yaml
from distill.recipe.sections import FOLDERS, served_name

OLD_ROWS = "old_rows.json"  # in generate's folder: the model's name on the server for answers that do not say theirs
PACKAGES = (
    "distill",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "gguf",
    "xllamacpp",
    "numpy",
)


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says about itself; `result` is the stage's own."""

    stage: str
    section: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    result: dict[str, Any]
    files: dict[str, dict[str, Any]]
    seconds: float
    finished: str
    machine: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identity of what the stage made: its files. Times and machines do not count."""
        return digest(canonical_json({name: f["sha256"] for name, f in self.files.items()}))


@dataclass(frozen=True)
class StageOutput:
    """What a stage hands to the pipeline, which writes the manifest: its own results, and the files it stands for."""

    result: dict[str, Any]
    files: list[Path]


class RunFolder:
    """`runs/<name>/`: `folder.stage("train")`, `folder.manifest("train")`, `folder.finish(...)`."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "RunFolder":
        place = recipe.run_folder or f"runs/{recipe.name}"
        return cls(Path(place).expanduser().resolve())

    def stage(self, name: str) -> Path:
        return self.path / name

    def quantized(self, name: str) -> Path:
        """Where the student in this format is: a folder for transformers, or a GGUF file."""
        return self.stage("quantize") / (name if name in FOLDERS else f"{name}.gguf")

    def require(self, stage: str, recipe: Recipe) -> Manifest:
        """The manifest of an earlier stage; MissingError naming the command that makes it."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise MissingError(
                f"{self.stage(stage)}: not finished; run `distill {stage} {recipe.source}` first"
            )
        return manifest

    def manifest(self, stage: str) -> Manifest | None:
        path = self.stage(stage) / "manifest.json"
        try:
            return Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: broken ({error}); delete it and run the same command again"
            ) from None

    def finish(
        self,
        stage: str,
        *,
        section: dict[str, Any],
        inputs: dict[str, str],
        seed: int,
        result: dict[str, Any],
        files: list[Path],
        started: float,
    ) -> Manifest:
        """Write the stage's manifest. `files` are hashed, made durable, and named relative to the stage's folder."""
        folder = self.stage(stage)
        described = {}
        for path in sorted(files):
            with open(path, "rb") as f:
                os.fsync(f.fileno())
            described[str(path.relative_to(folder))] = {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        manifest = Manifest(
            stage=stage,
            section=section,
            inputs=inputs,
            seed=seed,
            result=result,
            files=described,
            seconds=round(time.time() - started, 2),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            versions=_versions(),
        )
        write_atomic(
            folder / "manifest.json",
            json.dumps(manifest.__dict__, indent=1, ensure_ascii=False) + "\n",
        )
        return manifest

    def changes(
        self, stage: str, *, section: dict[str, Any], inputs: dict[str, str], seed: int
    ) -> list[str]:
        """What differs between a finished (or begun) stage and what the recipe asks for now; empty = nothing."""
        manifest = self.manifest(stage) or self._started(stage)
        if manifest is None:
            return []
        found = []
        old, new = _flat(manifest.section), _flat(section)
        if (
            "teacher.server_model" in new and "teacher.server_model" not in old
        ):  # from before it was written down
            old["teacher.server_model"] = self._name_before()
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found.append(f"{name} was {old.get(name)!r}, is now {new.get(name)!r}")
        if manifest.seed != seed:
            found.append(f"seed was {manifest.seed}, is now {seed}")
        for name in sorted(manifest.inputs.keys() | inputs.keys()):
            if manifest.inputs.get(name) != inputs.get(name):
                found.append(f"its input `{name}` has changed")
        return found

    def start(
        self, stage: str, *, section: dict[str, Any], inputs: dict[str, str], seed: int
    ) -> None:
        """Note what an unfinished stage is being made from, so that another recipe does not continue it."""
        started = {"section": section, "inputs": inputs, "seed": seed}
        write_atomic(self.stage(stage) / "started.json", json.dumps(started, indent=1))

    def began(self, stage: str) -> bool:
        return any(
            (self.stage(stage) / name).exists() for name in ("manifest.json", "started.json")
        )

    def _started(self, stage: str) -> Any:
        try:
            found = json.loads((self.stage(stage) / "started.json").read_text(encoding="utf-8"))
            return SimpleNamespace(**{name: found[name] for name in ("section", "inputs", "seed")})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{self.stage(stage) / 'started.json'}: broken; delete it and run the same command"
            ) from None

    def set_aside(self, stage: str) -> None:
        """Before a redo: forget the manifest; move what the stage made away, except what cost teacher time.

        Raw answers and captured signals are keyed by content, so the new run takes what still fits.
        """
        folder = self.stage(stage)
        if not folder.exists():
            return
        if stage in ("generate", "capture"):
            for name in ("manifest.json", "started.json"):
                (folder / name).unlink(missing_ok=True)
            fsync_folder(folder)
            return
        number = 1
        while (aside := self.path / f"{stage}.replaced-{number}").exists():
            number += 1
        folder.rename(aside)
        fsync_folder(self.path)

    def note_old_name(self, recipe: Recipe) -> None:
        """Write down whose answers those are that do not say it, before this recipe takes the place of the one that had them made."""
        path = self.stage("generate") / OLD_ROWS
        if not path.exists() and _has_old_rows(path.parent):
            recorded = (self.path / "recipe.yaml").is_file()  # jobs that share a stage write none
            name = self._name_before() if recorded else recipe.teacher.served_name
            write_atomic(path, json.dumps({"server_model": name}, ensure_ascii=False))

    def _name_before(self) -> str | None:
        """The model's name on its server (`Teacher.served_name`) where an earlier version wrote this run folder."""
        if (self.stage("generate") / OLD_ROWS).is_file():
            return old_name(self.stage("generate"))
        try:
            teacher = yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8"))[
                "teacher"
            ]
            return served_name(teacher["model"], teacher.get("server"), teacher.get("server_model"))
        except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError):
            return None

    def write_recipe(self, recipe: Recipe) -> None:
        write_atomic(
            self.path / "recipe.yaml", f"# resolved from {recipe.source}\n{to_yaml(recipe)}"
        )

    def lock(self, *, shared: bool = False) -> None:
        """Hold the run folder for this process group; a second command on it is refused (released by the kernel).

        Shared holders (`--shard`) bear each other, and no whole run beside them. Where the file system knows no such locks (Lustre
        mounted without flock) the run goes on without and says so: its user can seldom remount it, and can see to it that no
        second command works there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise MismatchError(
                f"run_folder: {error.filename}: a file stands in the way; set run_folder=PATH to a folder"
            ) from None
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise MismatchError(
                f"{self.path}: another process works in this run folder; wait for it, stop it, or set run_folder=PATH"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"warning: {self.path}: this file system has no locks ({error.strerror}): nothing keeps a second command out of this "
                "run folder, so start none there while this one runs (--shard excepted); run_folder=PATH on another disk has locks, and so "
                "has Lustre mounted with -o flock",
                file=sys.stderr,
            )

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def old_name(stage: Path) -> str | None:
    """The model's name on its server (`Teacher.served_name`) of rows that do not say it. `stage`: generate's folder."""
    path = stage / OLD_ROWS
    return json.loads(path.read_text(encoding="utf-8"))["server_model"] if path.is_file() else None


def _has_old_rows(stage: Path) -> bool:
    """Whether a log has rows that do not say what the server calls the model; a file is of one version."""
    for path in stage.glob("*/*.jsonl"):
        with open(path, "rb") as f:
            row = row_of(f.readline())
        if row is not None and "server_model" not in row:
            return True
    return False


class FolderWriter:
    """`with FolderWriter(path) as temporary:` fill a folder under another name; it appears whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        for path in self.temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
        if self.path.exists():  # rename does not replace a folder with files in it
            old = self.path.with_name(f".{self.path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            self.path.rename(old)
            self.temporary.rename(self.path)
            shutil.rmtree(old)
        else:
            self.temporary.rename(self.path)
        fsync_folder(self.path.parent)


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_explained(folder: RunFolder) -> Iterator[None]:
    """Within the block a full disk or quota, and a file that may not be read or written, is a DataError that names the place,
    however a library wrapped it."""
    try:
        yield
    except DistillError:
        raise
    except Exception as error:
        place = getattr(error, "filename", None) or folder.path
        if _is_one_of(error, DISK_FULL):
            raise DataError(
                f"{place}: the disk (or quota) is full; free space and run the same command to continue: finished work is kept"
            ) from error
        if _is_one_of(error, FORBIDDEN):
            raise DataError(
                f"{place}: this user may not read or write it; change that, or set run_folder=PATH"
            ) from error
        raise


def _is_one_of(error: Exception, numbers: tuple[int, ...]) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return any(f"os error {n})" in str(error) or f"[Errno {n}]" in str(error) for n in numbers)


def files_under(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".tmp")]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
