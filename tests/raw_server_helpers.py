"""A server in this process that sends whatever bytes a test makes up, and teachers that ask it."""

import contextlib
import gzip
import json
import socketserver
import threading
from collections.abc import Callable, Iterable

from run_helpers import QUICKSTART

from distill.data.samples import Prompt
from distill.models import load
from distill.recipe import load_recipe
from distill.teachers.base import Teacher
from distill.teachers.requests import AnswerJob, Block, Completion, Request, RequestOptions
from distill.teachers.server.teacher import ServerTeacher

TOP_K = 5


class RawServer:
    """`send(number, path, body)` gives the bytes that are sent, or pieces of them as they come.

    number: how many answers were asked for before (the probes of a run included). GET is a list of
    models.
    """

    def __init__(self):
        self.send: Callable[[int, str, dict], bytes | Iterable[bytes]] = lambda *_: http({})
        self.asked: list[tuple[str, dict]] = []
        self.num_sent = 0  # bytes that left before the client had enough
        raw, lock = self, threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    self._answer()

            def _answer(self):
                method, path, _ = self.rfile.readline().decode().split(" ", 2)
                length = 0
                while (line := self.rfile.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = self.rfile.read(length)
                if method == "GET":
                    return self.wfile.write(http({"data": []}))
                with lock:
                    number = len(raw.asked)
                    raw.asked.append((path, json.loads(body)))
                pieces = raw.send(number, path, json.loads(body))
                for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                    self.wfile.write(piece)
                    raw.num_sent += len(piece)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def http(content, status=200, **headers) -> bytes:
    """A whole answer: bytes, text or JSON, with its length; `headers` by names with _ for -."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    lines = {"Content-Length": len(content), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + content


def zipped(content, times=1, **headers) -> bytes:
    data = json.dumps(content).encode()
    for _ in range(times):
        data = gzip.compress(data)
    return http(data, **{"Content_Encoding": ", ".join(["gzip"] * times), **headers})


class ExactServer:
    """What a good server of exact ids (llama.cpp) says, and of text alone (chat)."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def exact(self, text="4", **changes) -> dict:
        """llama.cpp's answer with log-probs that are: half for the token, the rest for others."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        found = {
            "content": text,
            "tokens": ids,
            "stop_type": "eos",
            "tokens_evaluated": 9,
            "tokens_predicted": len(ids),
            "completion_probabilities": [self.row(token) for token in ids],
        }
        return found | changes

    def row(self, token, log_probs=(-0.7, -2.0, -3.0, -3.0, -4.0)) -> dict:
        others = [i for i in range(20, 20 + TOP_K) if i != token]
        ids = [token, *others][: len(log_probs)]
        rivals = [{"id": i, "logprob": p} for i, p in zip(ids, log_probs, strict=True)]
        return {"id": token, "top_logprobs": rivals}


def answering(exact=None, chat=None):
    """`send` of a server with some of the paths: exact(number, body), chat(number, body)."""

    def send(number, path, body):
        reply = {"/completion": exact, "/v1/chat/completions": chat}.get(path)
        return http({}, 404) if reply is None else reply(number, body)

    return send


def teacher_on(url, *overrides, folder, from_server=False) -> ServerTeacher:
    """The quickstart's teacher on that server; what failed is asked again at once."""
    signal = ["capture.from_server=true", "capture.signal=top_k", f"capture.top_k={TOP_K}"]
    recipe = load_recipe(
        QUICKSTART,
        [
            f"run_folder={folder}",
            f"teacher.server={url}",
            "generate.concurrency=1",
            "generate.max_new_tokens=24",
            "generate.request_timeout=5",
            *(signal if from_server else []),
            *overrides,
        ],
    )
    teacher = ServerTeacher(recipe)
    teacher.first_delay = 0.0
    return teacher


def ask(teacher: Teacher, num=2, said: list[str] | None = None) -> list[Completion]:
    """Ask the teacher some questions, as `generate` does; return what it recorded."""
    options = RequestOptions.of(teacher.recipe)
    prompts = [Prompt(({"role": "user", "content": f"{n} + {n}?"},), "en") for n in range(num)]
    requests = [Request(f"k{n}", p, [1, 30, 31], 0, 100 + n) for n, p in enumerate(prompts)]
    found: list[Completion] = []
    say = (said if said is not None else []).append
    teacher.answer(
        AnswerJob(iter([Block(requests)]), options, {}, lambda q, a: found.append(a), say)
    )
    return found


def quickstart_tokenizer():
    return load.load_tokenizer(str(QUICKSTART.parent / "quickstart" / "teacher"))
