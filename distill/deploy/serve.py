"""`distill serve`: llama.cpp's OpenAI-compatible server on a run's GGUF file."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distill.deploy import engine
from distill.deploy.choose import GgufChoice
from distill.deploy.front import Front, is_loopback


def serve(
    chosen: GgufChoice, *, host: str, port: int, num_threads: int, context_length: int | None
) -> None:
    """Serve until SIGINT or SIGTERM, which ends the process.

    Raises what `Front` and `engine.start` raise.
    """
    with _stop_signals() as wait_for_stop:
        front = Front(host, port)
        running = engine.start(
            chosen,
            num_threads=num_threads,
            context_length=context_length,
            verbosity=engine.ERRORS,
        )
        front.start(running)
        print(
            f"{chosen.path.name} ({chosen.why}) at {front.url}, "
            f"threads: {num_threads}; Ctrl-C stops it"
        )
        _print_usage(chosen, host, front.url)
        wait_for_stop()
        front.stop()
        print("stopped", flush=True)
        sys.stderr.flush()
        # llama.cpp would first read the rest of a prompt; there is nothing here to be saved
        os._exit(0)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], None]]:
    """Within the block SIGINT and SIGTERM end a call of what it yields, instead of the process.

    The signal writes into a pipe. A handler that set a threading.Event would wait for itself, where
    it comes while the main thread is about to wait for that event; and a thread of llama.cpp may
    be the one that gets the signal.
    """
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    old_descriptor = signal.set_wakeup_fd(sender)
    numbers = (signal.SIGINT, signal.SIGTERM)
    old_handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield lambda: _read_one_of(receiver, numbers)
    finally:
        signal.set_wakeup_fd(old_descriptor)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        os.close(receiver)
        os.close(sender)


def _read_one_of(descriptor: int, numbers: tuple[int, ...]) -> None:
    """Read signals, a byte each, until one of these comes."""
    while os.read(descriptor, 1)[0] not in numbers:
        pass


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
    if not is_loopback(host):
        print(
            f"warning: {host} is reached from other machines, and whoever reaches it can use it: "
            "no key, no encryption",
            file=sys.stderr,
            flush=True,
        )
