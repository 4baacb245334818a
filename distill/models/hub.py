"""Bring a hub's files into its cache on this machine: resumable, and compared with the hub's hashes.

The hub is huggingface.co, or what HF_ENDPOINT names. The libraries look for them here:

    <cache>/models--owner--name/blobs/<hash>                        the content
                                blobs/<hash>.distill.incomplete     what has come of it so far
                                snapshots/<commit>/<path>           links to it
                                refs/<branch>                       the commit; written last
"""

import glob
import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distill.core.disk_errors import DISK_FULL, FORBIDDEN
from distill.core.files import write_atomic
from distill.errors import DataError, DistillError, MissingError, Stopped, shown

AT_ONCE = 4  # files
BLOCK = 1 << 20  # bytes
LARGEST_BY_HTTP = 50 * 10**9  # bytes: the hub's own limit
SHA1, SHA256 = r"[0-9a-f]{40}", r"[0-9a-f]{64}"
# (bytes that came, or went: they had come and were damaged)
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Repository:
    """A model or data set of the hub; `revision` None is its main branch."""

    kind: Literal["model", "dataset"]
    id: str
    revision: str | None

    def __str__(self) -> str:
        kind = "" if self.kind == "model" else "data set "
        return f"{kind}{self.id}"

    @property
    def folder(self) -> Path:
        """Return its folder in the cache."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=self.id, repo_type=self.kind)
        return Path(constants.HF_HUB_CACHE).expanduser() / name

    @property
    def page(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    @property
    def cached_commit(self) -> str | None:
        """Return the commit that its revision stands for by the cache; None if that does not know."""
        if self.revision and re.fullmatch(SHA1, self.revision):
            return self.revision
        ref = self.folder / "refs" / (self.revision or "main")
        return ref.read_text().strip() if ref.is_file() else None


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `hash` is the SHA-256 of a big one (LFS), else git's SHA-1."""

    path: str
    size: int
    hash: str

    def is_content_of(self, path: Path) -> bool:
        """Return whether a file on this machine has the hub's bytes."""
        if path.stat().st_size != self.size:
            return False
        if len(self.hash) == 64:
            made = hashlib.sha256()
        else:
            made = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with open(path, "rb") as f:
            while block := f.read(BLOCK):
                made.update(block)
        return made.hexdigest() == self.hash


@dataclass(frozen=True)
class Listing:
    """Files of a repository at one commit."""

    repository: Repository
    commit: str
    files: Sequence[HubFile]

    def only(self, paths: Iterable[str]) -> "Listing":
        chosen = set(paths)
        return replace(self, files=[file for file in self.files if file.path in chosen])

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Return how many bytes of it have still to come."""
        return sum(file.size - self.here(file) for file in self.files)

    def blob(self, file: HubFile) -> Path:
        return self.repository.folder / "blobs" / file.hash

    def part(self, file: HubFile) -> Path:
        return self.blob(file).with_name(f"{file.hash}.distill.incomplete")

    def link(self, file: HubFile) -> Path:
        return self.repository.folder / "snapshots" / self.commit / file.path

    def here(self, file: HubFile) -> int:
        """Return how many bytes of a file have come."""
        if self.blob(file).exists() or self.link(file).exists():
            return file.size
        part = self.part(file)
        return min(part.stat().st_size, file.size) if part.exists() else 0


def listing(repository: Repository) -> Listing:
    """Ask the hub for the commit of a repository's revision, and for its files.

    Raises MissingError where it has none or does not show it, DataError for an answer that is none.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    where: dict[str, Any] = {"repo_type": repository.kind}
    with explained(repository):
        commit = api.repo_info(repository.id, revision=repository.revision, **where).sha
        if not re.fullmatch(SHA1, commit or ""):
            raise DataError(
                f"{repository}: {_hub()} names the commit {shown(commit)}, which is none"
            )
        entries = api.list_repo_tree(repository.id, recursive=True, revision=commit, **where)
        files = [_hub_file(repository, f) for f in entries if isinstance(f, RepoFile)]
    return Listing(repository, str(commit), files)


def _hub_file(repository: Repository, entry: Any) -> HubFile:
    """Return a file as the hub lists it; what it says becomes paths on this machine."""
    found = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    pattern = SHA1 if entry.lfs is None else SHA256
    parts = entry.path.split("/")
    is_path = "\\" not in entry.path and not {"", ".", ".."} & set(parts)
    is_size = isinstance(entry.size, int) and entry.size >= 0
    if not (is_path and is_size and isinstance(found, str) and re.fullmatch(pattern, found)):
        raise DataError(
            f"{repository}: {_hub()} lists {shown(entry.path)} of {shown(entry.size)} bytes with the "
            f"hash {shown(found)}, which is no file; name another hub by HF_ENDPOINT"
        )
    return HubFile(entry.path, entry.size, found)


def bring(wanted: Listing, advance: Advance, say: Callable[[str], None]) -> None:
    """Bring the files that are not in the cache, and compare those that are with the hub's hashes.

    A damaged one is fetched again, and `say` tells it. Raises MissingError and DataError; what has
    come stays, and the next call goes on from there.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            bringing = _Bringing(wanted, advance, say, stop)
            for _ in threads.map(bringing.bring, wanted.files):
                pass
        except BaseException:
            stop.set()  # else the others would go on to the end of their files
            threads.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Bringing:
    wanted: Listing
    advance: Advance
    say: Callable[[str], None]
    stop: threading.Event

    def bring(self, file: HubFile) -> None:
        with explained(self.wanted.repository, file.path):
            if self._is_here(file):
                return
            if file.size > LARGEST_BY_HTTP:
                self._bring_by_library(file)
                return
            part = self.wanted.part(file)
            part.parent.mkdir(parents=True, exist_ok=True)
            resumed = self._download(file, part)
            if not file.is_content_of(part):
                part.unlink()
                if not resumed:
                    raise DataError(self._other_bytes(file))
                self.say(
                    f"{file.path}: what had come of it was damaged: fetched from its beginning"
                )
                self.advance(-file.size)
                self._download(file, part)
                self._require_content(file, part)
            os.replace(part, self.wanted.blob(file))

    def _bring_by_library(self, file: HubFile) -> None:
        """Fetch a file that the hub gives only in its own protocol (Xet), which cannot go on."""
        from huggingface_hub import hf_hub_download

        repository, commit = self.wanted.repository, self.wanted.commit
        hf_hub_download(repository.id, file.path, repo_type=repository.kind, revision=commit)
        self._require_content(file, self.wanted.blob(file))
        self.advance(file.size)

    def _is_here(self, file: HubFile) -> bool:
        """Return whether the file is in the cache as the hub has it; a damaged one is removed."""
        places = [p for p in (self.wanted.link(file), self.wanted.blob(file)) if p.exists()]
        contents = {place.resolve() for place in places}
        damaged = [content for content in contents if not file.is_content_of(content)]
        if not damaged:
            return bool(places)
        for place in places:
            place.unlink()
        self.say(f"{file.path}: damaged on this machine ({damaged[0]}): fetched again")
        self.advance(-file.size)
        return False

    def _download(self, file: HubFile, part: Path) -> int:
        """Fetch what is missing of a file; return how many bytes had come before."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        repository = self.wanted.repository
        url = hf_hub_url(
            repository.id,
            file.path,
            repo_type=repository.kind,
            revision=self.wanted.commit,
            endpoint=constants.ENDPOINT,
        )
        with _Growing(part, self.advance, self.stop) as f:
            before = f.seek(0, io.SEEK_END)
            if before > file.size:
                before = f.seek(0)
                f.truncate()
            http_get(
                url,
                f,  # type: ignore[arg-type]
                resume_size=before,
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.path,
            )
            os.fsync(f.fileno())
        return before

    def _require_content(self, file: HubFile, path: Path) -> None:
        if not file.is_content_of(path):
            path.unlink()
            raise DataError(self._other_bytes(file))

    def _other_bytes(self, file: HubFile) -> str:
        return (
            f"{self.wanted.repository}: {file.path}: what {_hub()} sent has not the hash that it "
            f"lists ({file.hash}) and was thrown away; run the same command again, or name another "
            "hub by HF_ENDPOINT"
        )


class _Growing(io.FileIO):
    """A file that is written through, counted and, where `stop` is set, not written any more."""

    def __init__(self, path: Path, advance: Advance, stop: threading.Event):
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        self._advance, self._stop = advance, stop

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            if self._stop.is_set():
                raise Stopped("stopped; run the same command to continue")
            written = super().write(left) or 0
            left = left[written:]
            self._advance(written)
        return len(data)


def link(brought: Listing) -> None:
    """Let the libraries find the files at the repository's revision, online and offline.

    They also keep the list of files, so that what is missing offline can be named.
    """
    from huggingface_hub import snapshot_download

    repository = brought.repository
    with explained(repository):
        snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=brought.commit,
            allow_patterns=[glob.escape(file.path) for file in brought.files],
        )
    refer(brought)


def refer(brought: Listing) -> None:
    """Note in the cache which commit the repository's branch or tag is, for runs without a network."""
    repository = brought.repository
    if not re.fullmatch(SHA1, repository.revision or ""):
        write_atomic(repository.folder / "refs" / (repository.revision or "main"), brought.commit)


def _hub() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


@contextmanager
def explained(repository: Repository, path: str | None = None) -> Iterator[None]:
    """Turn what the hub or the disk did into a MissingError or DataError with the way out."""
    from huggingface_hub import errors

    what = f"{repository}: {path}" if path else str(repository)
    try:
        yield
    except DistillError:
        raise
    except errors.GatedRepoError:
        raise MissingError(
            f"{what}: its owners let in only those who ask: accept their terms at {repository.page}, "
            "then log in by `hf auth login` (or set HF_TOKEN), and run the same command"
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingError(
            f"{what}: {_hub()} has no revision {shown(repository.revision)} of it; see "
            f"{repository.page} for its branches, tags and commits"
        ) from None
    except errors.RepositoryNotFoundError:
        raise MissingError(
            f"{what}: {_hub()} shows none of this name; check it, or, if it is private, log in by "
            "`hf auth login` (or set HF_TOKEN)"
        ) from None
    except Exception as error:
        told = _of_network_or_disk(what, error)
        if told is None:
            raise
        raise told from None


def _of_network_or_disk(what: str, error: Exception) -> DistillError | None:
    """Return what a person is told of an error; None where it is a fault of ours."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    number = getattr(error, "errno", None)
    place = getattr(error, "filename", None) or constants.HF_HUB_CACHE
    if number in DISK_FULL:
        return DataError(
            f"{place}: the disk (or quota) is full; free space, or set HF_HOME to a folder on another "
            "disk, and run the same command to continue"
        )
    if number in FORBIDDEN:
        return DataError(
            f"{place}: this user may not write it; change that, or set HF_HOME to another folder"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return MissingError(f"{what}: HF_HUB_OFFLINE keeps the hub from being asked; set it to 0")
    if isinstance(error, HFValidationError):
        return MissingError(f"{what}: no name of a hub's ({shown(error)}); for a folder write ./")
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return MissingError(
            f"{what}: {_hub()} refuses it ({error.response.status_code}): log in by `hf auth login` (or "
            "set HF_TOKEN) with a token that may read it, and run the same command"
        )
    if isinstance(error, httpx2.HTTPError | OSError | ValueError):
        return MissingError(
            f"{what}: cannot be had from {_hub()} ({type(error).__name__}: {shown(error)}); run the "
            "same command to continue, or name another hub by HF_ENDPOINT"
        )
    return None
