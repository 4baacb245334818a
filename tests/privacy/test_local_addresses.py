"""Which addresses are of this machine or its own network."""

import ipaddress

import pytest

from distill.privacy.local_addresses import addresses_of, is_local, problem_of

LOCAL = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.9",
    "192.168.1.7",
    "169.254.1.1",
    "100.64.0.1",
    "0.0.0.0",
]
LOCAL_6 = ["::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"]
PUBLIC = [
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "224.0.0.1",
]


@pytest.mark.parametrize("address", [*LOCAL, *LOCAL_6])
def test_private_addresses_are_local(address):
    assert is_local(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not(address):
    assert not is_local(ipaddress.ip_address(address))


def test_a_url_is_judged_by_where_its_host_is():
    assert problem_of("http://localhost:8000") is None
    assert problem_of("http://[::1]:8000/v1") is None
    assert problem_of("https://8.8.8.8/v1") == "8.8.8.8 is 8.8.8.8, a public address"
    assert (
        problem_of("http://no-such-host.invalid") is None
    )  # it stands for nothing: nothing is sent


def test_a_name_stands_for_its_addresses():
    assert ipaddress.ip_address("127.0.0.1") in addresses_of("localhost")
    with pytest.raises(OSError, match=r".*"):
        addresses_of("no-such-host.invalid")
