"""`distill serve`: what a client gets, and how the server ends."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import environment
from server_helpers import TEACHER

from distill.__main__ import main
from distill.deploy.serve import _is_loopback
from distill.models import load
from distill.text import chat

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How much are 3 mangoes at 4 shillings each?"}]


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", "Origin": "http://evil.example"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] != "*"
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_on_a_signal(make_run: Callable[..., Path], number: signal.Signals) -> None:
    run = make_run(failed=("q4_0",))
    program = "import sys; from distill.__main__ import main; sys.exit(main() or 'torch' in sys.modules)"
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(run), "--port", "0", "--threads", "1"], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stderr is not None
        first, curl = child.stdout.readline(), child.stdout.readline()
        assert first.startswith("q8_0.gguf (the smallest that passed its check) at http://127.0.0.1:")
        url = first.split(" at ")[1].split(",")[0]
        assert curl.strip().startswith(f"curl {url}/v1/chat/completions")
        answer = post(f"{url}/v1/chat/completions", {"messages": MESSAGES})
        prompt = post(f"{url}/apply-template", {"messages": MESSAGES})["prompt"]
        with urllib.request.urlopen(f"{url}/props", timeout=60) as properties:
            info = json.load(properties)
        child.send_signal(number)
        assert child.wait(timeout=60) == 0
        assert child.stdout.read() == "stopped\n" and child.stderr.read() == ""
    assert info["default_generation_settings"]["n_ctx"] == 2048  # the student's, though 4096 are allowed
    assert answer["model"] == "mango-q8_0" and "12" in answer["choices"][0]["message"]["content"]
    # llama.cpp runs the student's template as transformers does
    assert prompt == chat.prompt_text(load.load_tokenizer(str(TEACHER)), MESSAGES)


def test_an_address_that_is_taken_is_an_error(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["serve", str(run), "--port", port]) == 2
    assert f"--host 127.0.0.1 --port {port}: Address already in use; choose another" in capsys.readouterr().err
    assert main(["serve", str(run), "--host", "192.0.2.1"]) == 2  # of no machine: RFC 5737
    assert "--host 192.0.2.1 --port 8080" in capsys.readouterr().err


def test_a_file_that_is_broken_is_an_error(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    (run / "quantize" / "q8_0.gguf").write_bytes(b"GGUF but no more")
    assert main(["chat", str(run), "--format", "q8_0"]) == 2
    assert "q8_0.gguf: llama.cpp cannot load it" in capsys.readouterr().err


def test_only_this_machine_is_loopback() -> None:
    assert all(map(_is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(_is_loopback, ("0.0.0.0", "::", "192.168.1.7", "example.org")))
