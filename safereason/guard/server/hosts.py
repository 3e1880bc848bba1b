"""Host names that a server answers to, so that a web page cannot reach it under a name of its own (DNS rebinding)."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

ANY = "*"
"""Name that allows every host name."""


@dataclass(frozen=True)
class Hosts:
    """The allowed host names of a server. Loopback names and addresses are always allowed."""

    names: tuple[str, ...] = ()

    def admit(self, header: str, address: str) -> bool:
        """Whether a request was meant for this server.

        Args:
            header: The request's `Host`, with or without a port.
            address: The address at which the request arrived. It is allowed too: a page is known by its name, so a
                bare address cannot be rebound.
        """
        name = host_name(header)
        if ANY in self.names or is_loopback(name):
            return True
        if not name:
            return False
        return name in map(host_name, self.names) or name == _normalized(address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """The name or address in a `Host` header, without its port and in lower case."""
    host = header.strip().lower()
    if host.startswith("["):
        return _normalized(host[1:].partition("]")[0])
    if host.count(":") > 1:  # an address of IPv6 without its brackets
        return _normalized(host)
    # `example.org.`, with the dot of the root, is the same name.
    return _normalized(host.partition(":")[0].removesuffix("."))


def listed(texts: Sequence[str]) -> tuple[str, ...]:
    """The names in the values of a repeatable option. Each value may hold several names, separated by commas."""
    names: list[str] = []
    for text in texts:
        names += [name.strip() for name in text.split(",") if name.strip()]
    return tuple(names)


def _normalized(address: str) -> str:
    """One spelling for each address; a name stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    # A socket for both protocols reports IPv4 callers as `::ffff:192.0.2.1`.
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
