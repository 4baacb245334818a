"""`distill bench`: the figures it prints, what they are made of, and the estimate for a machine that is not here."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.__main__ import main
from distill.deploy import bandwidth, bench
from distill.deploy.targets import target, targets
from distill.errors import RecipeError
from distill.llama_cpp.gguf_header import TensorInfo

ROW = re.compile(
    r"(\w+) +([\d.]+) +([\d,]+) +(\d+) +([\d,]+) +([\d,.]+) +([\d.]+)%(\*?) *$", re.MULTILINE
)


def test_a_row_for_each_file(
    make_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 32 << 20)
    monkeypatch.setattr(bench, "NEW_TOKENS", 8)
    run = make_run(failed=("q4_0",))
    assert main(["bench", str(run), "--threads", "1", "--target", "raspberry pi 5"]) == 0
    text = capsys.readouterr().out
    rows = ROW.findall(text)
    assert [(row[0], row[3]) for row in rows] == [("f16", "1"), ("q8_0", "1"), ("q4_0", "1")]
    for name, size, memory, _, prefill, decode, _, _ in rows:
        assert float(size) == round((run / "quantize" / f"{name}.gguf").stat().st_size / 1e6, 1)
        assert 10 < int(memory.replace(",", "")) < 2000
        assert min(float(figure.replace(",", "")) for figure in (prefill, decode)) > 0
    assert re.search(r"memory is read at [\d.]+ GB/s with 1 thread;", text)
    assert "ESTIMATE for Raspberry Pi 5 (nothing was measured there): 17 GB/s at most" in text
    assert (
        "q4_0 FAILED its check: the student's likeliest token" in text and text.count("FAILED") == 1
    )
    assert text.count("too small for memory to bound it: no estimate") == 3


def test_a_format_and_a_target_are_checked_before_anything_is_measured(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert main(["bench", str(run), "--format", "q4"]) == 2
    assert main(["bench", str(run), "--target", "raspberry 5"]) == 2
    said = capsys.readouterr()
    assert not said.out and "did you mean q4_0?" in said.err
    assert (
        "--target 'raspberry 5': not in the table; did you mean Raspberry Pi 5 or Raspberry Pi 4? It has Raspberry Pi 5, "
        in said.err
    )


def test_the_share_is_decoding_over_what_memory_allows(files: dict[str, Path]) -> None:
    found = bench.measure(files["q8_0"], "q8_0", 1, read=1e9)
    assert found.share == pytest.approx(found.decode * found.bytes_per_token / 1e9)
    assert (
        0.9 * found.bytes < found.bytes_per_token < found.bytes
    )  # the vocabulary is in the file too


def test_of_an_untied_embedding_one_row_is_read() -> None:
    embedding, layer, head = (
        TensorInfo(name, 0, 0, size)
        for name, size in (("token_embd.weight", 7), ("blk.0.x", 2), ("output.weight", 5))
    )
    assert bench.bytes_per_token([embedding, layer]) == 9
    assert bench.bytes_per_token([embedding, layer, head]) == 7


def test_threads_double_up_to_the_most() -> None:
    assert [bench.thread_counts(n) for n in (1, 2, 3, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]


def test_an_estimate_is_a_share_of_the_bandwidth_over_the_bytes() -> None:
    pi = target("Raspberry Pi 5")
    assert pi.decode(int(2e9)) == pytest.approx(
        (0.53 * 17 / 2, 0.66 * 17 / 2)
    )  # a file of 2 GB: 4.5 to 5.6 were measured
    text = bench.estimate(pi, {"q4_k_m": int(2e9), "tiny": 1000})
    assert (
        "q4_k_m       4.5 to 5.6 tokens/s (2,000.0 MB a token)" in text
        and "tiny         too small" in text
    )
    assert pi.source in text and pi.measured in text


def test_every_machine_has_a_source_with_its_date_and_a_share() -> None:
    for machine in targets().values():
        assert 1e9 < machine.bandwidth < 1e12 and 0 < machine.share[0] < machine.share[1] < 1, (
            machine.name
        )
        assert re.search(r"20\d\d|product brief|\d MT/s", machine.source), machine.name
        assert re.search(r"20\d\d-\d\d", machine.measured), machine.name
    with pytest.raises(RecipeError, match="not in the table"):
        target("toaster")


def test_reading_memory_takes_every_thread() -> None:
    for count in (1, 3):
        assert bandwidth.read_bandwidth(count, 8 << 20) > 0
    assert bandwidth.cache_bytes() is None or bandwidth.cache_bytes() >= 1 << 14
