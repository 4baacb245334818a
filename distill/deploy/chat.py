"""`distill chat`: a conversation with a run's GGUF file, in the terminal, on the CPU.

On a terminal Ctrl-C stops an answer; at the prompt Ctrl-D, or Ctrl-C twice, ends. From a pipe each line is a turn.
"""

import io
import secrets
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from distill.deploy import engine
from distill.deploy.choose import GgufChoice
from distill.errors import DataError, Stopped
from distill.text.surrogates import without_lone_surrogates

DIM, PLAIN = "\033[2m", "\033[0m"


def talk(chosen: GgufChoice, *, num_threads: int, context_length: int | None) -> None:
    """Until the input ends. Raises what `engine.start` raises, and DataError where llama.cpp refuses a request."""
    server = engine.start(
        # the engine always listens; nobody else knows the key
        chosen,
        host="127.0.0.1",
        port=0,
        num_threads=num_threads,
        context_length=context_length,
        api_key=secrets.token_hex(),
    )
    conversation = Conversation(server, chosen)
    _say(f"{chosen.path.name} ({chosen.why}), threads: {num_threads}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # llama.cpp takes whole characters only
    for line in _terminal_lines() if sys.stdin.isatty() else sys.stdin:
        if "\ufffd" in line:
            _say(f"what is no {sys.stdin.encoding} in this line is read as \ufffd")
        if line.strip():
            conversation.answer(line.strip())


class Conversation:
    """The messages so far, after `generate.system_prompt`, and the engine that answers them."""

    def __init__(self, server: Any, chosen: GgufChoice):
        self._server, self._options = server, chosen.recipe.generate
        system = self._options.system_prompt
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.turns: list[dict[str, str]] = []

    def answer(self, text: str) -> None:
        """Stream the answer to the terminal and keep both. The oldest exchange is forgotten where all do not fit."""
        # half a character makes the engine raise, and its end may then wait for itself for ever
        whole = without_lone_surrogates(text)
        # llama.cpp does not normalise text as the tokenizer does
        self.turns.append({"role": "user", "content": unicodedata.normalize("NFC", whole)})
        while (printed := self._ask()) is None:
            if len(self.turns) == 1:
                raise DataError(
                    "this message alone is longer than the context; shorten it, or raise --context"
                )
            del self.turns[:2]
            _say(
                "the oldest question and answer were forgotten: the conversation is longer than the context (--context)"
            )
        if printed.answer:
            self.turns.append({"role": "assistant", "content": printed.answer})
        else:
            self.turns.pop()

    def _ask(self) -> "_Printer | None":
        """One request; None where the context is too short for it."""
        options, printer = self._options, _Printer()
        refused: list[dict[str, Any]] = []

        def take(chunk: dict[str, Any]) -> bool:
            """True ends the answer."""
            if "error" in chunk:
                refused.append(chunk["error"])
                return True
            printer.take(chunk["choices"][0])
            return stopped()

        request = {
            "messages": [*self._system, *self.turns],
            "stream": True,
            "max_tokens": options.max_new_tokens,
        }
        with _interruptible() as stopped:
            try:
                self._server.handle_chat_completions(request, take)
            except RuntimeError as error:
                raise DataError(f"llama.cpp cannot answer: {error}") from None
        if refused and refused[0]["type"] == "exceed_context_size_error":
            return None
        if refused:
            raise DataError(f"llama.cpp refuses the conversation: {refused[0]['message']}")
        printer.end(f"generate.max_new_tokens {options.max_new_tokens}", stopped())
        if stopped() and not sys.stdin.isatty():
            raise Stopped("stopped by SIGINT")
        return printer


class _Printer:
    """Writes an answer as it comes; the reasoning dim, or on standard error where the answer goes into a pipe."""

    def __init__(self) -> None:
        self.answer = ""
        self._finish_reason: str | None = None
        self._reasoned = False

    def take(self, choice: dict[str, Any]) -> None:
        self._finish_reason = choice["finish_reason"]
        if thought := choice["delta"].get("reasoning_content"):
            self._reasoned = True
            if sys.stdout.isatty():
                print(f"{DIM}{thought}{PLAIN}", end="", flush=True)
            else:
                print(thought, end="", file=sys.stderr, flush=True)
        text = choice["delta"].get("content") or ""
        if text := text if self.answer else text.lstrip():
            if self._reasoned and not self.answer:
                print("\n", file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)
            self.answer += text
            print(text, end="", flush=True)

    def end(self, limit: str, stopped: bool) -> None:
        print(flush=True)
        if stopped:
            _say("stopped")
        elif self._finish_reason == "length":
            _say(f"cut here: {limit}, or the end of the context")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only sets a flag, which the callable tells: an exception would cross C++ code."""
    pressed: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        pressed.append(number)

    in_main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGINT, note) if in_main else None
    try:
        yield lambda: bool(pressed)
    finally:
        if in_main:
            signal.signal(signal.SIGINT, old)


def _terminal_lines() -> Iterator[str]:
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` then edits lines and has a history
    warned = False
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if warned:
                return
            warned = True
            _say("Ctrl-C again, or Ctrl-D, ends")
            continue
        warned = False
        yield line


def _say(text: str) -> None:
    """A remark of ours, beside the conversation."""
    dim, plain = (DIM, PLAIN) if sys.stderr.isatty() else ("", "")
    print(f"{dim}({text}){plain}", file=sys.stderr, flush=True)
