"""Read servers.yaml, the file beside this one: hosted APIs, who runs them, where they keep things."""

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from distill.catalog.facts import Checked, Row, Texts, checked_row, read_yaml
from distill.errors import DataError

SERVERS = Path(__file__).with_name("servers.yaml")


class HostedServer(Row):
    """A hosted API. What the fields mean is explained at the top of the file."""

    hosts: Texts
    operator: str
    kept_in: str | None
    source: str
    checked: Checked
    passes_on: bool = False


class ServersFile(Row):
    """servers.yaml: the rows are checked one by one, so that an error names the row."""

    as_of: date
    servers: list[dict[str, Any]]


@dataclass(frozen=True)
class KnownServers:
    """The rows by host, and the day on which they were checked."""

    as_of: date
    by_host: dict[str, HostedServer]


@cache
def known_servers() -> KnownServers:
    """Return the file. Raises DataError for a row that is none, and for a host that is there twice."""
    content = checked_row(ServersFile, read_yaml(SERVERS), str(SERVERS))
    by_host: dict[str, HostedServer] = {}
    for values in content.servers:
        row = checked_row(HostedServer, values, f"{SERVERS}: {values.get('hosts')}")
        for host in row.hosts:
            if host in by_host:
                raise DataError(f"{SERVERS}: {host} is there twice")
            by_host[host] = row
    return KnownServers(content.as_of, by_host)
