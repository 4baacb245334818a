"""`distill chat`: a conversation with a run's GGUF file, in the terminal, on the CPU.

On a terminal Ctrl-C stops an answer; at the prompt Ctrl-D, or Ctrl-C twice, ends. From a pipe each
line is a turn.
"""

import io
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from distill.core import terminal
from distill.deploy import engine
from distill.deploy.choose import GgufChoice
from distill.errors import DataError, Stopped
from distill.text.surrogates import without_lone_surrogates

DIM, PLAIN = "\033[2m", "\033[0m"
TOO_LONG = "exceed_context_size_error"  # llama.cpp's type of the error
Message = dict[str, str]


def talk(chosen: GgufChoice, *, num_threads: int, context_length: int | None) -> None:
    """Answer each line of the input until it ends.

    Raises what `engine.start` raises, and DataError where llama.cpp refuses a request.
    """
    running = engine.start(chosen, num_threads=num_threads, context_length=context_length)
    conversation = Conversation(running, chosen)
    _remark(f"{chosen.path.name} ({chosen.why}), threads: {num_threads}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # llama.cpp takes whole characters only
    for line in _terminal_lines() if sys.stdin.isatty() else sys.stdin:
        if "\ufffd" in line:
            _remark(f"what is no {sys.stdin.encoding} in this line is read as \ufffd")
        if line.strip():
            conversation.answer(line.strip())


class Conversation:
    """The messages so far, after `generate.system_prompt`, and the engine that answers them."""

    def __init__(self, running: engine.Engine, chosen: GgufChoice):
        self._engine = running
        self._max_new_tokens = chosen.recipe.generate.max_new_tokens
        system_prompt = chosen.recipe.generate.system_prompt
        self._system: list[Message] = []
        if system_prompt is not None:
            self._system.append({"role": "system", "content": system_prompt})
        self.turns: list[Message] = []

    def answer(self, text: str) -> None:
        """Stream the answer to the terminal, and keep question and answer.

        The oldest exchange is forgotten where all do not fit into the context.
        """
        # Half a character makes the engine raise, and its end may then wait for itself for ever;
        # and llama.cpp does not normalise text as the tokenizer does
        question = unicodedata.normalize("NFC", without_lone_surrogates(text))
        if mark := self._engine.mark_in([question]):
            self._refuse_mark(mark)
            return
        self.turns.append({"role": "user", "content": question})
        while (answer := self._ask()) is None:
            if len(self.turns) == 1:
                raise DataError(
                    "this message alone is longer than the context; shorten it, or raise --context"
                )
            del self.turns[:2]
            _remark(
                "the oldest question and answer were forgotten: the conversation is longer than "
                "the context (--context)"
            )
        if answer:
            self.turns.append({"role": "assistant", "content": answer})
        else:
            self.turns.pop()

    def _refuse_mark(self, mark: str) -> None:
        """Say why a message is not asked: in a terminal the next one may be, in a pipe none is."""
        refusal = (
            f"this message holds {mark!r}, a mark of the chat template, which would be read as the "
            "end of a turn and not as text; write it another way"
        )
        if not sys.stdin.isatty():
            raise DataError(refusal)
        _remark(refusal)

    def _ask(self) -> str | None:
        """Print and return the answer to the turns so far; None where the context is too short."""
        printer = _Printer()
        with _interruptible() as is_interrupted:
            error = self._stream(printer, is_interrupted)
        if error is not None and error["type"] == TOO_LONG:
            return None
        if error is not None:
            raise DataError(f"llama.cpp refuses the conversation: {error['message']}")
        printer.end(f"generate.max_new_tokens {self._max_new_tokens}", is_interrupted())
        if is_interrupted() and not sys.stdin.isatty():
            raise Stopped("stopped by SIGINT")
        return printer.answer

    def _stream(
        self, printer: "_Printer", is_interrupted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Print the answer until it ends or is interrupted; return llama.cpp's error, if any."""
        errors: list[dict[str, Any]] = []

        def take(chunk: dict[str, Any]) -> bool:
            """Return True to end the answer."""
            if "error" in chunk:
                errors.append(chunk["error"])
                return True
            printer.take(chunk["choices"][0])
            return is_interrupted()

        request = {
            "messages": [*self._system, *self.turns],
            "stream": True,
            "max_tokens": self._max_new_tokens,
        }
        try:
            self._engine.server.handle_chat_completions(request, take)
        except RuntimeError as error:
            raise DataError(f"llama.cpp cannot answer: {error}") from None
        return errors[0] if errors else None


class _Printer:
    """Writes an answer as it comes.

    The reasoning is dim, or on standard error where the answer goes into a pipe.
    """

    def __init__(self) -> None:
        self.answer = ""
        self._finish_reason: str | None = None
        self._has_reasoning = False

    def take(self, choice: dict[str, Any]) -> None:
        """Print what a chunk of the answer adds."""
        self._finish_reason = choice["finish_reason"]
        reasoning = choice["delta"].get("reasoning_content")
        if reasoning:
            self._print_reasoning(reasoning)
        text = choice["delta"].get("content") or ""
        self._print_answer(text if self.answer else text.lstrip())

    def _print_reasoning(self, text: str) -> None:
        self._has_reasoning = True
        if sys.stdout.isatty():
            _print_dim(text, sys.stdout, end="")
        else:
            print(text, end="", file=sys.stderr, flush=True)

    def _print_answer(self, text: str) -> None:
        if not text:
            return
        if self._has_reasoning and not self.answer:  # a blank line between the two
            print("\n", file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)
        self.answer += text
        print(text, end="", flush=True)

    def end(self, limit: str, is_interrupted: bool) -> None:
        """End the line, and say why the answer ends there. `limit`: what may have cut it."""
        print(flush=True)
        if is_interrupted:
            _remark("stopped")
        elif self._finish_reason == "length":
            _remark(f"cut here: {limit}, or the end of the context")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only sets a flag, which the callable tells.

    An exception would cross C++ code.
    """
    interrupts: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    old_handler = signal.signal(signal.SIGINT, note) if in_main_thread else None
    try:
        yield lambda: bool(interrupts)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, old_handler)


def _terminal_lines() -> Iterator[str]:
    """Yield what is typed, line by line, until Ctrl-D or Ctrl-C twice in a row."""
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` then edits lines and has a history
    is_warned = False
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if is_warned:
                return
            is_warned = True
            _remark("Ctrl-C again, or Ctrl-D, ends")
            continue
        is_warned = False
        yield line


def _remark(text: str) -> None:
    """Print a remark of ours, beside the conversation."""
    if sys.stderr.isatty():
        _print_dim(f"({text})", sys.stderr)
    else:
        print(f"({text})", file=sys.stderr, flush=True)


def _print_dim(text: str, stream: TextIO, end: str = "\n") -> None:
    dim = f"{DIM}{terminal.printable(text)}{PLAIN}"
    print(dim, end=end, file=terminal.raw(stream), flush=True)
