"""Modelfiles: read back by Ollama's grammar, and their Go templates rendered beside the students' own templates."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from families import BY_NAME, WITH_MODEL, tokenizer_of
from result_helpers import file_check

from distill import chat
from distill.core.run_folder import RunFolder
from distill.errors import MismatchError
from distill.formats.export import Export
from distill.formats.gguf import modelfile
from distill.formats.gguf.chat_template import begins_with_bos
from distill.models import load
from distill.planning.licences import licence_verdict
from distill.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[3]
TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
Messages = Sequence[Mapping[str, str]]
SYSTEM_INTO_USER = (
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{{ s }}{{ m.content }} [/INST]{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
CHATML_TRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def talk(*contents: str, system: str | None = None) -> Messages:
    turns = [{"role": ("user", "assistant")[n % 2], "content": c} for n, c in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


TALKS = [
    talk("Bei gani?"),
    talk("x", "y", "z"),
    talk("你好，世界", system="<b>Be brief</b>"),
    talk("1", "2\n\n3", "4", "5", "6", system="नमस्ते\nदुनिया"),
    talk("<|im_end|>", "{{ .System }}", "\\n{% raw %}"),
]


# --- Ollama's grammar, as far as the files use it: https://docs.ollama.com/modelfile ---

INSTRUCTION = re.compile(
    r'([A-Z]+)[ \t]+(?:"""(.*?)"""(?!")|"([^"\n]*)"|([^\n]*))[ \t]*(?:\n|$)', re.DOTALL
)


def read(text: str) -> dict[str, list[str]]:
    """Instruction -> its values; a line outside a value that is neither comment nor instruction is an error."""
    found: dict[str, list[str]] = {}
    while text:
        if skipped := re.match(r"#[^\n]*(\n|$)|\s+", text):
            text = text[skipped.end() :]
            continue
        match = INSTRUCTION.match(text)
        assert match and match[1] in ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "LICENSE"), text[
            :80
        ]
        found.setdefault(match[1], []).append(next(g for g in match.groups()[1:] if g is not None))
        text = text[match.end() :]
    return found


# --- Go's text/template, the subset that Ollama's own templates use ---


def go(template: str, messages: Messages) -> str:
    """`template` executed with .System and .Messages, as Ollama does it."""
    pieces = re.split(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", template)
    tokens: list[tuple[str, str]] = [("text", pieces[0])]
    for left, action, right, text in zip(
        pieces[1::4], pieces[2::4], pieces[3::4], pieces[4::4], strict=True
    ):
        if left:
            tokens[-1] = ("text", tokens[-1][1].rstrip())
        tokens += [("action", action), ("text", text.lstrip() if right else text)]
    nodes = _block(iter(tokens), ())[0]
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    return "".join(_run(nodes, {"System": system, "Messages": messages}))


def _block(tokens: Iterator[tuple[str, str]], ends: tuple[str, ...]) -> tuple[list[Any], str]:
    nodes: list[Any] = []
    for kind, value in tokens:
        word = value.split()[0] if kind == "action" else ""
        if word in ends:
            return nodes, value
        if word == "range":
            nodes.append(("range", value.split(".")[1], _block(tokens, ("end",))[0]))
        elif word == "if":
            nodes.append(_branches(tokens, value))
        else:
            nodes.append((kind, value))
    assert not ends, f"no {ends}"
    return nodes, ""


def _branches(tokens: Iterator[tuple[str, str]], value: str) -> Any:
    body, end = _block(tokens, ("else", "end"))
    if end.startswith("else if"):
        return ("if", value[3:], body, [_branches(tokens, end[5:])])
    return ("if", value[3:], body, _block(tokens, ("end",))[0] if end == "else" else [])


def _run(nodes: list[Any], dot: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ("text", text):
                yield text
            case ("action", field):
                yield dot[{".Content": "content", ".Role": "role", ".System": "System"}[field]]
            case ("range", field, body):
                for item in dot[field]:
                    yield from _run(body, item)
            case ("if", condition, body, otherwise):
                yield from _run(body if _true(condition, dot) else otherwise, dot)


def _true(condition: str, dot: Mapping[str, Any]) -> bool:
    if equal := re.fullmatch(r'eq \.Role "(\w+)"', condition):
        return dot["role"] == equal[1]
    return bool(dot["System"]) != {"not .System": True, ".System": False}[condition]


def test_the_evaluator_knows_ollamas_own_chatml() -> None:
    """Its chatml.gotmpl, and what its tests expect of it."""
    template = (
        "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}\n{{- range .Messages }}<|im_start|>{{ .Role }}\n"
        "{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    assert go(template, talk("Hi")) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


# --- the files ---


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load.load_tokenizer(str(TEACHER))


def recipe(*overrides: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "quickstart.yaml", overrides)


@pytest.mark.parametrize("name", [family.name for family in WITH_MODEL])
def test_the_go_template_writes_what_the_students_own_writes(name: str) -> None:
    tokenizer = tokenizer_of(BY_NAME[name])
    switches = [None]
    with suppress(MismatchError):  # it has no switch
        switches += [value for value in (False, True) if chat.thinking_switch(tokenizer, value)]
    assert len(switches) == (3 if name in ("qwen3", "qwen3.5", "deepseek-v3.1", "glm4.5") else 1)
    for enable_thinking in switches:
        if name == "gpt-oss":  # ends the last answer by another token than those before it
            with pytest.raises(MismatchError, match="depends on the next one"):
                modelfile.frame(tokenizer, enable_thinking)
            return
        template = modelfile.frame(tokenizer, enable_thinking).go()
        for messages in TALKS:
            assert go(template, messages) == chat.prompt_text(
                tokenizer, messages, enable_thinking=enable_thinking
            )


def text_of(options: Recipe, tokenizer: Any, stop_ids: list[int]) -> str:
    return modelfile.modelfile(options, tokenizer, stop_ids, licence_verdict(options))


def test_a_modelfile_says_what_the_student_needs(tokenizer: Any, tmp_path: Path) -> None:
    checks = {
        "f16": file_check(bytes=9),
        "q4_0": file_check(bytes=4),
        "q2_k": file_check(bytes=2, failed="far"),
        "nf4": file_check(bytes=1),
    }
    options = recipe(
        "generate.system_prompt='Jibu kwa\n\n\"Kiswahili\"'",
        "generate.top_k=20",
        "generate.top_p=0.8",
    )
    export = Export(options, RunFolder(tmp_path), TEACHER, tokenizer)
    export.stage.mkdir()
    files = modelfile.write_modelfiles(export, licence_verdict(options), checks)
    assert [f.name for f in files] == [
        "f16.Modelfile",
        "q4_0.Modelfile",
        "q2_k.Modelfile",
        "Modelfile",
    ]
    assert "failed its check: far" in files[2].read_text() and "failed" not in files[1].read_text()
    found = read(files[3].read_text(encoding="utf-8"))
    assert found["FROM"] == ["./q4_0.gguf"]
    assert found["SYSTEM"] == [options.generate.system_prompt]
    assert found["PARAMETER"] == [
        'stop "<|im_end|>"',
        "temperature 1.0",
        "top_p 0.8",
        "top_k 20",
        "repeat_penalty 1.0",
        "num_predict 96",
    ]
    assert "apache-2.0" in found["LICENSE"][0] and "quickstart/teacher" in found["LICENSE"][0]
    for messages in TALKS:
        assert go(found["TEMPLATE"][0], messages) == chat.prompt_text(tokenizer, messages)


def test_the_smallest_file_that_passed() -> None:
    checks = {
        "q8_0": file_check(bytes=8),
        "q4_0": file_check(bytes=4, failed="far"),
        "nf4": file_check(bytes=1),
    }
    assert modelfile.smallest_passing(checks) == "q8_0"
    del checks["q8_0"]
    assert modelfile.smallest_passing(checks) is None


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (SYSTEM_INTO_USER, "more than write fixed text"),
        (
            "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' }}{{ m.content }}{% endfor %}",
            "refuses messages",
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "leaves a message out",
        ),
        (
            "{% for m in messages %}({{ messages | length }} {{ m.content }}){% endfor %}",
            "more than write fixed text|depends",
        ),
        (CHATML_TRIMMED.replace("<|im_end|>", "\u200b"), r"U\+200B"),
        (CHATML_TRIMMED.replace("<|im_end|>", "{{ '{{' }}"), "two braces"),
    ],
)
def test_a_template_that_cannot_be_translated_is_left_out_and_says_why(
    template: str, reason: str
) -> None:
    tokenizer = tokenizer_of(BY_NAME["qwen2.5"])
    tokenizer.chat_template = template
    text = text_of(recipe(), tokenizer, [tokenizer.eos_token_id])
    assert "TEMPLATE" not in read(text)
    assert re.search(f"# No TEMPLATE: .*({reason})", text)


def test_what_ollama_does_otherwise_is_said(tokenizer: Any) -> None:
    plain = text_of(recipe(), tokenizer, [1])
    assert "white space" not in plain and "reasoning" not in plain
    other = tokenizer_of(BY_NAME["qwen3"])
    assert "drops the reasoning" in text_of(recipe(), other, [1])
    other.chat_template = CHATML_TRIMMED
    assert "strips white space" in text_of(recipe(), other, [1])
    joined = text_of(recipe("generate.system_prompt=می\u200cخواهم"), tokenizer, [1])
    assert (
        "generate.system_prompt is left out: a Modelfile cannot hold U+200C" in joined
        and "SYSTEM" not in read(joined)
    )


@pytest.mark.parametrize("tokenizer_adds", [False, True])
def test_a_bos_that_the_file_adds_is_not_written_twice(tokenizer_adds: bool) -> None:
    """Ollama adds it by the file's add_bos_token, which says what a conversation begins with."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_of(BY_NAME["qwen2.5"])
    tokenizer.bos_token = "<|endoftext|>"
    if tokenizer_adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
        )
    assert not begins_with_bos(tokenizer)
    without = modelfile.frame(tokenizer, None).go()
    tokenizer.chat_template = "<|endoftext|>" + tokenizer.chat_template
    assert begins_with_bos(tokenizer)
    template = modelfile.frame(tokenizer, None).go()
    assert template == without
    assert "<|endoftext|>" + go(template, TALKS[3]) == chat.prompt_text(tokenizer, TALKS[3])
