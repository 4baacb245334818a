"""`distill bench`: the figures it prints, and what is checked before anything is measured."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.__main__ import main
from distill.deploy import bandwidth, speed

ROW = re.compile(
    r"(\w+) +([\d.]+) +([\d,]+) +(\d+) +([\d,]+) +([\d,.]+) +([\d.]+)%(\*?) *$", re.MULTILINE
)


def test_a_row_for_each_file(
    make_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 32 << 20)
    monkeypatch.setattr(speed, "NEW_TOKENS", 8)
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
