"""The run folder: a folder for each stage, each with a manifest that is written last.

If `manifest.json` is there, the stage is done. It holds the resolved section, the identity of every
input, versions, counts, files with size and SHA-256, and times. Stages meet only here.
"""

import errno
import fcntl
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from distill.core.digests import canonical_json, digest, file_sha256
from distill.core.files import fsync_folder, write_atomic
from distill.core.stored_json import as_type, broken, field_problem, read_json, write_json
from distill.core.verification import RecordedFile
from distill.errors import MismatchError, MissingError
from distill.recipe import Recipe, in_full, sealed_yaml
from distill.recipe.sections.student import UNCHOSEN

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
# by what a section was made that does not name the field: it is older
UNSAID = {"student.layers_by": UNCHOSEN}
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Fingerprint:
    """What decides a stage's result: its resolved section, the identity of its inputs, the seed."""

    section: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class StageOutput:
    """What a stage hands to the pipeline, which writes the manifest.

    `result` is a frozen dataclass of the stage's own (core/results.py); `files` are those that it
    stands for.
    """

    result: Any
    files: list[Path]


@dataclass(frozen=True)
class Manifest(Generic[Result]):
    """What a finished stage says about itself; `result` is the stage's own."""

    stage: str
    section: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    result: Result
    files: dict[str, dict[str, Any]]
    seconds: float
    finished: str
    machine: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the identity of what the stage made: its files. Times and machines do not count."""
        return digest(canonical_json({name: f["sha256"] for name, f in self.files.items()}))

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.section, self.inputs, self.seed)


class RunFolder:
    """`runs/<name>/`: `folder.stage("train")`, `folder.require("train", TrainResult, recipe)`.

    `shared`: stages that are another run's, by name. They are read there and never made here.
    """

    def __init__(self, path: Path, *, shared: Mapping[str, "RunFolder"] | None = None):
        self.path = path
        self._shared = dict(shared or {})
        self._lock: int | None = None
        self._read_whole: dict[
            Path, tuple[int, int] | None
        ] = {}  # size and time of files hashed here

    @classmethod
    def of(cls, recipe: Recipe) -> "RunFolder":
        """Return the recipe's run folder, which need not be there yet.

        Raises MismatchError where a file stands at its place or above it.
        """
        path = Path(recipe.run_folder or f"runs/{recipe.name}").expanduser().resolve()
        for place in (path, *path.parents):
            if os.path.exists(place) and not os.path.isdir(place):  # False where it may not look
                raise _in_the_way(place)
        return cls(path)

    def stage(self, name: str) -> Path:
        if name in self._shared:
            return self._shared[name].stage(name)
        return self.path / name

    def require(
        self, stage: str, result_type: type[Result], recipe: Recipe | None = None
    ) -> Manifest[Result]:
        """Return the manifest of an earlier stage.

        Raises MissingError, naming the command that makes it, if the stage is not finished.
        """
        manifest = self.manifest(stage, result_type)
        if manifest is None:
            message = f"{self.stage(stage)}: not finished; run `distill {stage} RECIPE` first"
            raise MissingError(message if recipe is None else in_full(message, recipe))
        return manifest

    def manifest(self, stage: str, result_type: type[Result]) -> Manifest[Result] | None:
        """Return the manifest of a stage with its result read as `result_type`; None if unfinished.

        Raises DataError if the file is broken or its result is of another shape.
        """
        path = self.stage(stage) / "manifest.json"
        try:
            values = read_json(path, _way_out(stage))
        except FileNotFoundError:
            return None
        if reason := _manifest_problem(values):
            raise broken(path, reason, _way_out(stage))
        stored = Manifest(**values)
        result = as_type(stored.result, result_type, path, _way_out(stage), within="result")
        return replace(stored, result=result)

    def digest(self, stage: str, recipe: Recipe) -> str:
        """Return the identity of what an earlier stage made. Raises what `require` raises."""
        return self.require(stage, dict, recipe).digest

    def recorded_files(self, stage: str) -> list[RecordedFile]:
        """Return the files that a finished stage stands for; none if it is not finished."""
        manifest = self.manifest(stage, dict)
        if manifest is None:
            return []
        redo = f"`distill run RECIPE --redo {stage}`"
        return [
            RecordedFile(self.stage(stage) / name, described["bytes"], described["sha256"], redo)
            for name, described in manifest.files.items()
        ]

    def changed_since_read(self, file: RecordedFile) -> bool:
        """Return whether the file was not hashed by this process, or has changed since."""
        known = self._read_whole.get(file.path)
        return known is None or known != _size_and_time(file.path)

    def note_read(self, path: Path) -> None:
        """Note that this process has just compared or hashed the whole file."""
        self._read_whole[path] = _size_and_time(path)

    def start(self, stage: str, fingerprint: Fingerprint) -> None:
        """Note what an unfinished stage is made from, so that another recipe does not continue it."""
        assert stage not in self._shared, f"{stage} is another run's"
        write_json(self.stage(stage) / "started.json", asdict(fingerprint), indent=1)

    def forget_start(self, stage: str) -> None:
        """Let a stage that failed before it made anything be as if it had not begun.

        Of its own files only notes on how it would be made may be there (models/precision.py).
        """
        paths = list(self.stage(stage).iterdir())
        if all(path.name == "started.json" or path.match("precision*.json") for path in paths):
            for path in paths:
                path.unlink()

    def finish(
        self, stage: str, fingerprint: Fingerprint, output: StageOutput, *, started: float
    ) -> Manifest[Any]:
        """Write the stage's manifest, last of all.

        The output's files are hashed, made durable, and named relative to the stage's folder.
        `started`: by time.monotonic, which nobody sets back.
        """
        folder = self.stage(stage)
        described = {}
        for path in sorted(output.files):
            with open(path, "rb") as f:
                os.fsync(f.fileno())
            size = path.stat().st_size
            described[str(path.relative_to(folder))] = {"bytes": size, "sha256": file_sha256(path)}
            self.note_read(path)
        manifest = Manifest(
            stage=stage,
            section=fingerprint.section,
            inputs=fingerprint.inputs,
            seed=fingerprint.seed,
            result=output.result,
            files=described,
            seconds=round(time.monotonic() - started, 2),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            versions=_versions(),
        )
        write_json(folder / "manifest.json", asdict(manifest), indent=1)
        return manifest

    def changes(self, stage: str, wanted: Fingerprint) -> list[str]:
        """Return what differs between a finished (or begun) stage and what the recipe asks for now."""
        made_from = self.made_from(stage)
        return [] if made_from is None else differences(made_from, wanted)

    def made_from(self, stage: str) -> Fingerprint | None:
        """Return what decided a finished (or begun) stage, None where it has not begun."""
        manifest = self.manifest(stage, dict)
        return self._started(stage) if manifest is None else manifest.fingerprint

    def began(self, stage: str) -> bool:
        return any(
            (self.stage(stage) / name).exists() for name in ("manifest.json", "started.json")
        )

    def _started(self, stage: str) -> Fingerprint | None:
        path = self.stage(stage) / "started.json"
        try:
            values = read_json(path, _way_out(stage))
        except FileNotFoundError:
            return None
        if reason := _problem_of(values, _STARTED):
            raise broken(path, reason, _way_out(stage))
        return Fingerprint(**values)

    def set_aside(self, stage: str, *, keep_files: bool) -> Path | None:
        """Forget the manifest before a redo, move what the stage made away, and return whereto.

        `keep_files`: leave it where it is. Raw answers and captured signals cost teacher time and
        are keyed by content, so the new run takes what still fits.
        """
        assert stage not in self._shared, f"{stage} is another run's"
        folder = self.stage(stage)
        if not folder.exists():
            return None
        if keep_files:
            for name in ("manifest.json", "started.json"):
                (folder / name).unlink(missing_ok=True)
            fsync_folder(folder)
            return None
        number = 1
        while (aside := self.path / f"{stage}.replaced-{number}").exists():
            number += 1
        folder.rename(aside)
        fsync_folder(self.path)
        return aside

    def write_recipe(self, recipe: Recipe) -> None:
        write_atomic(self.path / "recipe.yaml", sealed_yaml(recipe))

    def lock(self, *, shared: bool = False) -> None:
        """Hold the run folder for this process group; a second command on it is refused.

        The kernel releases the lock. Jobs on shards (`shared`) may hold it together; a full run
        needs it alone. Where the file system knows no such locks (Lustre mounted without flock) the
        run goes on without and says so: its user can seldom remount it, and can see to it that no
        second command works there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _in_the_way(error.filename) from None
        except FileNotFoundError as error:  # in /proc, and the like
            raise MismatchError(
                f"run_folder: {error.filename}: no folder can be made there; set run_folder=PATH"
            ) from None
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise MismatchError(
                f"{self.path}: another process works in this run folder; wait for it, stop it, "
                "or set run_folder=PATH"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"warning: {self.path}: this file system has no locks ({error.strerror}): nothing "
                "keeps a second command out of this run folder, so start none there while this one "
                "runs (--shard excepted); run_folder=PATH on another disk has locks, and so has "
                "Lustre mounted with -o flock",
                file=sys.stderr,
            )

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _in_the_way(place: Path | str) -> MismatchError:
    return MismatchError(
        f"run_folder: {place}: a file stands in the way; set run_folder=PATH to a folder"
    )


_STARTED = {"section": dict, "inputs": dict, "seed": int}
_MANIFEST = _STARTED | {
    "stage": str,
    "result": object,
    "files": dict,
    "seconds": int | float,
    "finished": str,
    "machine": str,
    "versions": dict,
}
_FILE = {"bytes": int, "sha256": str}


def _manifest_problem(values: dict[str, Any]) -> str | None:
    """Return what is no manifest's in these values, or None."""
    if problem := _problem_of({"versions": {}} | values, _MANIFEST):
        return problem
    for name, described in values["files"].items():
        if not isinstance(described, dict) or (problem := field_problem(described, _FILE)):
            return f"files.{name}: {problem or 'not an object'}"
    return None


def _problem_of(values: dict[str, Any], kinds: dict[str, Any]) -> str | None:
    unknown = sorted(values.keys() - kinds.keys())
    return f"{unknown[0]}: unknown field" if unknown else field_problem(values, kinds)


def _way_out(stage: str) -> str:
    return f"delete it and run `distill {stage} RECIPE`: what was made is kept"


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Return a line for each field and input that differs, fields by their dotted names."""
    lines = []
    old_fields, new_fields = flat(old.section), flat(new.section)
    for name in sorted(old_fields.keys() | new_fields.keys()):
        before, after = (values.get(name, UNSAID.get(name)) for values in (old_fields, new_fields))
        if before != after:
            lines.append(f"{name} was {before!r}, is now {after!r}")
    if old.seed != new.seed:
        lines.append(f"seed was {old.seed}, is now {new.seed}")
    for name in sorted(old.inputs.keys() | new.inputs.keys()):
        if old.inputs.get(name) != new.inputs.get(name):
            lines.append(f"its input `{name}` has changed")
    return lines


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as one mapping by dotted path; lists are values."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
