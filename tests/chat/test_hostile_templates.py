"""Templates that came with a model and are broken, hostile, or only odd.

Each is refused in one line that names its file, or it writes what transformers writes.
"""

import random
import time

import pytest
from chat_helpers import CHATML, build
from families import FAMILIES, tokenizer_of

from distill import chat
from distill.chat import bounds
from distill.chat.template import apply_template
from distill.errors import DistillError, MismatchError

KIND = "chat templates"
SEED = 14
TALK = [
    {"role": "user", "content": "How many apples?"},
    {"role": "assistant", "content": "<think>\n3 + 4\n</think>\n\nSeven."},
    {"role": "user", "content": "今天天气很好\n  And pears? "},
]
CONVERSATIONS = [TALK[:1], [{"role": "system", "content": "Be brief."}, *TALK[:1]], TALK]
GROW = "{% set x = namespace(t='ab') %}{% for i in range(60) %}{% set x.t = "
NEST = "{% set x = namespace(t=['a']) %}{% for i in range(60) %}{% set x.t = "

HOSTILE = {
    # time
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop of searches": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% if 'x' in messages[0].content %}{% endif %}{% endfor %}{% endfor %}",
    "a range too long": "{% for i in range(10 ** 9) %}{% endfor %}",
    "a macro in itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "two macros in itself": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a loop in itself": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "two loops in itself": "{% for m in messages recursive %}{% if loop.depth < 60 %}"
    "{{ loop(messages) }}{{ loop(messages) }}{% endif %}{% endfor %}",
    "a block in itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a power of ten": "{{ (10 ** 10 ** 10) ** 99 }}",
    "digits": "{{ 10 ** 5000 }}",
    "rounding": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "maps of ranges": "{% for i in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10 ** 6) }}",
    # size
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "200 MB": "{% for i in range(2000) %}{{ 'x' * 100000 }}{% endfor %}",
    "200 MB in a macro": "{% macro m() %}{% for i in range(2000) %}{{ 'x' * 100000 }}{% endfor %}{% endmacro %}{{ m() }}",
    "200 MB as it stands": "{% for i in range(2000) %}" + 1000 * "x" + "{% endfor %}",
    "200 MB kept": "{% set t %}{% for i in range(2000) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}x",
    "a long source": "x" * 1_100_000,
    "doubled by +": GROW + "x.t + x.t %}{% endfor %}{{ x.t }}",
    "doubled by ~": GROW + "x.t ~ x.t %}{% endfor %}{{ x.t }}",
    "doubled by join": GROW + "[x.t, x.t] | join %}{% endfor %}{{ x.t }}",
    "doubled by format": GROW + "'%s%s' | format(x.t, x.t) %}{% endfor %}{{ x.t }}",
    "doubled by str.format": GROW + "'{0}{0}'.format(x.t) %}{% endfor %}{{ x.t }}",
    "doubled by %": GROW + "'%s%s' % (x.t, x.t) %}{% endfor %}{{ x.t }}",
    "doubled by replace": GROW + "x.t.replace('', x.t) %}{% endfor %}{{ x.t }}",
    "doubled by the filter replace": GROW + "x.t | replace('a', x.t) %}{% endfor %}{{ x.t }}",
    "doubled by tojson": GROW + "[x.t, x.t] | tojson %}{% endfor %}{{ x.t }}",
    "lists in lists": NEST + "[x.t, x.t] %}{% endfor %}{{ x.t }}",
    "lists in lists as JSON": NEST + "[x.t, x.t] %}{% endfor %}{{ x.t | tojson }}",
    "tuples compared": NEST + "(x.t, x.t) %}{% endfor %}{{ x.t == x.t + x.t }}",
    "dicts in dicts": NEST + "{'a': x.t, 'b': x.t} %}{% endfor %}{{ x.t }}",
    "lists added": NEST + "x.t + x.t %}{% endfor %}{{ x.t | length }}",
    "a long list": "{{ ([1] * 10 ** 9) | length }}",
    "justified": "{{ 'x'.ljust(10 ** 10) }}",
    "filled with zeros": "{{ 'x'.zfill(10 ** 10) }}",
    "centred": "{{ 'x' | center(10 ** 10) }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a computed width": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "a wide %": "{{ '%1000000000d' % 1 }}",
    "a wide filter": "{{ '%*d' | format(1000000000, 1) }}",
    "indented": "{{ ('\n' * 1000) | indent(10 ** 9) }}",
    "indented by a text": "{{ ('\n' * 1000) | indent('x' * 100000) }}",
    "indented JSON": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "joined by a text": "{{ range(99999) | join('x' * 99999) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 10) }}",
    "bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "batches": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "mapped texts": "{{ range(99999) | map('replace', '', 'x' * 99999) | list }}",
    # Python's errors, and jinja's
    "a division by zero": "{{ 1 / 0 }}",
    "a rest by zero": "{{ 1 % 0 }}",
    "a missing name": "{{ nobody.home }}",
    "none in a sum": "{{ none + 1 }}",
    "no loop": "{% for i in none %}{% endfor %}",
    "raise_exception": "{{ raise_exception('x' * 99999) }}",
    "no filter": "{{ 'x' | nofilter }}",
    "no end": "{% for m in messages %}",
    "no start": "{% endfor %}",
    "half a tag": "{% if",
    "an include": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "an extension": "{% extends 'base' %}",
    "Python": "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "Python by attr": "{{ messages | attr('__class__') | attr('mro') }}{{ messages.__class__.x.y }}",
    "a changed list": "{% set _ = messages.append(messages[0]) %}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists of brackets": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "loops nested": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
    "minuses": "{{ " + "-" * 30000 + "1 }}",
    "half a character": "{{ '\\ud800' }}",
    "nothing": "",
    "nothing but blanks": "{# a comment #}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_one_line_and_soon(name, tally):
    tokenizer = build(template=HOSTILE[name])
    started = time.thread_time()
    message = tally.must_refuse(name, lambda: chat.prompt_ids(tokenizer, "hi"))
    assert time.thread_time() - started < 3
    assert "\n" not in message and len(message) < 500 and "chat template" in message


# What changes nothing of what is written
HARMLESS = [
    lambda t: t + "{# more #}",
    lambda t: "{% set unused = [1, 'a' ~ 2, {'b': (3, 4)}] %}" + t,
    lambda t: "{% if 1 + 1 == 2 %}" + t + "{% endif %}",
    lambda t: "{% macro unused(x) %}{{ x * 2 }}{% endmacro %}" + t,
    lambda t: "{% for _ in range(1) %}" + t + "{% endfor %}",
    lambda t: "{% set whole %}" + t + "{% endset %}{{ whole }}",
    lambda t: "{% generation %}" + t + "{% endgeneration %}",
    lambda t: t.replace("m.content", "(m['content'] | string ~ '')"),
]


def as_transformers(tokenizer, messages, **options):
    dated = chat.dated(tokenizer.chat_template)
    return tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, chat_template=dated, **options
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_familys_template_writes_what_transformers_writes_however_it_is_put(family, tally):
    tokenizer = tokenizer_of(family)
    switches = [{}, *({name: on} for name in chat.SWITCHES for on in (True, False))]
    for messages in CONVERSATIONS:
        for begin in (True, False):
            for switch in switches:
                options = {"add_generation_prompt": begin, **switch}
                assert apply_template(tokenizer, messages, **options) == as_transformers(
                    tokenizer, messages, **options
                )
    expected = [chat.prompt_ids(tokenizer, messages) for messages in CONVERSATIONS]
    for number, change in enumerate(HARMLESS):
        tokenizer.chat_template = change(family.template)

        def written():
            return [chat.prompt_ids(tokenizer, messages) for messages in CONVERSATIONS]

        tally.must_accept(f"{family.name}, {number}", written, expected)


def changed(template: str, rng: random.Random) -> str:
    """Characters left out, doubled or exchanged, and pieces moved, once to three times."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(template))
        end = min(len(template), start + rng.randint(1, 12))
        piece = template[start:end]
        other = rng.choice(["", piece * 2, piece[::-1], "{{", "%}", "'", "|", "messages", "(", "0"])
        template = template[:start] + other + template[end:]
    return template


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_damaged_template_is_refused_or_writes_what_transformers_writes(family, tally):
    tokenizer, rng = tokenizer_of(family), random.Random(f"{SEED}, {family.name}")
    for number in range(12):
        tokenizer.chat_template = changed(family.template, rng)
        tally.refuse_or(
            f"{family.name}, {number}",
            lambda: chat.prompt_ids(tokenizer, TALK),
            lambda ids: ids == as_transformers(tokenizer, TALK, add_generation_prompt=True),
        )


def test_the_error_names_the_file(tmp_path):
    build(template="{{ 1 / 0 }}").save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(
        MismatchError, match=r"\(chat_template\.jinja\): its chat template fails"
    ) as e:
        chat.prompt_ids(tokenizer, "hi")
    assert str(tmp_path) in str(e.value) and "ZeroDivisionError: division by zero" in str(e.value)


def test_every_way_to_a_template_is_bounded():
    tokenizer = build(template=HOSTILE["loops in loops"])
    for action in (
        lambda: chat.prompt_text(tokenizer, TALK),
        lambda: chat.stop_ids(tokenizer, None),
        lambda: chat.user_turn(tokenizer),
        lambda: chat.end_of_turn(tokenizer, [1]),
        lambda: chat.prompt_ids(tokenizer, "hi", enable_thinking=True),
    ):
        with pytest.raises(DistillError):
            action()
    assert chat.template_marks("hi", tokenizer) is None


def test_a_template_that_writes_much_after_an_answer_has_no_end_of_turn():
    tokenizer = build(template="{{ messages[-1].content }}" + "x" * 100_000)
    started = time.thread_time()
    assert chat.stop_ids(tokenizer, None) == [tokenizer.eos_token_id]
    with pytest.raises(MismatchError, match="magpie"):
        chat.user_turn(tokenizer)
    assert time.thread_time() - started < 2


def test_a_clock_gives_the_date_of_training_however_it_is_asked():
    for template in (
        "{{ strftime_now('%d %b %Y') }}",
        "{% set f = '%d %b %Y' %}{{ strftime_now(f) }}",
    ):
        assert chat.prompt_text(build(template=template), TALK) == "01 Jan 2026"


def test_the_time_that_a_rendering_takes_is_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "MOST_SECONDS", 0.0)
    tokenizer = build(template="{% for i in range(99999) %}{% endfor %}" + CHATML)
    with pytest.raises(MismatchError, match="goes on after 0 seconds"):
        chat.prompt_ids(tokenizer, "hi")


def test_a_long_conversation_is_rendered(tally):
    tokenizer = tokenizer_of(FAMILIES[1])
    messages = (TALK[:2] * 200) + TALK[:1]
    messages[0] = {"role": "user", "content": "long " * 10_000}
    options = {"add_generation_prompt": True}
    tally.must_accept(
        "401 turns",
        lambda: chat.prompt_ids(tokenizer, messages),
        as_transformers(tokenizer, messages, **options),
    )
