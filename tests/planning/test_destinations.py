"""What `plan` says of what leaves this machine."""

import sys

import pytest
from run_helpers import QUICKSTART

from distill.catalog.servers import known_servers
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.errors import RecipeError
from distill.models.find import keep_off_the_hub
from distill.planning.destinations import check_destinations, text_of_destinations
from distill.recipe import load_recipe


def text(*overrides, prompts=None):
    recipe = load_recipe(QUICKSTART, list(overrides))
    asked = prompts or split_prompts(recipe)[0]
    return "\n".join(text_of_destinations(recipe, asked, []))


def test_a_teacher_on_this_machine_sends_nothing_anywhere():
    assert text() == "leaves this machine: no prompt and no answer (no server is asked)"


def test_where_a_known_server_keeps_things_is_said_with_source_and_day():
    said = text("teacher.server=https://api.deepseek.com")
    assert "to api.deepseek.com: DeepSeek (China), kept in China (secondary, 2026-" in said
    assert "4,000 conversations" in said or "conversations" in said


def test_an_unknown_server_is_called_unknown():
    assert "is not known to distill" in text("teacher.server=https://no-such-host.invalid")


def test_a_server_of_this_machine_is_told_from_others():
    assert "127.0.0.1: this machine or its own network" in text("teacher.server=http://127.0.0.1:1")


def test_what_safety_asks_and_has_judged_is_told():
    server, asked = "teacher.server=http://127.0.0.1:1", "the 1,400 requests of evaluate.safety"
    judged = "and the student's answers to the requests of evaluate.safety"
    assert asked not in text(server)
    assert asked in text(server, "evaluate.safety={}") and judged not in text(
        server, "evaluate.safety={}"
    )
    judge = "evaluate.safety={judge: true}"
    assert judged in text(server, judge)
    own = (
        "generate.judge_server=http://127.0.0.2:1",
        "generate.judge_model=m",
        "generate.judge_min_score=4",
    )
    (of_judge,) = [line for line in text(server, judge, *own).splitlines() if judged in line]
    assert "127.0.0.2" in of_judge


@pytest.mark.parametrize(
    ("privacy", "becomes"), [("open", "sent as it is"), ("redact", "replaced before sending")]
)
def test_personal_data_in_the_prompts_is_counted_by_kind(privacy, becomes):
    prompts = [
        Prompt(({"role": "user", "content": content},), "en")
        for content in ("Write to a@b.co or c@d.co", "Call +254 722 123456", "3 + 4?")
    ]
    said = text("teacher.server=https://api.deepseek.com", f"privacy={privacy}", prompts=prompts)
    assert "in 2 prompts (all were read): 2 e-mail addresses, 1 telephone numbers" in said
    assert becomes in said


def test_a_public_server_is_refused_before_anything_is_sent():
    recipe = load_recipe(QUICKSTART, ["teacher.server=https://8.8.8.8", "privacy=local"])
    with pytest.raises(RecipeError, match=r"teacher\.server: 8\.8\.8\.8 is 8\.8\.8\.8, a public"):
        check_destinations(recipe)
    check_destinations(
        load_recipe(QUICKSTART, ["teacher.server=http://127.0.0.1:1", "privacy=local"])
    )


def test_every_row_of_the_catalogue_is_whole():
    servers = known_servers()
    assert len(servers.by_host) >= 18
    for row in servers.by_host.values():
        assert row.checked != "verified" or row.source != "none"


def test_local_asks_no_hub(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            monkeypatch.setattr(f"{name}.HF_HUB_OFFLINE", False)
    keep_off_the_hub()
    assert huggingface_hub.constants.is_offline_mode()
