"""The header of a GGUF file: what it declares is read, and a broken one is refused by name."""

import random
import struct

import pytest
from hostile_helpers import Tally

from distill.errors import DataError
from distill.llama_cpp.gguf_header import read_string, read_tensor_infos

KIND = "GGUF headers"
F32, Q8_0 = 0, 8


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


VALUES = [
    text(b"general.architecture") + struct.pack("<I", 8) + text(b"qwen3"),
    text(b"qwen3.block_count") + struct.pack("<II", 4, 2),
    text(b"tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b"),
]


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def gguf_file(values: list[bytes], tensors: list[bytes], num_bytes: int) -> bytes:
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    header = start + b"".join([*values, *tensors])
    return header + bytes(-len(header) % 32 + num_bytes)


TENSORS = [tensor(b"a", (32, 4), F32, 0), tensor(b"b", (64, 2), Q8_0, 512)]
HEALTHY = gguf_file(VALUES, TENSORS, 512 + 4 * 34)
HEADER_BYTES = 24 + sum(map(len, [*VALUES, *TENSORS]))


def test_what_it_declares_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(HEALTHY)
    infos = [(i.name, i.type_id, i.num_weights, i.bytes) for i in read_tensor_infos(path)]
    assert infos == [("a", F32, 128, 512), ("b", Q8_0, 128, 136)]
    assert read_string(path, "general.architecture") == "qwen3"
    assert read_string(path, "qwen3.block_count") is read_string(path, "none") is None


ODD = {
    "nothing": b"",
    "another file": b"PK\x03\x04" + bytes(100),
    "cut in the header": HEALTHY[:100],
    "cut in the data": HEALTHY[:-1],
    "a tensor without dimensions": gguf_file([], [tensor(b"a", (), F32, 0)], 64),
    "a tensor of 2^63 columns": gguf_file([], [tensor(b"a", (1 << 63,), F32, 0)], 64),
    "an unknown type": gguf_file([], [tensor(b"a", (32,), 999, 0)], 512),
    "2^64 - 1 values": HEALTHY[:16] + b"\xff" * 8 + HEALTHY[24:],
    "2^64 - 1 tensors": HEALTHY[:8] + b"\xff" * 8 + HEALTHY[16:],
    "a name of 2^64 - 1 bytes": HEALTHY[:24] + b"\xff" * 8 + HEALTHY[32:],
    "lists in lists in lists": gguf_file(
        [text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20_000], [], 64
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_broken_header_is_refused(tally: Tally, tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(ODD[name])
    message = tally.must_refuse(name, lambda: read_tensor_infos(path))
    assert "m.gguf: not a whole GGUF file" in message
    read_string(path, "x")  # llama.cpp then says what is wrong


def test_no_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(DataError, match="not a whole GGUF file"):
            read_tensor_infos(path)


def test_flipped_bits_are_refused_or_read_as_what_they_say(tally: Tally, tmp_path):
    chance = random.Random(0)
    path = tmp_path / "m.gguf"
    for _ in range(200):
        flipped = bytearray(HEALTHY)
        place = chance.randrange(HEADER_BYTES)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        tally.refuse_or(
            f"byte {place}",
            lambda: read_tensor_infos(path),
            lambda infos: all(info.bytes <= len(HEALTHY) for info in infos),
        )
        read_string(path, "general.architecture")
