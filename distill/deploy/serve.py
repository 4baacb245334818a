"""`distill serve`: llama.cpp's OpenAI-compatible server on a run's GGUF file."""

import ipaddress
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from distill.deploy import engine
from distill.deploy.choose import GgufChoice


def serve(
    chosen: GgufChoice, *, host: str, port: int, num_threads: int, context_length: int | None
) -> None:
    """Serve until SIGINT or SIGTERM. Raises what `engine.start` raises."""
    with _stop_signals() as stop:
        server = engine.start(
            chosen,
            host=host,
            port=port,
            num_threads=num_threads,
            context_length=context_length,
            verbosity=engine.ERRORS,
        )
        print(
            f"{chosen.path.name} ({chosen.why}) at {server.listening_address}, "
            f"threads: {num_threads}; Ctrl-C stops it"
        )
        _print_usage(chosen, host, server.listening_address)
        stop.wait()
        del server  # ends its threads
        print("stopped")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Within the block SIGINT and SIGTERM set the event instead of ending the process."""
    stop = threading.Event()
    old_handlers = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _print_usage(chosen: GgufChoice, host: str, url: str) -> None:
    """Print how to ask the server, and what to know about it."""
    print(
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' "
        """-d '{"messages": [{"role": "user", "content": "Hello"}]}'""",
        flush=True,
    )
    if chosen.recipe.generate.system_prompt is not None:
        print(
            "  generate.system_prompt stands before a conversation that has no system message of "
            "its own",
            flush=True,
        )
    if not _is_loopback(host):
        print(
            f"warning: {host} is reached from other machines, and whoever reaches it can use it: "
            "no key, no encryption",
            file=sys.stderr,
            flush=True,
        )


def _is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
