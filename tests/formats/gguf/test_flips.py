"""A GGUF file that was flipped or cut on its way is refused by name before llama.cpp sees it, and its readers never crash."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_helpers import Tally

from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.verification import verifying
from distill.errors import DataError
from distill.formats.gguf.write import describe, write_gguf
from distill.llama_cpp.gguf_header import read_string, read_tensor_infos
from distill.llama_cpp.process import LlamaProcess

KIND = "GGUF files"
NUM_TENSORS_AT, NUM_VALUES_AT = 8, 16


@pytest.fixture(scope="module")
def whole(
    model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, bytes]:
    """A run whose quantize has finished with one file, and that file's content."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    path = folder.stage("quantize") / "q4_0.gguf"
    write_gguf(model_folder("qwen3"), path, "q4_0")
    folder.finish("quantize", Fingerprint(), StageOutput({}, [path]), started=time.time())
    return folder, path.read_bytes()


def header_bytes(data: bytes) -> int:
    """Return where the tensors' descriptions end, about."""
    return data.rindex(b"output_norm.weight") + 64


def damaged(data: bytes, place: random.Random) -> bytes:
    """Flip a bit, a byte or a count, cut the file, put another part in, or double it."""
    header = header_bytes(data)
    at = place.choice((place.randrange(24), place.randrange(header), place.randrange(len(data))))
    other = bytearray(data)
    match place.randrange(7):
        case 0:
            other[at] ^= 1 << place.randrange(8)
        case 1:
            other[at] ^= place.randrange(1, 256)
        case 2:
            at = place.choice((NUM_TENSORS_AT, NUM_VALUES_AT, at))
            other[at : at + 8] = place.choice((b"\xff" * 8, bytes(8), b"\x09\x00\x00\x00" * 2))
        case 3:
            del other[at:]
        case 4:
            del other[at : at + place.randrange(1, 100)]
        case 5:
            other[at:at] = place.randbytes(place.randrange(1, 100))
        case _:
            other[at : at + 4096] = bytes(len(other[at : at + 4096]))
    return bytes(other)


def read_all(path: Path) -> None:
    """Read a file's header in every way that we have; a clear refusal is as good as a result."""
    for read in (describe, read_tensor_infos, lambda p: read_string(p, "tokenizer.chat_template")):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error) and "write it again" in str(error)


@pytest.mark.parametrize("block", range(8))
def test_a_damaged_file_is_refused_before_it_is_opened(
    whole: tuple[RunFolder, bytes], tally: Tally, block: int
) -> None:
    folder, data = whole
    (recorded,) = folder.recorded_files("quantize")

    def open_it() -> None:
        read_all(recorded.path)
        with verifying([recorded]):
            raise AssertionError("it was opened")

    for seed in range(25 * block, 25 * block + 25):
        other = damaged(data, random.Random(seed))
        if other == data:  # zeros in place of zeros
            other += b"\0"
        recorded.path.write_bytes(other)
        message = tally.must_refuse(f"seed {seed}", open_it)
        assert "q4_0.gguf" in message and "--redo quantize" in message
    recorded.path.write_bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_what_reaches_llama_cpp_all_the_same_ends_in_a_process_of_its_own(
    whole: tuple[RunFolder, bytes], tmp_path: Path, tally: Tally, seed: int
) -> None:
    """A file without a manifest, as a teacher's: llama.cpp may abort at it, and the error names it."""
    data = bytearray(whole[1])
    place = random.Random(seed)
    for _ in range(20):
        data[place.randrange(header_bytes(data))] ^= 1 << place.randrange(8)
    path = tmp_path / "file.gguf"
    path.write_bytes(data)

    def load() -> bool:
        with LlamaProcess(path, num_threads=1, context_length=64) as llama:
            return len(llama.tokenize(["a b"])) == 1

    tally.refuse_or(f"llama.cpp, seed {seed}", load, bool)


def test_the_whole_file_is_taken(whole: tuple[RunFolder, bytes], tally: Tally) -> None:
    (recorded,) = whole[0].recorded_files("quantize")

    def opened() -> int:
        with verifying([recorded]):
            return len(read_tensor_infos(recorded.path))

    tally.must_accept("whole", opened, 24)
