"""The door of `distill serve`: it checks every request before llama.cpp's own server sees it.

llama.cpp listens on an address of this machine alone, behind a key that nobody else knows. It takes
requests from every web page that a browser here shows, ends the process over some of them, and when
it is stopped while it answers it waits for itself for ever.
"""

import http.client
import ipaddress
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from distill.deploy.engine import MAX_CONNECTIONS, Engine
from distill.deploy.request_checks import (
    CHAT,
    COMPLETION,
    LENGTHS,
    TEMPLATE,
    TOKENIZE,
    Check,
    Refusal,
    checked,
    read_object,
)
from distill.errors import MismatchError

MAX_BODY = 4 << 20  # bytes: the longest contexts are shorter
BODY_SECONDS, IDLE_SECONDS = 60.0, 30.0  # to send a body, and between two requests
STOP_SECONDS = 1.5  # to tell the clients that the server ends
STREAM_END = b"data: [DONE]\n\n"
STOPPING = "the server is being stopped; the answer ends here"
READ_PATHS = ("/health", "/v1/health", "/models", "/v1/models", "/props")
WRITE_PATHS = {
    "/v1/chat/completions": CHAT,
    "/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/completions": COMPLETION,
    "/completion": COMPLETION,
    "/apply-template": TEMPLATE,
    "/tokenize": TOKENIZE,
}


class Front(ThreadingHTTPServer):
    """Listens on host:port (0 = any) and hands what passes its checks to `engine`.

    Raises MismatchError if nothing can listen there.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int):
        self.engine: Engine | None = None  # set once the file is loaded
        self.is_local = is_loopback(host)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._stopping = threading.Event()
        self._answering: set[_Handler] = set()
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__(address, _Handler)  # pyright: ignore[reportArgumentType]
        except OSError as error:
            raise MismatchError(
                f"--host {host} --port {port}: {error.strerror}; choose another"
            ) from None

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self, engine: Engine) -> None:
        """Answer in threads of their own from now on."""
        self.engine = engine
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Take no more, break off what is being answered, and let every client be told so."""
        self._stopping.set()
        self.shutdown()
        deadline = time.monotonic() + STOP_SECONDS
        while self._answering and time.monotonic() < deadline:
            for handler in list(self._answering):
                handler.break_off()
            time.sleep(0.01)

    @contextmanager
    def answering(self, handler: "_Handler") -> Iterator[None]:
        """Within the block `stop` breaks the handler's answer off, and waits for its last word."""
        self._answering.add(handler)
        try:
            yield
        finally:
            self._answering.discard(handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, unless there are too many."""
        if not self._places.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(
                    b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def server_bind(self) -> None:
        """Bind without looking the name of the host up, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client has gone: it is no fault of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "distill", ""
    timeout = IDLE_SECONDS
    server: Front  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(WRITE_PATHS.get(urlsplit(self.path).path))

    def _answer(self, fields: Mapping[str, Check] | None) -> None:
        """Check the request and hand it on. `fields`: of the body; None where there is none."""
        with self.server.answering(self):
            try:
                require_own(self.headers, is_local=self.server.is_local)
                path = self._known_path()
                body = self._read_body(is_wanted=fields is not None)
                passed = None if fields is None else checked(read_object(body), fields)
                if passed is not None and "messages" in passed:
                    self._require_no_marks(passed["messages"])
                if passed is not None:
                    self._require_room(passed)
                self._forward(path, passed)
            except Refusal as error:
                self._refuse(error.status, str(error))

    def _known_path(self) -> str:
        path = urlsplit(self.path).path
        if path in (READ_PATHS if self.command == "GET" else WRITE_PATHS):
            return path
        if path in READ_PATHS or path in WRITE_PATHS:
            raise Refusal(405, f"{path} does not take {self.command}")
        known = ", ".join((*READ_PATHS, *WRITE_PATHS))
        raise Refusal(404, f"no such path; there are {known}")

    def _read_body(self, *, is_wanted: bool) -> bytes:
        """Return the body. Raises Refusal for one that is too long, of another type or unwanted."""
        if "Transfer-Encoding" in self.headers or "Content-Encoding" in self.headers:
            raise Refusal(411, "a body must come whole and plain, with its Content-Length")
        length = self.headers.get("Content-Length", "" if is_wanted else "0")
        if not (length.isascii() and length.isdecimal()) or len(length) > 18:
            raise Refusal(411, "Content-Length must be the number of bytes of the body")
        if not is_wanted and int(length):
            raise Refusal(400, f"{self.command} takes no body")
        if int(length) > MAX_BODY:
            raise Refusal(413, f"a body of {int(length):,} bytes; {MAX_BODY:,} are the most")
        if is_wanted and self.headers.get_content_type() != "application/json":
            raise Refusal(415, "Content-Type must be application/json")
        return self._read(int(length))

    def _read(self, length: int) -> bytes:
        """Return so many bytes. Raises Refusal if they come too slowly or not at all."""
        data, deadline = bytearray(), time.monotonic() + BODY_SECONDS
        try:
            while len(data) < length and time.monotonic() < deadline:
                if not (part := self.rfile.read1(length - len(data))):
                    break
                data += part
        except TimeoutError:
            pass  # it is refused as too short
        if len(data) < length:
            raise Refusal(408, f"{len(data):,} of {length:,} bytes of the body came in time")
        return bytes(data)

    def _require_no_marks(self, messages: list[dict[str, str]]) -> None:
        """Raise Refusal if a text holds a mark of the chat template: it would forge a turn."""
        texts = [text for message in messages for text in (message["content"], message["role"])]
        texts += [message.get("reasoning_content", "") for message in messages]
        if mark := self._engine().mark_in(texts):
            raise Refusal(
                400,
                f"messages hold {mark!r}, a mark of the chat template, which would be read as the "
                "end of a turn and not as text; write it another way",
            )

    def _require_room(self, body: dict[str, Any]) -> None:
        """Raise Refusal if prompt and the longest answer asked for are beyond the context.

        llama.cpp would cut the answer there without a word.
        """
        name = next((name for name in LENGTHS if name in body), None)
        if name is None:
            return
        context, num_prompt = self._engine().context_length(), self._engine().num_tokens(body)
        if num_prompt + body[name] > context:
            raise Refusal(
                400,
                f"{name}: this server's context is {context:,} tokens, and {num_prompt + body[name]:,} "
                f"are asked for ({num_prompt:,} of the prompt, {body[name]:,} of the answer); lower "
                f"{name}, or leave it out",
            )

    def _engine(self) -> Engine:
        assert self.server.engine is not None
        return self.server.engine

    def _forward(self, path: str, body: dict[str, Any] | None) -> None:
        """Let llama.cpp answer, and hand its answer on as it comes."""
        connection = self._engine().connect()
        try:
            if self.server.is_stopping:
                raise Refusal(503, STOPPING)
            self._engine().send(connection, self.command, path, body)
            self._upstream = connection.sock
            if self._has_left(connection.sock):
                self.close_connection = True
                return
            answer = connection.getresponse()
            data = answer.read() if answer.length is not None else None
        except (OSError, http.client.HTTPException):
            raise self._broken_off() from None
        else:
            self._hand_on(answer, data)
        finally:
            connection.close()

    def break_off(self) -> None:
        """Let the answer end here, from another thread."""
        with suppress(OSError, AttributeError):  # it has not begun, or has just ended
            self._upstream.shutdown(socket.SHUT_RDWR)

    def _has_left(self, upstream: socket.socket) -> bool:
        """Wait for the answer to begin; return True if the client leaves first.

        llama.cpp then gives up the answer, and the next client need not wait for it.
        """
        while True:
            ready, _, _ = select.select([upstream, self.connection], [], [])
            if upstream in ready:
                return False
            if not self.connection.recv(1, socket.MSG_PEEK):
                return True
            select.select([upstream], [], [])  # it sent its next request early
            return False

    def _broken_off(self) -> Refusal:
        if self.server.is_stopping:
            return Refusal(503, STOPPING)
        return Refusal(502, "llama.cpp broke the answer off")

    def _hand_on(self, answer: http.client.HTTPResponse, data: bytes | None) -> None:
        if data is None:
            self._hand_on_stream(answer)
        else:
            self._send(answer.status, data, answer.headers.get("Content-Type", "application/json"))

    def _hand_on_stream(self, answer: http.client.HTTPResponse) -> None:
        """Hand on events as they come. Where they break off, the last one says so."""
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/event-stream"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        tail = b""
        while part := _read_some(answer):
            self._send_chunk(part)
            tail = (tail + part)[-len(STREAM_END) :]
        if tail != STREAM_END:
            event = json.dumps(_error(self._broken_off()))
            self._send_chunk(f"data: {event}\n\n".encode())
            self.close_connection = True
        self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _send(self, status: int, data: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        """Send the error, and close: what is left of the request is not read as another one."""
        self.close_connection = True
        with suppress(OSError):
            data = json.dumps(_error(Refusal(status, message))).encode()
            self._send(status, data, "application/json")
            self._read_away()

    def _read_away(self) -> None:
        """Read what the client still sends; else the system drops our answer with the connection."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(0.5)
        left = 4 * MAX_BODY
        while left > 0 and (part := self.connection.recv(1 << 16)):
            left -= len(part)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send the errors of the base class, which are HTML, as ours."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else code
        self.request_version = self.protocol_version  # what it said may have been none
        self._refuse(status, (message or HTTPStatus(code).phrase)[:200])

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line a request: they may hold anything."""


def _read_some(answer: http.client.HTTPResponse) -> bytes:
    """Return what has come of a stream; nothing at its end, or where it breaks off."""
    try:
        return answer.read1(1 << 16)
    except (OSError, ValueError, http.client.HTTPException):
        return b""


def _error(refusal: Refusal) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"error": {"message": str(refusal), "type": kind, "code": refusal.status}}


def require_own(headers: Message, *, is_local: bool) -> None:
    """Raise Refusal for a request that a web page of another place sent.

    A page sends its origin with what it asks, and one that was resolved to this machine names its
    own host. `is_local`: only this machine is served.
    """
    if len(headers.get_all("Host", [])) != 1:
        raise Refusal(400, "a request names one Host")
    host = headers["Host"]
    if is_local and not is_loopback(_host_name(host)):
        raise Refusal(403, f"Host {host[:60]!r} is not this machine; ask it as 127.0.0.1")
    origin = headers.get("Origin")
    is_own_page = origin == f"http://{host}" and _is_address(_host_name(host))
    is_foreign = headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if is_foreign or (origin is not None and not is_own_page):
        raise Refusal(403, "requests of web pages of other places are not taken")


def _host_name(host: str) -> str:
    """Return a Host header's name or address, without port and brackets; "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Return whether a name is an address, or means this machine: no other name server decides."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
