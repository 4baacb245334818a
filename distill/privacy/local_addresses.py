"""Which addresses are of this machine or its own network: what `privacy: local` may ask."""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_local(address: IPAddress) -> bool:
    """Return whether it is loopback, private (RFC 1918, 4193), link-local, or shared (RFC 6598)."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return is_local(mapped)
    return not (address.is_global or address.is_multicast)


def addresses_of(host: str) -> list[IPAddress]:
    """Return the addresses that a name stands for here, or the one that it is.

    Raises OSError where the name stands for none.
    """
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ipaddress.ip_address(text) for text in texts]


def foreign(addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """Return those of the addresses that are not local."""
    return [address for address in addresses if not is_local(address)]


def problem_of(url: str) -> str | None:
    """Return why the host of an address is not local; None where it is, or stands for nothing here.

    A name is asked of this machine's resolver.
    """
    host = urlsplit(url).hostname or ""
    try:
        outside = foreign(addresses_of(host))
    except OSError:
        return None
    return f"{host} is {outside[0]}, a public address" if outside else None
