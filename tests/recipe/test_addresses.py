"""Addresses of servers."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "http://",
        "http://h:99999",
        "http://h:abc",
        "http://[::1",
        "http://a b",
        "ftp://h",
    ],
)
def test_an_address_that_is_none_is_refused(address):
    assert "is not a URL: write http://host:port" in problem(f"teacher.server={address}")
    assert "is not a URL" in problem(
        f"generate.judge_server={address}", "generate.judge_model=m", "generate.judge_min_score=4"
    )
    load_recipe(QUICKSTART, ["teacher.server=https://[::1]:8000/v1"])
