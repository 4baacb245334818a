"""Write Ollama's Modelfile for a GGUF file.

It is for `ollama create NAME -f q4_k_m.Modelfile` in the folder `quantize`.

Ollama does not run the Jinja template inside the file; it wants one in Go's template language. So
the student's own template is taken apart by rendering it, put together again in Go, and compared on
conversations. One that does more than write fixed text around each message is not translated, and
the Modelfile says why.

Grammar: https://docs.ollama.com/modelfile and https://pkg.go.dev/text/template
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import chat
from distill.catalog.catalog import LicenceVerdict
from distill.core.files import write_atomic
from distill.core.results import FileCheck
from distill.errors import MismatchError
from distill.formats import FORMATS
from distill.formats.export import Export
from distill.formats.gguf.architectures import read_config
from distill.formats.gguf.chat_template import begins_with_bos
from distill.models import find
from distill.recipe import Recipe

Conversation = Sequence[Mapping[str, str]]
# tokens of prompt and answer that Ollama keeps memory for, unless training had longer ones: a
# student may name 131,072, which is gigabytes
MOST_CONTEXT = 8192
LONGEST_REASON = 300  # characters of a template's own words


def conversation(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Return messages of user and assistant in turn, after a system message if there is one."""
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)
    ]
    return [*([] if system is None else [{"role": "system", "content": system}]), *turns]


CONVERSATIONS = (
    conversation("How much are 3 mangoes?"),
    conversation("Habari?\n\nBei ya maembe?", "Shilingi 12.", "Asante."),
    conversation("你好", system="Answer in one word."),
    conversation("a", "b", "c", "d\ne", "{{ .f }} {% if g %} 'h' \"i\"", system="Two\nlines."),
)
SPACED = conversation("  a \n", " b\n\n", "c ")
REASONED = conversation("a", "<think>\nb\n</think>\n\nc", "d")


@dataclass(frozen=True)
class Frame:
    """The fixed text around messages.

    Before and after one of each role, before a conversation without a system message, and before
    the answer.
    """

    around: Mapping[str, tuple[str, str]]
    without_system: str
    before_answer: str

    def text(self, messages: Conversation) -> str:
        """Return what the Go template writes for `messages`."""
        parts = [] if any(m["role"] == "system" for m in messages) else [self.without_system]
        for m in messages:
            before, after = self.around[m["role"]]
            parts += [before, m["content"], after]
        return "".join([*parts, self.before_answer])

    def holds_delimiter(self) -> bool:
        """Return whether Go would read a part of the fixed text as the beginning of an action."""
        texts = [self.without_system, self.before_answer]
        texts += [text for pair in self.around.values() for text in pair]
        return any("{{" in text or text.endswith("{") for text in texts)

    def go(self) -> str:
        """Return it in Go's template language, for Ollama's variables .System and .Messages."""
        begin = ""
        if self.without_system:
            begin = "{{ if not .System }}" + self.without_system + "{{ end }}"
        turns = ""
        for role, (before, after) in self.around.items():
            condition = f'{"else " if turns else ""}if eq .Role "{role}"'
            turns += "{{ " + condition + " }}" + before + "{{ .Content }}" + after
        loop = "{{ range .Messages }}" + turns + "{{ end }}{{ end }}"
        return begin + loop + self.before_answer


def frame(tokenizer: Any, enable_thinking: bool | None) -> Frame:
    """Return the template of `tokenizer` taken apart.

    Raises MismatchError if it is more than fixed text around messages, or text that Ollama's parser
    would lose.
    """

    def render(messages: Conversation, begin_answer: bool = True) -> str:
        return _render(tokenizer, messages, enable_thinking, begin_answer)

    try:
        parts = _take_apart(render)
        is_same = all(render(messages) == parts.text(messages) for messages in CONVERSATIONS)
    except (ValueError, MismatchError) as error:  # a template may refuse a role
        raise MismatchError(f"the chat template cannot be said in Ollama's: {error}") from None
    if not is_same:
        raise MismatchError("the chat template does more than write fixed text around each message")
    problem = "two braces" if parts.holds_delimiter() else _unwritable(parts.go())
    if problem:
        raise MismatchError(f"the chat template has text that a Modelfile cannot hold ({problem})")
    return parts


def _take_apart(render: Callable[..., str]) -> Frame:
    """Return the parts around four messages, one of them the system's.

    Raises ValueError if a message is left out, or what follows it depends on the next.
    """
    system, user, assistant, last = "zebra", "quagga", "okapi", "giraffe"
    rendered = render(conversation(user, assistant, last, system=system))
    before_system, rest = _cut(rendered, system)
    system_user, rest = _cut(rest, user)
    user_assistant, rest = _cut(rest, assistant)
    assistant_user, ending = _cut(rest, last)
    after_user = _cut(render(conversation(user), begin_answer=False), user)[1]
    two_turns = render(conversation(user, assistant), begin_answer=False)
    after_assistant = _cut(two_turns, assistant)[1]
    before_user = _without(assistant_user, after_assistant)
    return Frame(
        around={
            "system": (before_system, system_user.removesuffix(before_user)),
            "user": (before_user, after_user),
            "assistant": (_without(user_assistant, after_user), after_assistant),
        },
        without_system=_cut(render(conversation(user)), user)[0].removesuffix(before_user),
        before_answer=_without(ending, after_user),
    )


def _render(
    tokenizer: Any, messages: Conversation, enable_thinking: bool | None, begin_answer: bool = True
) -> str:
    """Return the student's own rendering, without a bos that Ollama adds itself."""
    text = chat.prompt_text(
        tokenizer, messages, enable_thinking=enable_thinking, begin_answer=begin_answer
    )
    return text.removeprefix(tokenizer.bos_token) if begins_with_bos(tokenizer) else text


def _cut(text: str, word: str) -> tuple[str, str]:
    before, separator, after = text.partition(word)
    if not separator:
        raise ValueError("it leaves a message out")
    return before, after


def _without(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError("what follows a message depends on the next one")
    return text.removeprefix(beginning)


def smallest_passing(checks: Mapping[str, FileCheck]) -> str | None:
    """Return the format of the smallest GGUF file that passed the gate, if one did."""
    passed = [name for name in _gguf_names(checks) if not checks[name].failed]
    return min(passed, key=lambda name: checks[name].bytes, default=None)


def _gguf_names(checks: Mapping[str, FileCheck]) -> list[str]:
    return [name for name in checks if not FORMATS[name].is_folder]


def write_modelfiles(
    export: Export, licence: LicenceVerdict, checks: Mapping[str, FileCheck]
) -> list[Path]:
    """Write `<format>.Modelfile` beside each GGUF file.

    And `Modelfile` for the smallest that passed. Returns their paths.
    """
    files = [(name, f"{name}.Modelfile") for name in _gguf_names(checks)]
    if not files:
        return []
    if best := smallest_passing(checks):
        files.append((best, "Modelfile"))
    stop_ids = chat.stop_ids(export.tokenizer, find.stop_ids_of_files(str(export.student)))
    longest = read_config(export.student).max_position_embeddings
    body = modelfile(export.recipe, export.tokenizer, stop_ids, licence, longest)
    for name, file in files:
        run = export.recipe.name
        lines = [f"# {run} as {name}: run `ollama create {run} -f {file}` in this folder"]
        if failed := checks[name].failed:
            lines.append(f"# This file failed its check: {_one_line(failed)}")
        lines += [f"FROM ./{name}.gguf", "", body]
        write_atomic(export.stage / file, "\n".join(lines))
    return [export.stage / file for _, file in files]


def modelfile(
    recipe: Recipe,
    tokenizer: Any,
    stop_ids: Sequence[int],
    licence: LicenceVerdict,
    longest: int,
) -> str:
    """Return all but the FROM line. `longest`: the student's context in tokens.

    What Ollama cannot do as the student was trained stands in comments.
    """
    options = recipe.generate
    lines = _template_lines(tokenizer, chat.thinking_of(tokenizer, options.enable_thinking))
    lines += [_stop_line(token) for token in tokenizer.convert_ids_to_tokens(list(stop_ids))]
    lines += [
        f"PARAMETER num_ctx {min(longest, max(MOST_CONTEXT, recipe.train.max_length))}",
        f"PARAMETER temperature {options.sampling_temperature}",
        f"PARAMETER top_p {options.top_p}",
        f"PARAMETER top_k {options.top_k}",
        "PARAMETER repeat_penalty 1.0",
        f"PARAMETER num_predict {options.max_new_tokens}",
        "",
    ]
    if options.system_prompt is not None:
        lines += [_system_line(options.system_prompt), ""]
    return "\n".join([*lines, f'LICENSE """{_licence_text(recipe, licence)}"""', ""])


def _stop_line(token: str) -> str:
    if problem := _unwritable(token):
        return f"# A stop token is left out: a Modelfile cannot hold {problem}"
    if '"' in token or "\n" in token:
        return f'PARAMETER stop """{token}"""'
    return f'PARAMETER stop "{token}"'


def _system_line(system_prompt: str) -> str:
    if problem := _unwritable(system_prompt):
        return (
            f"# generate.system_prompt is left out: a Modelfile cannot hold {problem}; "
            "send it with each request"
        )
    return f'SYSTEM """{system_prompt}"""'


def _template_lines(tokenizer: Any, enable_thinking: bool | None) -> list[str]:
    """Return the TEMPLATE, with comments on where it writes other text than the student's own."""
    try:
        parts = frame(tokenizer, enable_thinking)
    except MismatchError as error:
        reason = _one_line(str(error))[:LONGEST_REASON]
        return [
            f"# No TEMPLATE: {reason}. Ollama then takes one of its own "
            "that looks like the one in the GGUF file:",
            "# compare `ollama show --template NAME` with tokenizer.chat_template, "
            "or use llama.cpp, which runs the student's own",
            "",
        ]
    lines = [
        "# The student's own chat template in Ollama's language: "
        "the same text for system, user and assistant messages"
    ]
    if _render(tokenizer, SPACED, enable_thinking) != parts.text(SPACED):
        lines.append("# The student's strips white space around messages, this one does not")
    if _render(tokenizer, REASONED, enable_thinking) != parts.text(REASONED):
        lines.append("# The student's drops the reasoning from earlier answers, this one keeps it")
    return [*lines, f'TEMPLATE """{parts.go()}"""', ""]


def _unwritable(text: str) -> str | None:
    """Return what of `text` Ollama's parser would lose.

    It keeps printable characters, and three quotes end a value.
    """
    if '"""' in text:
        return "three quotes in a row"
    lost = sorted({c for c in text if not c.isprintable() and c not in "\n\t"})
    return f"U+{ord(lost[0]):04X}" if lost else None


def _one_line(text: str) -> str:
    """Return a text that others wrote as a comment can hold it."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _licence_text(recipe: Recipe, licence: LicenceVerdict) -> str:
    lines = [f"A student of {recipe.teachers_named}.", *licence.sentences, *licence.duties]
    return "\n".join(map(_one_line, lines)).replace('"', "'")
