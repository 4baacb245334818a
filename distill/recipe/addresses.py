"""Check addresses of servers and names of environment variables; repeat no secret."""

import re
from urllib.parse import urlsplit

from distill.errors import shown

NO_VARIABLE = (
    "this is no name of an environment variable (letters, digits and _, at most 100; it is not "
    "shown, for it may be the key itself): put the key into a variable, e.g. SERVER_KEY, and write "
    "that name here"
)


def is_url(text: str) -> bool:
    """Return whether this is an http(s) address with a host, and with a port that there can be."""
    try:
        parts = urlsplit(text)
        has_port_0 = parts.port == 0
    except ValueError:  # a port that is no number or beyond 65535, half an IPv6 address
        return False
    is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    return is_http and not has_port_0 and re.search(r"\s", text) is None


def address_problem(text: str) -> str | None:
    """Return what is wrong with a server's address, or None.

    What may be a secret in it is not repeated: errors are shown and logged.
    """
    if "@" in text.split("://")[-1].partition("/")[0]:
        return (
            "the address holds a user name or a password: take out all from :// to @. A key "
            "belongs in an environment variable, and its name in the recipe (api_key_env)"
        )
    if "?" in text or "#" in text:
        return (
            "the address has a query: take out all from the ? or # on. A key belongs in an "
            "environment variable, and its name in the recipe (api_key_env)"
        )
    return None if is_url(text) else f"{shown(text)} is not a URL: write http://host:port"


def is_variable(name: str) -> bool:
    """Return whether an environment variable may be called so.

    What is no such name may well be a key itself.
    """
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) is not None
