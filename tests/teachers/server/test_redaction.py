"""What a server is sent under `privacy: redact` and `local`, byte for byte."""

import json
import random

import phonenumbers
import pytest
from raw_server_helpers import (
    ExactServer,
    RawServer,
    answering,
    http,
    quickstart_tokenizer,
    teacher_on,
)
from recipe_helpers import problem
from server_helpers import said

from distill.data.samples import Prompt
from distill.errors import ServerError
from distill.privacy.countries import countries_of
from distill.teachers.keys import request_maker
from distill.teachers.requests import AnswerJob, Block, RequestOptions
from distill.teachers.server import exchange

LANGUAGES = ("en", "sw", "hi", "zh")
NUM_PLANTED = 500


@pytest.fixture
def server():
    server = RawServer()
    yield server
    server.stop()


def planted(number: int) -> str:
    """An e-mail address, or a telephone, card or identity number."""
    draw = random.Random(number)
    kind = number % 4
    if kind == 0:
        return f"user{number}.{draw.choice('abc')}@mail{draw.randrange(99)}.example.org"
    if kind == 1:
        country = draw.choice(countries_of(LANGUAGES))
        example = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
        return phonenumbers.format_number(example, draw.choice([0, 1, 2]))
    body = (
        f"4{draw.randrange(10**14):014d}"
        if kind == 2
        else f"{draw.randrange(2, 10)}{draw.randrange(10**10):010d}"
    )
    from stdnum import luhn, verhoeff

    return body + (luhn if kind == 2 else verhoeff).calc_check_digit(body)


def conversations() -> list[Prompt]:
    strings = [planted(number) for number in range(NUM_PLANTED)]
    wordings = ("Write to {} today.", "Andika kwa {} leo.", "{} को लिखो", "请联系 {} 谢谢")
    return [
        Prompt(
            ({"role": "user", "content": f"{i}: " + wordings[i % 4].format(string)},),
            LANGUAGES[i % 4],
        )
        for i, string in enumerate(strings)
    ]


def answers(teacher, prompts):
    options = RequestOptions.of(teacher.recipe)
    make = request_maker(teacher, options)
    requests = [make(prompt, 0) for prompt in prompts]
    found = {}
    teacher.answer(
        AnswerJob(
            iter([Block(requests)]),
            options,
            {},
            lambda request, completion: found.__setitem__(request.prompt.id, completion),
            lambda text: None,
        )
    )
    return [found[prompt.id] for prompt in prompts]


def echo(number, body):
    """Say what the user said."""
    return http(said("I shall: " + body["messages"][-1]["content"]))


def echo_of_ids(tokenizer):
    def reply(number, body):
        if body["n_predict"] < 10:  # it is being found out
            return http(ExactServer(tokenizer).exact())
        text = tokenizer.decode(body["prompt"], skip_special_tokens=True)
        return http(ExactServer(tokenizer).exact("I shall: " + text))

    return reply


@pytest.mark.parametrize("gives", ["text", "ids"])
def test_not_one_of_500_planted_strings_leaves_and_all_come_back(server, tmp_path, gives):
    tokenizer = quickstart_tokenizer()
    exact = echo_of_ids(tokenizer) if gives == "ids" else None
    server.send = answering(exact=exact, chat=echo)
    teacher = teacher_on(
        server.url,
        "privacy=redact",
        f"languages=[{','.join(LANGUAGES)}]",
        "generate.concurrency=8",
        "generate.max_new_tokens=400",
        folder=tmp_path,
    )
    prompts = conversations()
    completions = answers(teacher, prompts)
    sent = json.dumps([body for _, body in server.asked], ensure_ascii=False)
    sent += " ".join(
        tokenizer.decode(body["prompt"]) for _, body in server.asked if "prompt" in body
    )
    for number, completion in enumerate(completions):
        string = planted(number)
        assert string not in sent and "".join(string.split()) not in sent, (number, string)
        assert string in completion.text, (string, completion.text)
        assert string in tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_without_it_they_are_sent(server, tmp_path):
    server.send = answering(chat=echo)
    teacher = teacher_on(server.url, folder=tmp_path)
    answers(teacher, conversations()[:8])
    sent = json.dumps([body for _, body in server.asked], ensure_ascii=False)
    assert all(planted(number) in sent for number in range(8))


def test_log_probs_of_a_placeholder_are_not_taken_for_those_of_what_it_stands_for(server, tmp_path):
    tokenizer = quickstart_tokenizer()
    server.send = answering(exact=echo_of_ids(tokenizer))
    teacher = teacher_on(
        server.url,
        "privacy=redact",
        "generate.max_new_tokens=200",
        folder=tmp_path,
        from_server=True,
    )
    plain = Prompt(({"role": "user", "content": "3 + 4?"},), "en")
    redacted, exact = answers(teacher, [conversations()[0], plain])
    assert redacted.log_probs == [None] * len(redacted.token_ids)
    assert sum(entry is not None for entry in exact.log_probs) == len(exact.token_ids) - 1


def test_local_sends_not_one_byte_to_a_public_address(tmp_path, monkeypatch):
    """Whatever the name stands for: the address is looked up, and judged, for every request."""
    monkeypatch.setattr(exchange, "addresses_of", lambda host: _addresses("93.184.216.34"))
    teacher = teacher_on("http://teacher.internal:9", "privacy=local", folder=tmp_path)
    with pytest.raises(ServerError, match=r"93\.184\.216\.34, a public address: nothing was sent"):
        answers(teacher, conversations()[:2])


def test_local_goes_round_a_proxy_of_the_environment(server, tmp_path, monkeypatch):
    """A proxy would be asked in the server's place, and stand anywhere."""
    proxy = RawServer()
    try:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        server.send = answering(chat=echo)
        teacher = teacher_on(server.url, "privacy=local", folder=tmp_path)
        answers(teacher, conversations()[:4])
        assert not proxy.asked and len(server.asked) >= 4
    finally:
        proxy.stop()


def test_local_and_a_tracker_elsewhere_do_not_go_together():
    assert "wandb sends to wandb.ai, with privacy: local" in problem(
        "privacy=local", "train.tracker=wandb"
    )


def _addresses(text):
    import ipaddress

    return [ipaddress.ip_address(text)]
