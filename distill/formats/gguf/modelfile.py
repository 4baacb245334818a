"""Ollama's Modelfile for a GGUF file: `ollama create NAME -f q4_k_m.Modelfile` in the folder `quantize`.

Ollama does not run the Jinja template inside the file; it wants one in Go's template language. So the student's own
template is taken apart by rendering it, put together again in Go, and compared on conversations. One that does more
than write fixed text around each message is not translated, and the Modelfile says why.

Grammar: https://docs.ollama.com/modelfile and https://pkg.go.dev/text/template
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import chat
from distill.catalog import catalog
from distill.core.files import write_atomic
from distill.core.results import FileCheck
from distill.errors import MismatchError
from distill.models import find
from distill.recipe import Recipe
from distill.recipe.sections import FOLDERS

Conversation = Sequence[Mapping[str, str]]


def conversation(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn, after a system message if there is one."""
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
    """The fixed text around messages: before and after one of each role, before a conversation without a system
    message, and before the answer."""

    around: Mapping[str, tuple[str, str]]
    without_system: str
    before_answer: str

    def text(self, messages: Conversation) -> str:
        """What the Go template writes for `messages`."""
        parts = [] if any(m["role"] == "system" for m in messages) else [self.without_system]
        for m in messages:
            before, after = self.around[m["role"]]
            parts += [before, m["content"], after]
        return "".join([*parts, self.before_answer])

    def go(self) -> str:
        """The same in Go's template language, for Ollama's variables .System and .Messages."""
        turns = "".join(
            f'{{{{ {"else " if n else ""}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for n, (role, (before, after)) in enumerate(self.around.items())
        )
        begin = (
            f"{{{{ if not .System }}}}{self.without_system}{{{{ end }}}}"
            if self.without_system
            else ""
        )
        return (
            f"{begin}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}{self.before_answer}"
        )


def frame(tokenizer: Any, enable_thinking: bool | None) -> Frame:
    """The template of `tokenizer` taken apart. Raises MismatchError where it is more than fixed text around messages."""

    def render(messages: Conversation, begin_answer: bool = True) -> str:
        return _render(tokenizer, messages, enable_thinking, begin_answer)

    system, user, assistant, last = "zebra", "quagga", "okapi", "giraffe"
    try:
        whole = render(conversation(user, assistant, last, system=system))
        before_system, rest = _cut(whole, system)
        system_user, rest = _cut(rest, user)
        user_assistant, rest = _cut(rest, assistant)
        assistant_user, ending = _cut(rest, last)
        after_user = _cut(render(conversation(user), begin_answer=False), user)[1]
        after_assistant = _cut(
            render(conversation(user, assistant), begin_answer=False), assistant
        )[1]
        before_user = _without(assistant_user, after_assistant)
        found = Frame(
            around={
                "system": (before_system, system_user.removesuffix(before_user)),
                "user": (before_user, after_user),
                "assistant": (_without(user_assistant, after_user), after_assistant),
            },
            without_system=_cut(render(conversation(user)), user)[0].removesuffix(before_user),
            before_answer=_without(ending, after_user),
        )
        same = all(render(messages) == found.text(messages) for messages in CONVERSATIONS)
    except (ValueError, MismatchError) as error:  # a template may refuse a role
        raise MismatchError(f"the chat template cannot be said in Ollama's: {error}") from None
    if not same:
        raise MismatchError("the chat template does more than write fixed text around each message")
    if problem := "two braces" if "{{" in whole else _unwritable(whole):
        raise MismatchError(f"the chat template has text that a Modelfile cannot hold ({problem})")
    return found


def _render(
    tokenizer: Any, messages: Conversation, enable_thinking: bool | None, begin_answer: bool = True
) -> str:
    """The student's own rendering, without the bos that Ollama puts there itself where the tokenizer does."""
    text = chat.prompt_text(
        tokenizer, messages, enable_thinking=enable_thinking, begin_answer=begin_answer
    )
    bos = tokenizer.bos_token
    adds_bos = bos and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return text.removeprefix(bos) if adds_bos else text


def _cut(text: str, word: str) -> tuple[str, str]:
    before, found, after = text.partition(word)
    if not found:
        raise ValueError("it leaves a message out")
    return before, after


def _without(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError("what follows a message depends on the next one")
    return text.removeprefix(beginning)


def smallest_passing(checks: Mapping[str, FileCheck]) -> str | None:
    """The format of the smallest GGUF file that passed the gate; None where all failed or there is none."""
    passed = [name for name, check in checks.items() if name not in FOLDERS and not check.failed]
    return min(passed, key=lambda name: checks[name].bytes, default=None)


def write_modelfiles(
    recipe: Recipe,
    student: Path,
    tokenizer: Any,
    checks: Mapping[str, FileCheck],
    stage: Path,
) -> list[Path]:
    """`<format>.Modelfile` beside each GGUF file, and `Modelfile` for the smallest that passed. Returns their paths."""
    names = {name: f"{name}.Modelfile" for name in checks if name not in FOLDERS}
    best = smallest_passing(checks)
    stops = chat.stop_ids(tokenizer, find.stop_ids_of_files(str(student)))
    body = modelfile(recipe, tokenizer, stops) if names else ""
    files = []
    for name, file in [*names.items(), *([(best, "Modelfile")] if best else [])]:
        failed = checks[name].failed
        head = [
            f"# {recipe.name} as {name}: run `ollama create {recipe.name} -f {file}` in this folder"
        ]
        head += [f"# This file failed its check: {failed}"] if failed else []
        files.append(stage / file)
        write_atomic(files[-1], "\n".join([*head, f"FROM ./{name}.gguf", "", body]))
    return files


def modelfile(recipe: Recipe, tokenizer: Any, stop_ids: Sequence[int]) -> str:
    """All but the FROM line. What Ollama cannot do as the student was trained stands in comments."""
    options = recipe.generate
    lines = _template_lines(tokenizer, chat.thinking_of(tokenizer, options.enable_thinking))
    lines += [
        f'PARAMETER stop "{token}"' for token in tokenizer.convert_ids_to_tokens(list(stop_ids))
    ]
    lines += [
        f"PARAMETER temperature {options.sampling_temperature}",
        f"PARAMETER top_p {options.top_p}",
        f"PARAMETER top_k {options.top_k}",
        "PARAMETER repeat_penalty 1.0",
        f"PARAMETER num_predict {options.max_new_tokens}",
        "",
    ]
    if options.system_prompt is not None:
        if problem := _unwritable(options.system_prompt):
            lines += [
                f"# generate.system_prompt is left out: a Modelfile cannot hold {problem}; send it with each request",
                "",
            ]
        else:
            lines += [f'SYSTEM """{options.system_prompt}"""', ""]
    return "\n".join([*lines, f'LICENSE """{_licence(recipe)}"""', ""])


def _template_lines(tokenizer: Any, enable_thinking: bool | None) -> list[str]:
    try:
        found = frame(tokenizer, enable_thinking)
    except MismatchError as error:
        return [
            f"# No TEMPLATE: {error}. Ollama then takes one of its own that looks like the one in the GGUF file:",
            "# compare `ollama show --template NAME` with tokenizer.chat_template, or use llama.cpp, which runs the student's own",
            "",
        ]
    lines = [
        "# The student's own chat template in Ollama's language: the same text for system, user and assistant messages"
    ]
    if _render(tokenizer, SPACED, enable_thinking) != found.text(SPACED):
        lines.append("# The student's strips white space around messages, this one does not")
    if _render(tokenizer, REASONED, enable_thinking) != found.text(REASONED):
        lines.append("# The student's drops the reasoning from earlier answers, this one keeps it")
    return [*lines, f'TEMPLATE """{found.go()}"""', ""]


def _unwritable(text: str) -> str | None:
    """What of `text` Ollama's parser would lose: it keeps printable characters, and three quotes end a value."""
    if '"""' in text:
        return "three quotes in a row"
    lost = sorted({c for c in text if not c.isprintable() and c not in "\n\t"})
    return f"U+{ord(lost[0]):04X}" if lost else None


def _licence(recipe: Recipe) -> str:
    verdict = catalog.verdict(
        recipe.teacher.model,
        recipe.student.model,
        declared_teacher=recipe.teacher.licence,
        declared_base=recipe.student.licence,
        use=recipe.learns,
    )
    return "\n".join(
        [f"A student of {recipe.teacher.model}.", *verdict.sentences, *verdict.duties]
    ).replace('"', "'")
