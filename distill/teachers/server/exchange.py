"""One HTTP exchange with a server, within bounds of bytes and of time.

A server may be broken or hostile: a compressed answer of a megabyte unpacks to a thousand, a body
has no end, a byte comes now and then. So an answer is read piece by piece, no piece is unpacked
beyond what is still allowed, and one clock runs over all of it.
"""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from distill.errors import ServerError
from distill.privacy.local_addresses import addresses_of, foreign
from distill.teachers.server.replies import RetryableError, ServerAway, shown

CONNECT_SECONDS = 20.0
ACCEPTED_ENCODING = "gzip"  # one that is unpacked here, to the byte that is allowed
ZLIB_OF_GZIP = zlib.MAX_WBITS | 16


class NotLocal(ServerError):
    """A request that `privacy: local` forbids."""


@dataclass(frozen=True)
class Bounds:
    """What one answer may take: bytes, as sent and as unpacked, and seconds from first to last."""

    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Response:
    """A whole answer. `headers` are found by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @cached_property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


def new_client(key: str | None, seconds: float, *, local_only: bool = False) -> Any:
    """Return the HTTP client of a server; `seconds`: of one answer.

    `local_only`: it sends nothing to an address that is not of this machine or its own network.
    """
    import httpx2

    headers = {"Content-Type": "application/json", "Accept-Encoding": ACCEPTED_ENCODING}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    # a little less, so that an address without a server is told from a slow answer
    timeout = httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, 0.9 * seconds))
    if not local_only:
        return httpx2.AsyncClient(
            headers=headers, verify=_certificates(), timeout=timeout, limits=limits
        )
    # trust_env: a proxy that the environment names would be asked in the server's place
    return httpx2.AsyncClient(
        headers=headers, transport=_local_transport(limits), timeout=timeout, trust_env=False
    )


def _local_transport(limits: Any) -> Any:
    """Return a transport that looks up each request's host itself, and goes to local addresses only."""
    import httpx2

    class LocalTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            host = request.url.host
            try:
                # in a thread: a resolver may take seconds
                addresses = await asyncio.to_thread(addresses_of, host)
            except OSError as error:
                raise httpx2.ConnectError(f"{host}: {error.strerror or error}") from None
            if outside := foreign(addresses):
                raise NotLocal(
                    f"privacy: local, and {host} is {outside[0]}, a public address: nothing was "
                    "sent. Name a server of this machine or its own network, or set privacy to "
                    "redact or open"
                )
            # the very address that was looked at; the name stays what TLS and the server see
            request.extensions["sni_hostname"] = host
            request.url = request.url.copy_with(host=str(addresses[0]))
            return await super().handle_async_request(request)

    return LocalTransport(verify=_certificates(), limits=limits)


@cache
def _certificates() -> Any:
    """Return whom to trust, which takes some 40 ms to read: once for all servers."""
    import httpx2

    return httpx2.create_ssl_context()


async def exchange(
    client: Any,
    method: str,
    url: str,
    data: bytes,
    bounds: Bounds,
    count: Callable[[int], None],
) -> Response:
    """Send `data` and return the answer; redirects are not followed.

    `count` is called with the bytes that went either way, also where no answer comes of them.

    Raises ServerAway where nothing answers, and RetryableError for what is no whole answer within
    the bounds.
    """
    import httpx2

    try:
        async with (
            asyncio.timeout(bounds.seconds),
            client.stream(method, url, content=data or None) as response,
        ):
            count(len(data))
            content = await _content(response, bounds.num_bytes, count)
            return Response(response.status_code, response.headers, content)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise ServerAway(str(error) or type(error).__name__) from None
    except (TimeoutError, httpx2.TimeoutException):
        problem = f"no whole answer in time ({bounds.seconds:g} s, generate.request_timeout)"
        raise RetryableError(problem, "late") from None
    except httpx2.RequestError as error:
        problem = f"the connection broke ({shown(str(error)) or type(error).__name__})"
        raise RetryableError(problem, "lost") from None
    finally:
        client.cookies.clear()  # an API needs none, and ever more would fill our requests


async def _content(response: Any, most: int, count: Callable[[int], None]) -> bytes:
    """Return the body, unpacked."""
    unpacker = _unpacker(response.headers)
    content = bytearray()
    num_packed = 0
    async for piece in response.aiter_raw():
        num_packed += len(piece)
        if unpacker is not None:
            piece = _unpacked(unpacker, piece, most - len(content) + 1)
        count(len(piece))
        content += piece
        if max(len(content), num_packed) > most:
            raise RetryableError(
                f"an answer of more than {most / 1e6:.1f} MB, and no answer to this request can "
                "need so much",
                "other",
            )
    if unpacker is not None and not unpacker.eof:
        raise RetryableError("its compressed answer ends too early", "broken")
    return bytes(content)


def _unpacker(headers: Mapping[str, str]) -> Any:
    """Return what unpacks a body of such headers; None where it comes as it is."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return zlib.decompressobj(ZLIB_OF_GZIP)
    raise RetryableError(
        f"its answer is packed as {encoding[:40]!r}, and {ACCEPTED_ENCODING} was asked for",
        "broken",
    )


def _unpacked(unpacker: Any, piece: bytes, most: int) -> bytes:
    """Return at most `most` bytes of what the piece unpacks to."""
    try:
        return unpacker.decompress(piece, most)
    except zlib.error as error:
        raise RetryableError(f"its compressed answer is broken ({error})", "broken") from None
