"""Names that a server answers to, so that a web page cannot reach it under a name of its own (DNS rebinding)."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

ANY = "*"
"""Stands for every name."""


@dataclass(frozen=True)
class Hosts:
    """The names of a server, beside those of this machine's loopback."""

    names: tuple[str, ...] = ()

    def admit(self, header: str, address: str) -> bool:
        """Whether a request was meant for this server.

        Args:
            header: Its `Host`, with or without a port.
            address: Where it arrived. A page is told by its name, so that a bare address cannot be rebound.
        """
        name = name_of(header)
        if ANY in self.names or is_loopback(name):
            return True
        return bool(name) and (name in map(name_of, self.names) or name == _plain(address))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_of(header: str) -> str:
    """The name or address in a `Host`, without its port, in lower case."""
    host = header.strip().lower()
    if host.startswith("["):
        return _plain(host[1:].partition("]")[0])
    if host.count(":") > 1:  # an address of IPv6 without its brackets
        return _plain(host)
    return _plain(host.partition(":")[0].removesuffix("."))


def listed(texts: Sequence[str]) -> tuple[str, ...]:
    """The names in the values of an option, each of which may hold several with commas between them."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def _plain(address: str) -> str:
    """One spelling for each address; a name as it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
