"""`distill serve`: what a client gets, and how the server ends."""

import hashlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import unicodedata
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deploy_helpers import serving
from run_helpers import environment
from server_helpers import TEACHER

from distill import chat
from distill.__main__ import main
from distill.core.stored_json import read_json, write_json
from distill.deploy import engine
from distill.deploy.choose import choose
from distill.deploy.front import is_loopback
from distill.models import load

OTHER = [{"role": "system", "content": "Shout."}, {"role": "user", "content": "Hi"}]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How much are 3 mangoes at 4 shillings each?"},
]

NOISE = {
    "temperature": 10,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "seed": 3,
}  # it seldom ends by itself


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_on_a_signal(
    make_run: Callable[..., Path], number: signal.Signals
) -> None:
    run = make_run("generate.system_prompt=Be brief.", failed=("q4_0",))
    program = (
        "import os, sys; from distill.__main__ import main; "
        "os._exit = lambda status: sys.exit(status or 'torch' in sys.modules); main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(run), "--port", "0", "--threads", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        first, curl = child.stdout.readline(), child.stdout.readline()
        assert first.startswith(
            "q8_0.gguf (the smallest that passed its check) at http://127.0.0.1:"
        )
        url = first.split(" at ")[1].split(",")[0]
        assert curl.strip().startswith(f"curl {url}/v1/chat/completions")
        answer = post(f"{url}/v1/chat/completions", {"messages": MESSAGES})
        prompts = [
            post(f"{url}/apply-template", {"messages": messages})["prompt"]
            for messages in (MESSAGES, MESSAGES[1:], OTHER)
        ]
        with urllib.request.urlopen(f"{url}/props", timeout=60) as properties:
            info = json.load(properties)
        child.send_signal(number)
        assert child.wait(timeout=60) == 0
        system = "  generate.system_prompt stands before a conversation that has no system message of its own\n"
        assert child.stdout.read() == f"{system}stopped\n" and child.stderr.read() == ""
    assert (
        info["default_generation_settings"]["n_ctx"] == 2048
    )  # the student's, though 4096 are allowed
    assert answer["model"] == "mango-q8_0" and "12" in answer["choices"][0]["message"]["content"]
    # llama.cpp runs the student's template as transformers does, with the system message of training where there is no other
    tokenizer = load.load_tokenizer(str(TEACHER))
    assert prompts == [
        chat.prompt_text(tokenizer, messages) for messages in (MESSAGES, MESSAGES, OTHER)
    ]


@pytest.mark.parametrize("enable_thinking", ["null", "false"])
def test_a_template_with_a_switch_of_its_own_is_served_the_prompt_of_training(
    make_run: Callable[..., Path], tmp_path: Path, enable_thinking: str
) -> None:
    """llama.cpp by itself says enable_thinking=true: the file's template takes no notice."""
    student = Path(shutil.copytree(TEACHER, tmp_path / "student"))
    (student / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.reasoning_content }}{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n"
        "{% endif %}"
    )
    run = make_run(f"generate.enable_thinking={enable_thinking}", student=student)
    running = engine.start(choose(str(run), "q8_0"), num_threads=1, context_length=64)
    found = running.post("/apply-template", {"messages": MESSAGES})["prompt"]
    assert found.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert found == chat.prompt_text(load.load_tokenizer(str(student)), MESSAGES)


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_there_cannot_be_is_refused(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "somewhere", f"--port={port}"])
    assert (
        f"argument --port: {port!r} is not a port: a number from 0 to 65535"
        in capsys.readouterr().err
    )


def test_an_address_that_is_taken_is_an_error(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["serve", str(run), "--port", port]) == 2
    assert (
        f"--host 127.0.0.1 --port {port}: Address already in use; choose another"
        in capsys.readouterr().err
    )
    assert main(["serve", str(run), "--host", "192.0.2.1"]) == 2  # of no machine: RFC 5737
    assert "--host 192.0.2.1 --port 8080" in capsys.readouterr().err


def test_a_file_that_llama_cpp_cannot_load_is_an_error(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole, as quantize wrote it, but not for this llama.cpp: its manifest vouches for it."""
    run = make_run()
    broken = b"GGUF but no more"
    (run / "quantize" / "q8_0.gguf").write_bytes(broken)
    manifest = run / "quantize" / "manifest.json"
    content = read_json(manifest, "")
    sha256 = hashlib.sha256(broken).hexdigest()
    content["files"]["q8_0.gguf"] = {"bytes": len(broken), "sha256": sha256}
    write_json(manifest, content)
    assert main(["chat", str(run), "--format", "q8_0"]) == 2
    assert "q8_0.gguf: llama.cpp cannot load it" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_it_answers_it_ends_at_once_and_tells_the_client(
    make_run: Callable[..., Path], number: signal.Signals, stream: bool
) -> None:
    with serving(make_run()) as (child, url):
        body = {"messages": MESSAGES, "max_tokens": 1900, "stream": stream, **NOISE}
        headers = {"Content-Type": "application/json"}
        place = urlsplit(url).netloc
        clients = [http.client.HTTPConnection(place, timeout=20) for _ in range(12)]
        for seed, client in enumerate(clients):
            data = json.dumps({**body, "seed": seed})
            client.request("POST", "/v1/chat/completions", data, headers)
        if stream:
            answers = [clients[0].getresponse()]
            assert b"data:" in answers[0].read1(10_000)
            child.send_signal(number)
        else:
            time.sleep(0.1)
            child.send_signal(number)
            answers = [client.getresponse() for client in clients]
        start = time.monotonic()
        told = [answer.read().decode() for answer in answers]
        assert child.wait(timeout=10) == 0 and time.monotonic() - start < 2
    assert answers[0].status == 200 or not stream
    broken_off = [text for text in told if "is being stopped; the answer ends here" in text]
    assert broken_off  # some answers were whole by then, and the others not begun
    for text in broken_off:
        assert json.loads(text.strip().rsplit("data: ", 1)[-1])["error"]["code"] == 503


def test_without_a_word_on_its_length_an_answer_is_as_long_as_in_training(served: str) -> None:
    answer = post(f"{served}/v1/chat/completions", {"messages": MESSAGES, **NOISE})
    assert answer["usage"]["completion_tokens"] == 40
    longer = {"messages": MESSAGES, "max_tokens": 60, **NOISE}
    usage = post(f"{served}/v1/chat/completions", longer)["usage"]
    assert usage["completion_tokens"] == 60


def test_a_text_is_normalised_as_in_training(served: str) -> None:
    """Each mark of decomposed Yoruba would be a token of its own."""
    text = "Ẹ kú àárọ̀ o, ṣé ẹ jí dáadáa?"
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    ids = load.load_tokenizer(str(TEACHER))(text, add_special_tokens=False)["input_ids"]
    for spelling in (composed, decomposed):
        assert post(f"{served}/tokenize", {"content": spelling})["tokens"] == ids
        asked = {"messages": [{"role": "user", "content": spelling}], "max_tokens": 1}
        prompt = post(f"{served}/apply-template", {"messages": asked["messages"]})["prompt"]
        assert composed in prompt
        counted = post(f"{served}/v1/chat/completions", asked)["usage"]["prompt_tokens"]
        assert counted == len(chat.prompt_ids(load.load_tokenizer(str(TEACHER)), asked["messages"]))


def test_a_client_that_leaves_keeps_nobody_waiting(make_run: Callable[..., Path]) -> None:
    with serving(make_run()) as (_, url):
        body = json.dumps({"messages": MESSAGES, "max_tokens": 1900, **NOISE})
        for _ in range(3):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            time.sleep(0.1)
            connection.close()
        start = time.monotonic()
        post(f"{url}/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1})
        assert time.monotonic() - start < 2


def test_only_this_machineis_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "example.org")))
