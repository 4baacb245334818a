"""What an error of ours advises is done here to the letter, and the run then passes."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from run_helpers import call_distill, small

from distill.core.checksums import CHECKSUMS, write_checksums
from distill.core.digests import file_sha256
from distill.core.stage import never
from distill.core.stored_json import read_json, write_json
from distill.deploy.choose import choose
from distill.errors import DistillError
from distill.pipeline import STAGES
from distill.signals.store import SignalStore, SignalWriter

JUNK = b"\x89PNG\r\n\x00\xff"


class Run:
    """A copy of a finished run, and what a person does with it: break, start, do as advised."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder = folder
        self._capsys = capsys

    def unfinish(self, *stages: str) -> None:
        """Take the manifests away, as if the run had been killed at the end of these stages."""
        for stage in stages:
            (self.folder / stage / "manifest.json").unlink()

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def flip(self, pattern: str) -> None:
        """Flip one bit in the middle of the first file of this pattern."""
        path = sorted(self.folder.glob(pattern))[0]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def start(self, words: list[str]) -> tuple[int, str]:
        """Start a command on this run's recipe; return (exit status, what was said of errors)."""
        word, *options = words
        return self.type([word, *map(str, small(self.folder)), *options])

    def type(self, words: list[str]) -> tuple[int, str]:
        """Start a command as it is typed; return (exit status, what was said of errors)."""
        self._capsys.readouterr()
        status = call_distill(words)
        return status, self._capsys.readouterr().err

    def do(self, advice: str, words: list[str], *, to_the_end: bool = False) -> tuple[int, str]:
        """Do what an error says; `words` are those of the command that ended in it.

        Where it says `distill run`, the stages after the one that is made anew are left to the
        commands that need them, unless `to_the_end`.
        """
        advice = advice.rpartition("distill: ")[2]
        if re.search(r"delete (it|that folder)|move it away", advice):
            path = Path(advice.partition(": ")[0])
            assert path.exists(), f"{path}: does not name what to delete"
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if command := re.search(r"`distill (.+?)`", advice):
            typed = shlex.split(command[1])
            if typed[0] == "run" and not to_the_end:
                typed += ["--stages", typed[-1]]
            return self.type(typed)
        if redo := re.search(r"--redo [a-z]+", advice):
            words = [*words, *redo[0].split()]
        else:
            assert "run the same command" in advice.lower(), f"no way out: {advice}"
        return self.start(words)


def broken_manifest(stage: str) -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.flip(f"{stage}/manifest.json")

    return f"{stage}/manifest.json", make, ["run"]


def broken_start(stage: str) -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish(stage)
        run.put(f"{stage}/started.json", JUNK)

    return f"{stage}/started.json", make, [stage]


def broken_after_a_kill(name: str, data: bytes) -> tuple[str, Callable[[Run], None], list[str]]:
    stage = name.partition("/")[0]

    def make(run: Run) -> None:
        run.unfinish(stage)
        run.put(name, data)

    return name, make, [stage]


def unfinished(stage: str, words: list[str]) -> tuple[str, Callable[[Run], None], list[str]]:
    return f"{stage}: not finished", lambda run: run.unfinish(stage), words


def damaged_shard() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("train")
        run.flip("capture/signals/*/*.shard")

    return ".shard", make, ["run", "--stages", "initialize,train"]


def shard_of_another_signal() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("capture")
        folder = next(run.folder.glob("capture/signals/*"))
        store = SignalStore(folder)
        fingerprints = store.header.fingerprints | {"teacher": "another"}
        other = replace(store.header, fingerprints=fingerprints)
        with SignalWriter(folder, other, writer="zz") as writer:
            writer.add(store.keys()[0], store.read(store.keys()[0]))

    return "signals-zz", make, ["capture"]


def damaged_student() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("train")
        checksums = run.folder / "train" / "checkpoints" / f"student.{CHECKSUMS}"
        write_checksums(run.folder / "train" / "student", checksums)
        run.flip("train/student/model.safetensors")

    return "train/student", make, ["train"]


def broken_training_result() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("train")
        run.put("train/student/training.json", b"[]")

    return "train/student: training.json", make, ["train"]


def no_whole_checkpoint() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("train")
        shutil.rmtree(run.folder / "train" / "student")
        checkpoint = run.folder / "train" / "checkpoints" / "student" / "step-00000002"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_bytes(JUNK)

    return "checkpoints/student", make, ["train"]


def damaged_answers() -> tuple[str, Callable[[Run], None], list[str]]:
    def make(run: Run) -> None:
        run.unfinish("capture")
        run.flip("generate/kept.jsonl")

    return "generate/kept.jsonl", make, ["capture"]


def record_again(path: Path) -> None:
    """Let the manifest say that the stage wrote this file as it is now."""
    manifest = path.parent / "manifest.json"
    values = read_json(manifest, "")
    values["files"][path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(manifest, values, indent=1)


def answers_in_another_tokenizer() -> tuple[str, Callable[[Run], None], list[str]]:
    """Let one answer hold a token id that an earlier version took from a server."""

    def make(run: Run) -> None:
        run.unfinish("capture")
        (run.folder / "capture" / "started.json").unlink()
        kept = run.folder / "generate" / "kept.jsonl"
        first, *others = kept.read_text(encoding="utf-8").splitlines()
        row = json.loads(first)
        row["answer_ids"][0] = 10**6
        kept.write_text("\n".join([json.dumps(row), *others]) + "\n", encoding="utf-8")
        record_again(kept)

    return "generate/kept.jsonl", make, ["capture"]


CASES = [
    *(broken_manifest(stage.name) for stage in STAGES if stage.left_out is never),
    *(broken_start(name) for name in ("generate", "capture", "quantize")),
    broken_after_a_kill("generate/probe.json", JUNK),
    broken_after_a_kill("quantize/q8_0.json", b'{"bytes": 1}'),
    broken_after_a_kill("evaluate/student.json", b'{"examples": [1]}'),
    broken_after_a_kill("evaluate/teacher_answers.jsonl", b"{}\n"),
    broken_training_result(),
    damaged_answers(),
    answers_in_another_tokenizer(),
    unfinished("generate", ["capture"]),
    unfinished("quantize", ["evaluate"]),
    damaged_shard(),
    shard_of_another_signal(),
    damaged_student(),
    no_whole_checkpoint(),
]


@pytest.mark.parametrize(("name", "make", "words"), CASES, ids=[case[0] for case in CASES])
def test_what_an_error_advises_ends_it(copy, capsys, name, make, words):
    run = Run(copy, capsys)
    make(run)
    status, said = run.start(words)
    assert status == 2 and name in said, said
    status, then = run.do(said, words)
    assert status == 0, f"advised: {said}\nthen: {then}"
    status, then = run.start(words)
    assert status == 0, f"advised: {said}\nat last: {then}"


def gguf_advice(folder: Path) -> str | None:
    """Return what `distill chat` and `serve` say of this run's file, None where they take it."""
    try:
        choose(str(folder), "q8_0")
    except DistillError as error:
        return str(error)
    return None


@pytest.mark.parametrize("way", ["flipped", "gone", "of a run that is not finished"])
def test_what_chat_and_serve_advise_of_a_run_folder_ends_it(copy, capsys, monkeypatch, way):
    run = Run(copy, capsys)
    if way == "flipped":
        run.flip("quantize/q8_0.gguf")
    elif way == "gone":
        (copy / "quantize" / "q8_0.gguf").unlink()
    else:
        run.unfinish("quantize")
    monkeypatch.chdir(copy)
    said = gguf_advice(copy)
    assert said is not None
    status, then = run.do(said, [], to_the_end=way == "flipped")
    assert status == 0, f"advised: {said}\nthen: {then}"
    assert gguf_advice(copy) is None


def test_what_inspect_advises_of_a_run_folder_ends_it(copy, capsys, monkeypatch):
    run = Run(copy, capsys)
    monkeypatch.chdir(copy)
    for make in (
        lambda: run.flip("generate/kept.jsonl"),
        lambda: shutil.rmtree(copy / "generate"),
    ):
        make()
        status, said = run.type(["inspect", str(copy)])
        assert status == 2 and "RECIPE" not in said, said
        status, then = run.do(said, [])
        assert status == 0, f"advised: {said}\nthen: {then}"
        assert run.type(["inspect", str(copy)])[0] == 0
