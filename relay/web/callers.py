"""Who calls: the address of the last hop that nobody we trust has vouched for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?\Z|(\d+(?:\.\d+){3}):\d+\Z")


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks, as the settings have them."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def caller(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """The address that a request comes from, normalised; what is no address is returned as it is.

    Each proxy adds on the right whom it heard the request from. So the list is walked from there, for as long as
    the one who speaks is trusted: what lies further left anybody can have written.

    Args:
        peer: the other end of the connection.
        forwarded: X-Forwarded-For, several of them joined with commas; may be empty.
        trusted: proxies that are believed.
    """
    hops = [hop.strip() for hop in forwarded.split(",")] if forwarded.strip() else []
    address = normal(peer)
    while hops and within(address, trusted):
        address = normal(hops.pop())
    return address


def normal(text: str) -> str:
    """An address without a port, an IPv4 one never in IPv6's clothes."""
    ported = _PORT.match(text)
    bare = (ported[1] or ported[2]) if ported else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def within(text: str, trusted: Sequence[Network]) -> bool:
    """Whether a normalised address is one of those that are trusted; what is no address never is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in trusted)
