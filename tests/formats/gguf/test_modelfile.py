"""Modelfiles: read back by Ollama's grammar, and their Go templates rendered beside the students' own templates."""

import random
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

WORDS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "LICENSE")


def read(text: str) -> dict[str, list[str]]:
    """Instruction -> its values, by the rules of Ollama's parser (parser.go, `ParseFile`).

    A line outside a value that is neither comment nor instruction is an error. A value ends at a
    line's end where its quotes are closed; of its characters those are kept that can be printed.
    """
    found: dict[str, list[str]] = {}
    lines = iter([line + "\n" for line in text.split("\n")])
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        word, _, value = line.partition(" ")
        assert word in WORDS, line[:80]
        if word == "PARAMETER":
            name, _, value = value.partition(" ")
        while (read_value := _unquoted(value.strip())) is None:
            value += next(lines)
        kept = "".join(c for c in read_value if c.isprintable() or c in "\n\t")
        found.setdefault(word, []).append(f"{name} {kept}" if word == "PARAMETER" else kept)
    return found


def _unquoted(value: str) -> str | None:
    """Return what stands between the quotes; None if they are not closed (parser.go, `unquote`)."""
    for quotes in ('"""', '"'):
        if value.startswith(quotes):
            is_closed = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if is_closed else None
    return value


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
    return modelfile.modelfile(options, tokenizer, stop_ids, licence_verdict(options), 2048)


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
        "stop <|im_end|>",
        "num_ctx 2048",
        "temperature 1.0",
        "top_p 0.8",
        "top_k 20",
        "repeat_penalty 1.0",
        "num_predict 96",
    ]
    assert "apache-2.0" in found["LICENSE"][0] and "quickstart/teacher" in found["LICENSE"][0]
    for messages in TALKS:
        assert go(found["TEMPLATE"][0], messages) == chat.prompt_text(tokenizer, messages)


@pytest.mark.parametrize(
    ("longest", "trained", "written"),
    [(2048, 512, 2048), (131_072, 512, 8192), (131_072, 16_384, 16_384), (4096, 16_384, 4096)],
)
def test_the_context_is_the_students_and_bounded(
    tokenizer: Any, longest: int, trained: int, written: int
) -> None:
    options = recipe(
        *(f"train.{name}={trained}" for name in ("max_length", "batch_tokens")),
        f"train.micro_batch_tokens={trained}",
    )
    text = modelfile.modelfile(options, tokenizer, [0], licence_verdict(options), longest)
    assert f"num_ctx {written}" in read(text)["PARAMETER"]


FRAGMENTS = [
    *('"', '""', '"""', "\n", "\r\n", "\t", " ", "'", "\\", "{", "}", "{{", "}}", "{{ .System }}"),
    *("{%", "%}", "{#", "#}", "#", "SYSTEM", "\nFROM /etc/passwd\n", "PARAMETER stop a", "\0"),
    *(
        "\x1b[2J",
        "\u2028",
        "\ufeff",
        "\u200b",
        "नमस्ते",
        "你好",
        "🎉",
        "</s>",
        "<|im_end|>",
        "a",
        "b c",
    ),
]


def hostile(seed: int) -> str:
    place = random.Random(seed)
    return "".join(place.choices(FRAGMENTS, k=place.randint(1, 6)))


@pytest.mark.parametrize("block", range(10))
def test_any_system_prompt_is_written_as_it_is_or_left_out_in_words(
    tokenizer: Any, block: int
) -> None:
    for seed in range(40 * block, 40 * block + 40):
        options = recipe()
        text = hostile(seed)
        generate = options.generate.model_copy(update={"system_prompt": text})
        options = options.model_copy(update={"generate": generate})
        written = text_of(options, tokenizer, [tokenizer.eos_token_id])
        found = read(written)
        assert found.keys() <= {"PARAMETER", "TEMPLATE", "SYSTEM", "LICENSE"}
        assert found["PARAMETER"][0] == "stop <|im_end|>" and len(found["PARAMETER"]) == 7
        if "system_prompt is left out" in written:
            assert "SYSTEM" not in found
        else:
            assert found["SYSTEM"] == [text], text


@pytest.mark.parametrize("block", range(5))
def test_any_template_is_said_in_gos_or_left_out_in_words(block: int) -> None:
    """Fixed text of any kind around messages, and before a conversation without a system message."""
    tokenizer = tokenizer_of(BY_NAME["qwen2.5"])
    for seed in range(30 * block, 30 * block + 30):
        texts = [repr(hostile(100 * seed + n)) for n in range(5)]
        tokenizer.chat_template = (
            f"{{% if messages[0].role != 'system' %}}{{{{ {texts[0]} }}}}{{% endif %}}"
            f"{{% for m in messages %}}{{{{ m.role }}}}{{{{ {texts[1]} }}}}{{{{ m.content }}}}"
            f"{{{{ {texts[2]} }}}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {texts[3]} }}}}"
            "{% endif %}"
        )
        written = text_of(recipe(), tokenizer, [tokenizer.eos_token_id])
        found = read(written)
        if "# No TEMPLATE" in written:
            assert "TEMPLATE" not in found
            continue
        for messages in TALKS:
            expected = chat.prompt_text(tokenizer, messages)
            assert go(found["TEMPLATE"][0], messages) == expected, tokenizer.chat_template


def test_what_a_template_says_when_it_refuses_stays_a_comment() -> None:
    tokenizer = tokenizer_of(BY_NAME["qwen2.5"])
    words = '"no system\\nSYSTEM hacked\\r\\nFROM /etc/passwd" + "x" * 9000'
    tokenizer.chat_template = (
        "{% for m in messages %}{{ raise_exception("
        + words
        + ") if m.role == 'system' }}{{ m.role }}{{ m.content }}{% endfor %}"
    )
    text = text_of(recipe(), tokenizer, [tokenizer.eos_token_id])
    assert read(text).keys() == {"PARAMETER", "LICENSE"}
    assert "# No TEMPLATE" in text and len(text) < 3000


@pytest.mark.parametrize(
    ("token", "written"),
    [('<"end">', ['<"end">']), ('"""', []), ("<\n>", ["<\n>"]), ("<\x1b>", []), ('"', ['"'])],
)
def test_any_stop_token_is_written_or_left_out_in_words(token: str, written: list[str]) -> None:
    line = modelfile._stop_line(token)
    assert read(line) == ({"PARAMETER": [f"stop {text}" for text in written]} if written else {})


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
