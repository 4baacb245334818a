"""The chat template in a GGUF file: a plain llama.cpp server writes with it what the student was trained on."""

import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import BY_NAME
from format_helpers import with_bos
from server_helpers import TEACHER

from distill import chat
from distill.errors import MismatchError
from distill.formats.gguf import chat_template
from distill.formats.gguf.write import write_gguf
from distill.models import load
from distill.recipe.sections import Generate

# what llama.cpp takes for a template that can think has reasoning of its own in earlier answers
OFF_BY_DEFAULT = (
    "{%- for m in messages %}\n<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n    {%- if enable_thinking is defined and "
    "enable_thinking is true %}\n"
    "        {{- '<think>\n' }}\n    {%- else %}\n        {{- '<think>\n\n</think>\n\n' }}\n    {%- endif %}\n{%- endif %}\n"
)
DATED = (
    '{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
    "<|im_start|>system\nToday Date: {{ date_string }}\n\n{{ system_message }}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "off by default": OFF_BY_DEFAULT,
    "on by default": BY_NAME["qwen3.5"].template,
    "another switch": BY_NAME["deepseek-v3.1"].template,
    "dated": DATED,
    "a clock": BY_NAME["gpt-oss"].template,
    "white space first": "\n  {% if true %}x{% endif %}" + BY_NAME["qwen3"].template,
}
SYSTEM = "Say \"yes\" or 'no'.\n\tनमस्ते \\n {{ x }} {% if %} %} {# #}"
TALKS = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c\n{{ d }}"},
    ],
]
CASES = [
    ("off by default", None, None),
    ("off by default", True, SYSTEM),
    ("on by default", None, SYSTEM),
    ("on by default", False, None),
    ("another switch", True, None),
    ("dated", None, None),
    ("dated", None, SYSTEM),
    ("a clock", None, None),
    ("white space first", False, None),
]


def options(enable_thinking: bool | None = None, system: str | None = None) -> Generate:
    return Generate.model_construct(enable_thinking=enable_thinking, system_prompt=system)


def started(file: Path) -> Callable[..., Any]:
    """`ask(path, body)`: the answer of a plain llama.cpp server with this file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port, params.n_parallel, params.n_ctx = ["127.0.0.1"], 0, 1, 256
    params.fit_params, params.warmup, params.cache_ram_mib, params.verbosity = False, False, 0, 0
    server = xllamacpp.Server(params)

    def ask(path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{server.listening_address}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return ask


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`served(template, options)`: (the student's tokenizer, what a plain llama.cpp server makes of messages)."""
    place = tmp_path_factory.mktemp("served")
    student = shutil.copytree(TEACHER, place / "student")

    def serve(template: str, trained: Generate | None) -> Any:
        (student / "chat_template.jinja").write_text(template)
        ask = started(write_gguf(student, place / "student.gguf", "q4_0", trained=trained).path)
        return (
            load.load_tokenizer(str(student)),
            lambda messages: ask("/apply-template", messages=messages)["prompt"],
        )

    return serve


@pytest.mark.parametrize(("name", "enable_thinking", "system"), CASES)
def test_a_plain_server_writes_the_prompt_of_training(
    served: Callable[..., Any], name: str, enable_thinking: bool | None, system: str | None
) -> None:
    tokenizer, write = served(TEMPLATES[name], options(enable_thinking, system))
    before = [] if system is None else [{"role": "system", "content": system}]
    for messages in TALKS:
        expected = chat.prompt_text(
            tokenizer, [*before, *messages], enable_thinking=enable_thinking
        )
        assert write(messages) == expected
        assert write([*before, *messages]) == expected


HOSTILE = [
    *(
        "\x0b\x0c\x85\u2028",
        "\x1b[31m\x7f",
        "\ufeffx",
        '"""\nEND\n"""',
        "'\\'\\\\'",
        "{{ 7*7 }}{% for %}",
    ),
    *("%}\n{%- endif %}", "-%} {#-", "\\x41\\u0041\\101", "👩\u200d👧\U0010ffff", "\r\n\t \r"),
]


def test_any_system_prompt_is_written_by_a_plain_server_as_it_is(
    served: Callable[..., Any],
) -> None:
    system = "a".join(HOSTILE)
    template = (TEACHER / "chat_template.jinja").read_text()
    tokenizer, write = served(template, options(None, system))
    before = [{"role": "system", "content": system}]
    for messages in TALKS:
        assert write(messages) == chat.prompt_text(tokenizer, [*before, *messages])


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("a\0b", r"U\+0000", r"tokenizer\.chat_template: holds U\+0000, .*remove it"),
        ("a\ud800", r"U\+D800", "its chat template writes half a character"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    tmp_path: Path, text: str, name: str, problem: str
) -> None:
    """llama.cpp reads a text up to its first NUL, and half a character has no UTF-8."""
    with pytest.raises(MismatchError, match=problem):
        write_gguf(TEACHER, tmp_path / "file.gguf", "q4_0", trained=options(None, text))
    for value in (text, ["sw", text]):
        with pytest.raises(MismatchError, match=rf"general\.name: holds {name}, .*remove it"):
            write_gguf(TEACHER, tmp_path / "f.gguf", "q4_0", metadata={"general.name": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["off by default", "dated"])
def test_without_it_the_server_writes_another(served: Callable[..., Any], name: str) -> None:
    """llama.cpp says enable_thinking=true and today's date by itself."""
    tokenizer, write = served(TEMPLATES[name], None)
    assert write(TALKS[0]) != chat.prompt_text(tokenizer, TALKS[0])


@pytest.mark.parametrize("template_writes", [False, True])
def test_a_plain_server_reads_as_many_tokens_as_training_had(
    tmp_path: Path, template_writes: bool
) -> None:
    """As Llama 3's tokenizer, which adds a bos to plain text, with ChatML, which writes none."""
    student = shutil.copytree(TEACHER, tmp_path / "student")
    with_bos(student, tokenizer_adds=True, template_writes=template_writes, eos=False)
    tokenizer = load.load_tokenizer(str(student))
    assert tokenizer("hi").input_ids[0] == tokenizer.bos_token_id
    ask = started(write_gguf(student, tmp_path / "file.gguf", "q4_0", trained=options()).path)
    for messages in TALKS:
        usage = ask("/v1/chat/completions", messages=messages, max_tokens=1)["usage"]
        assert usage["prompt_tokens"] == len(chat.prompt_ids(tokenizer, messages))


def test_once_is_enough() -> None:
    once = chat_template.as_trained(DATED, options(True, SYSTEM))
    assert chat_template.as_trained(once, options(False)) == once


def test_a_template_that_cannot_be_fixed_is_refused(tmp_path: Path) -> None:
    tokenizer = load.load_tokenizer(str(shutil.copytree(TEACHER, tmp_path / "student")))
    tokenizer.chat_template = (
        "{{ messages[0].content }}{% if enable_thinking %}A{% endif %}{% if thinking %}B{% endif %}"
    )
    with pytest.raises(
        MismatchError,
        match=r"student: its chat template cannot be fixed.*writes 'hiAB' instead of 'hiA'",
    ):
        chat_template.require_same(tokenizer, options(True))


def test_a_student_without_the_teachers_switch_keeps_its_template(tmp_path: Path) -> None:
    """Where it learns from text alone, its template is its own."""
    tokenizer = load.load_tokenizer(str(shutil.copytree(TEACHER, tmp_path / "student")))
    written = chat_template.require_same(tokenizer, options(False))
    assert written.removeprefix(chat_template.MARK) == chat.dated(tokenizer.chat_template)
