"""Check addresses of servers and names of environment variables, without repeating what may be a secret."""

import re
from urllib.parse import urlsplit


def is_url(text: str) -> bool:
    """Whether this is an http(s) address with a host, and with a port that there can be."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and not re.search(r"\s", text)
            and parts.port != 0
        )
    except ValueError:  # a port that is no number or beyond 65535, half an IPv6 address
        return False


def address_problem(text: str) -> str | None:
    """What is wrong with a server's address, if anything. What may be a secret in it is not repeated: errors are shown and logged."""
    if "@" in text.split("://")[-1].partition("/")[0]:
        return (
            "the address holds a user name or a password: take out all from :// to @. A key belongs in an environment variable, and its "
            "name in the recipe (api_key_env)"
        )
    if "?" in text or "#" in text:
        return (
            "the address has a query: take out all from the ? or # on. A key belongs in an environment variable, and its name in the "
            "recipe (api_key_env)"
        )
    return None if is_url(text) else f"{text!r} is not a URL: write http://host:port"


def is_variable(name: str) -> bool:
    """Whether an environment variable may be called so: what is not may well be a key itself."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) is not None


NO_VARIABLE = (
    "this is no name of an environment variable (letters, digits and _, at most 100; it is not shown, for it may be the key itself): put "
    "the key into a variable, e.g. SERVER_KEY, and write that name here"
)
