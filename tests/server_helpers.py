"""A real server (llama.cpp's own, serving the quickstart teacher) and a proxy before it that makes trouble on purpose."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from run_helpers import ROOT, environment, free_port

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
SERVE = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port = sys.argv[1], ["127.0.0.1"], 0
p.n_parallel, p.n_ctx, p.cpuparams.n_threads, p.warmup = 4, 4 * 256, 1, False
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory):
    """URL of llama.cpp's server in a process of its own."""
    from distill.formats.gguf.write import write_gguf

    path = tmp_path_factory.mktemp("served") / "teacher.gguf"
    write_gguf(TEACHER, path, "f16", metadata={})
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        url = next(line.strip() for line in child.stdout if line.startswith("http"))
        yield url
        child.kill()


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory):
    """URL of `transformers serve` on the quickstart's teacher: text only."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    cache = tmp_path_factory.mktemp("hub")  # without one it fails offline
    with subprocess.Popen(
        [program, "serve", str(TEACHER), "--device", "cpu", "--port", str(port)],
        env=environment(HF_HUB_CACHE=str(cache)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        end = time.monotonic() + 120
        while child.poll() is None and time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                break
            time.sleep(0.1)
        assert child.poll() is None, "`transformers serve` ended"
        yield f"http://127.0.0.1:{port}"
        child.kill()


class Proxy:
    """Forwards to `upstream`, unless `trouble(number, path)` (number: how many model requests came before) names a fault:

    a status ("429", "500", "401" ...), "stall", "cut", "not json", "wrong json"; None lets the request through.
    """

    def __init__(
        self, upstream: str, trouble: Callable[[int, str], str | None] = lambda number, path: None
    ):
        self.upstream, self.trouble = urlsplit(upstream), trouble
        self.asked: list[dict] = []  # bodies that came, in order
        self.headers: list[dict] = []
        self.retry_after = "0"
        self.stall_seconds = 3.0
        self._lock = threading.Lock()
        self.port = free_port()
        self._server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._answer(200, b"{}")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with proxy._lock:
                    number = len(proxy.asked)
                    proxy.asked.append({"path": self.path, **json.loads(body)})
                    proxy.headers.append(dict(self.headers))
                fault = proxy.trouble(number, self.path)
                if fault is None:
                    return self._answer(*proxy.forward(self.path, body))
                if fault == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"content": "half an ans')
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                if fault == "stall":
                    time.sleep(proxy.stall_seconds)
                    self.close_connection = True
                    return None
                if fault in ("not json", "wrong json"):
                    return self._answer(
                        200, b"<html>busy</html>" if fault == "not json" else b'{"choices": []}'
                    )
                return self._answer(int(fault), b'{"error": "as you asked"}')

            def _answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status in (429, 503):
                    self.send_header("Retry-After", proxy.retry_after)
                with contextlib.suppress(
                    BrokenPipeError, ConnectionResetError
                ):  # the client was killed
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def forward(self, path, body):
        connection = http.client.HTTPConnection(
            self.upstream.hostname, self.upstream.port, timeout=60
        )
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class Api:
    """A server of conversations as paid ones are: `reply(number, body)` gives the JSON of a request (and its status, if not 200), or
    text as it is sent. Other paths are not there."""

    def __init__(self):
        self.asked: list[dict] = []
        self.times: list[float] = []
        self.reply = lambda number, body: said("4")
        self.headers: dict[str, str] = {}
        api, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/chat/completions"):
                    return self._send(404, "{}")
                with lock:
                    number = len(api.asked)
                    api.asked.append(body)
                    api.times.append(time.monotonic())
                found = api.reply(number, body)
                status, found = found if isinstance(found, tuple) else (200, found)
                return self._send(status, found if isinstance(found, str) else json.dumps(found))

            def do_GET(self):
                self._send(200, "{}")

            def _send(self, status, text):
                self.send_response(status)
                data = text.encode()
                for name, value in {
                    "Content-Length": str(len(data)),
                    **(api.headers if status == 429 else {}),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def said(text, *, reason="stop", usage=(9, 3), **message):
    """A chat server's answer."""
    found = {
        "model": "served-1",
        "choices": [{"message": {"content": text, **message}, "finish_reason": reason}],
    }
    return found | (
        {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {}
    )


@pytest.fixture
def api():
    made = Api()
    yield made
    made.stop()


@pytest.fixture
def proxy(llama_server):
    made = Proxy(llama_server)
    yield made.start()
    made.stop()


@pytest.fixture(params=["llama_server", "transformers_server"])
def real_proxy(request):
    """A proxy before each of the two servers in turn."""
    made = Proxy(request.getfixturevalue(request.param))
    yield made.start()
    made.stop()


def log_probs_against_the_weights(folder: Path) -> tuple[dict, float, float]:
    """Of a run that took the log-probs of a server that serves TEACHER: what capture says of itself, the farthest that the log-prob
    of the likeliest token is from the one by our own forward, and how many of the top 20 are the same."""
    from distill.data.stored_samples import read_samples
    from distill.models import load
    from distill.models.head import head_of
    from distill.models.score import TokenSequence, answer_hidden_states, logit_chunks
    from distill.signals import draws
    from distill.signals.columns import Columns
    from distill.signals.encoding import TopKRecord
    from distill.signals.store import SignalStore, sequence_key

    samples = read_samples(folder / "generate/kept.jsonl")
    captured = json.loads((folder / "capture/manifest.json").read_text())["result"]
    assert captured["num_sequences"] == len(samples)
    store = SignalStore(folder / "capture/signals" / captured["folder"])
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    head, worst, in_common = head_of(model), 0.0, []
    for sample in samples[:20]:
        found = store.read(sequence_key(sample.ids, len(sample.prompt_ids)))
        assert isinstance(found, TopKRecord)
        (hidden,) = answer_hidden_states(
            model, [TokenSequence(sample.ids, len(sample.prompt_ids))], 0
        )
        for part, logits in logit_chunks(head, hidden):
            rows_of = draws.Rows.of(0, len(hidden))[part]
            expected = draws.top_k(logits, rows_of, k=20, columns=Columns(store.header.vocab_size))
            known = ~np.isneginf(found.tail_logp[part])
            worst = max(
                worst, float(np.abs(found.logp[part].max(1) - expected.logp.max(1))[known].max())
            )
            in_common += [
                len(set(a) & set(b))
                for a, b in zip(found.ids[part][known], expected.ids[known], strict=True)
            ]
    return captured, worst, float(np.mean(in_common))
